//! The programs that guests are tested with, on either side.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use anyhow::Result;

use crate::{
    paths::{self, Installation},
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

/// Returns the programs: an installation has them, and in a workspace the first call builds them. Host
/// and guest then have the same ones, whatever is edited meanwhile.
///
/// # Errors
///
/// They do not compile.
pub fn build() -> Result<Built> {
    if let Some(installation) = Installation::current() {
        return Ok(Built {
            zcnic: installation.program("zcnic"),
            zcnicctl: installation.program("zcnicctl"),
            zcnic_guest: installation.helper("zcnic-guest"),
        });
    }
    static BUILT: Mutex<Option<Built>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(built) = &*built {
        return Ok(built.clone());
    }
    Ok(built.insert(compile()?).clone())
}

/// Builds the example `name` of zcnic-ctl for a guest, and returns its path.
///
/// # Errors
///
/// It does not compile.
pub fn example(name: &str) -> Result<PathBuf> {
    let what = format!("build the example {name}");
    let directory = cargo_build(&what, &["-p", "zcnic-ctl", "--example", name])?;
    Ok(directory.join("examples").join(name))
}

/// Builds them, all at once: what they have in common is compiled once.
fn compile() -> Result<Built> {
    let packages = [
        "-p",
        "zcnic-guest-tests",
        "-p",
        "zcnicctl",
        "-p",
        "zcnic-backend",
    ];
    let programs = ["--bin=zcnic", "--bin=zcnicctl", "--bin=zcnic-guest"];
    let what = "build zcnic, zcnicctl and zcnic-guest";
    let directory = cargo_build(what, &[&packages[..], &programs].concat())?;
    Ok(Built {
        zcnic: directory.join("zcnic"),
        zcnicctl: directory.join("zcnicctl"),
        zcnic_guest: directory.join("zcnic-guest"),
    })
}

/// Runs `cargo build` with a progress line, and returns the directory of the programs. They are static,
/// because the host's C library may be newer or older than the guest's.
fn cargo_build(what: &str, targets: &[&str]) -> Result<PathBuf> {
    paths::require()?;
    let target = paths::target().join("guest");
    // Naming the target keeps the flags away from build scripts and macros.
    let triple = "x86_64-unknown-linux-gnu";
    let mut command = paths::cargo();
    command
        .args(["build", "--profile", "fast-build"])
        .args(targets)
        .args(["--target", triple, "--target-dir"])
        .arg(&target)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        // Naming the commit would compile them again after each.
        .env("ZCNIC_COMMIT", "checkout");
    step(what, || run(&mut command))?;
    Ok(target.join(triple).join("fast-build"))
}
