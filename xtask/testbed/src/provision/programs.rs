//! The programs that guests are tested with, on either side.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use anyhow::Result;

use crate::{
    paths,
    step::{run, step},
};

/// The built programs.
#[derive(Clone, Debug)]
pub struct Built {
    /// The backend.
    pub zcnic: PathBuf,
    /// The client of its control socket, for host and guest.
    pub zcnicctl: PathBuf,
    /// The guest's init, agent and test program.
    pub zcnic_guest: PathBuf,
}

/// Returns the programs, which the first call builds: host and guest then have the same ones, whatever
/// is edited meanwhile.
///
/// # Errors
///
/// They do not compile.
pub fn build() -> Result<Built> {
    static BUILT: Mutex<Option<Built>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(built) = &*built {
        return Ok(built.clone());
    }
    Ok(built.insert(compile()?).clone())
}

/// Builds them, all at once: what they have in common is compiled once. They are static, because the
/// host's C library may be newer or older than the guest's.
fn compile() -> Result<Built> {
    let target = paths::target().join("guest");
    // Naming the target keeps the flags away from build scripts and macros.
    let triple = "x86_64-unknown-linux-gnu";
    let mut command = paths::cargo();
    command
        .args(["build", "--profile", "fast-build"])
        .args([
            "-p",
            "zcnic-guest-tests",
            "-p",
            "zcnic-ctl",
            "-p",
            "zcnic-backend",
        ])
        .args(["--bin=zcnic", "--bin=zcnicctl", "--bin=zcnic-guest"])
        .args(["--target", triple, "--target-dir"])
        .arg(&target)
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    step("build zcnic, zcnicctl and zcnic-guest", || {
        run(&mut command)
    })?;
    let program = |name| target.join(triple).join("fast-build").join(name);
    Ok(Built {
        zcnic: program("zcnic"),
        zcnicctl: program("zcnicctl"),
        zcnic_guest: program("zcnic-guest"),
    })
}
