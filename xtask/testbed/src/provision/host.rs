//! Programs that the host must have: installed by apt where we may, and named in an error
//! otherwise.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::{
    paths,
    step::{output, run, step},
};

/// Programs that provisioning and booting call, and their Debian packages.
const PROGRAMS: [(&str, &str); 11] = [
    ("apt-get", "apt"),
    ("bwrap", "bubblewrap"),
    ("depmod", "kmod"),
    ("dpkg-deb", "dpkg"),
    ("mke2fs", "e2fsprogs"),
    ("mmdebstrap", "mmdebstrap"),
    ("setpriv", "util-linux"),
    ("tar", "tar"),
    ("unshare", "util-linux"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
];

/// Debian's keys, as the host has them.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The program that provisioning needs besides without root: subordinate ids for mmdebstrap.
const UNPRIVILEGED: (&str, &str) = ("newuidmap", "uidmap");

/// Returns the Debian packages of the programs that provisioning and booting call, by anybody; some more
/// than once.
pub fn packages() -> impl Iterator<Item = &'static str> {
    let packages = PROGRAMS.iter().map(|(_, package)| *package);
    packages.chain([UNPRIVILEGED.1, "debian-archive-keyring"])
}

/// Returns whether we run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Installs missing programs that provisioning and booting call.
///
/// # Errors
///
/// If some are missing and we may not install packages; the error names the packages. Also as for
/// [`paths::require`].
pub fn require_programs() -> Result<()> {
    paths::require()?;
    let unprivileged = (!is_root()).then_some(UNPRIVILEGED);
    let mut missing: Vec<_> = PROGRAMS
        .into_iter()
        .chain(unprivileged)
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(_, package)| package)
        .collect();
    missing.sort_unstable();
    missing.dedup();
    if !Path::new(KEYRING).exists() {
        missing.push("debian-archive-keyring");
    }
    if missing.is_empty() {
        Ok(())
    } else {
        install(&missing)
    }
}

/// Installs `packages` by apt-get, or fails with one message that names them.
pub fn install(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    let Some(apt_get) = privileged_apt_get() else {
        bail!("missing on this host: {names} (as root: apt-get install {names})");
    };
    step(&format!("install {names} on the host"), || {
        let install = || {
            let mut command = apt_get();
            command
                .args(["install", "-y", "--no-install-recommends"])
                .args(packages);
            run(command.env("DEBIAN_FRONTEND", "noninteractive"))
        };
        if install().is_err() {
            // The host never ran `apt-get update`, or its lists are older than the archive.
            run(apt_get().arg("update"))?;
            install()?;
        }
        Ok(())
    })
}

/// Returns how to call apt-get as root, if we may without a password.
fn privileged_apt_get() -> Option<fn() -> Command> {
    find_program("apt-get")?;
    if is_root() {
        return Some(|| Command::new("apt-get"));
    }
    find_program("sudo")?;
    let allowed = output(Command::new("sudo").args(["-n", "true"]))
        .ok()?
        .status
        .success();
    allowed.then_some(|| {
        let mut command = Command::new("sudo");
        command.args(["-n", "apt-get"]);
        command
    })
}

/// Returns the version of `package` that apt would install on the host.
pub fn candidate(package: &str) -> Option<String> {
    let policy = run(Command::new("apt-cache").args(["policy", package])).ok()?;
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// Returns whether [`install`] may run apt-get.
pub fn may_install() -> bool {
    privileged_apt_get().is_some()
}

/// Finds the program `name` in `PATH`, `/usr/sbin` or `/sbin`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}
