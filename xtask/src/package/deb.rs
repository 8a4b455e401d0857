//! Debian packages of trees.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use zcnic_testbed::{provision::host, step::run};

use super::{Release, write};

/// Packages that every Debian system has, and on which none may depend.
const ESSENTIAL: [&str; 3] = ["dpkg", "tar", "util-linux"];

const MAINTAINER: &str = "zcnic authors <zcnic@packages.invalid>";

/// A tree that becomes a package: its files are there, but not those of `DEBIAN`.
#[derive(Debug)]
pub(super) struct Deb<'a> {
    tree: &'a Path,
    release: &'a Release,
    file: String,
}

impl<'a> Deb<'a> {
    pub(super) fn zcnic(tree: &'a Path, release: &'a Release) -> Result<Self> {
        let mut needed: Vec<_> = host::packages()
            .filter(|package| !ESSENTIAL.contains(package))
            .collect();
        needed.sort_unstable();
        needed.dedup();
        let about = "\
Section: net
Depends: @NEEDED@
Suggests: qemu-system-x86 (>= 1:10.0), zcnic-dkms
Description: virtual NIC for zero-copy receive, with faults on demand
 zcnic is a multi-queue NIC for QEMU guests, as a vhost-user backend. It has
 header/data split, flow steering, RSS contexts, hardware GRO, XDP and AF_XDP, so
 that io_uring zero-copy receive, devmem TCP and memory providers run without
 hardware.
 .
 zcnicctl shows and controls a running backend and arms faults. zcnic-lab boots
 guests with its ports, and runs programs and the kernel's selftests in them.
";
        let about = about.replace("@NEEDED@", &needed.join(", "));
        Self::new(tree, release, "zcnic", "amd64", &about)
    }

    pub(super) fn dkms(tree: &'a Path, release: &'a Release) -> Result<Self> {
        let about = "\
Section: kernel
Depends: dkms (>= 3.0)
Recommends: linux-headers-amd64
Enhances: zcnic
Description: driver of zcnic's virtual NIC, for DKMS
 DKMS compiles the driver zcnic.ko for each installed kernel from Linux 7.2 on.
 It drives the ports of zcnic in a guest; the host needs no driver.
";
        let deb = Self::new(tree, release, "zcnic-dkms", "all", about)?;
        for (script, template) in [("postinst", "dkms.postinst"), ("prerm", "dkms.prerm")] {
            let path = tree.join("DEBIAN").join(script);
            write(&path, release.template(template)?)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(deb)
    }

    fn new(
        tree: &'a Path,
        release: &'a Release,
        name: &str,
        architecture: &str,
        about: &str,
    ) -> Result<Self> {
        let version = version(release);
        let used = run(host::command("du")
            .args(["-sk", "--apparent-size"])
            .arg(tree))?;
        let size = used
            .split_whitespace()
            .next()
            .context("du printed nothing")?;
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: {architecture}\nPriority: optional\n\
             Maintainer: {MAINTAINER}\nInstalled-Size: {size}\n{about}"
        );
        let sums = run(host::command("sh").current_dir(tree).args([
            "-c",
            "find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum",
        ]))?;
        write(&tree.join("DEBIAN/control"), control)?;
        write(&tree.join("DEBIAN/md5sums"), sums)?;
        let file = format!("{name}_{version}_{architecture}.deb");
        Ok(Self {
            tree,
            release,
            file,
        })
    }

    /// Writes the package into `directory`.
    pub(super) fn build(self, directory: &Path) -> Result<PathBuf> {
        let path = directory.join(self.file);
        let mut build = host::command("dpkg-deb");
        build
            .args(["--root-owner-group", "--build"])
            .arg(self.tree)
            .arg(&path);
        run(self.release.dated(&mut build))?;
        Ok(path)
    }
}

/// The version of the packages: that of the programs, and the packaging's.
fn version(release: &Release) -> String {
    format!("{}-1", release.version)
}

/// The packaging's changelog. What changed in zcnic is in the other one.
pub(super) fn changelog(package: &str, release: &Release) -> Result<String> {
    let at = format!("@{}", release.epoch);
    let date = run(host::command("date").env("LC_ALL", "C").args([
        "--utc",
        "--rfc-email",
        "--date",
        &at,
    ]))?;
    Ok(format!(
        "{package} ({}) unstable; urgency=medium\n\n  * Built from commit {}.\n\n -- {MAINTAINER}  {date}",
        version(release),
        release.commit
    ))
}
