//! The packages of a release, installed in a Debian system that has nothing else.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use zcnic_testbed::{
    provision::{
        archive::{Archive, BACKPORTS, MIRROR, RELEASE},
        host,
        linux::debian::{self, SERIES},
    },
    setup::Setup,
    step::{run, step},
};

use crate::package::{self, Made};

use super::test::{Run, Test, expect};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "package: the Debian packages install in a clean root, and dkms builds the driver there",
        run: Run::Host(debian_packages),
    },
    Test {
        name: "package: an archive is the same each time, and works where it is unpacked",
        run: Run::Host(archive),
    },
];

/// What runs in the clean root, with the version and the kernel as arguments. `set -x` shows the
/// command that failed.
const CHECKS: &str = r#"
set -ex
version=$1 release=$2
cd /
for program in zcnic zcnicctl zcnic-lab; do
    test "$($program --version)" = "$program $version"
    test -s /usr/share/bash-completion/completions/$program
    test -s /usr/share/zsh/vendor-completions/_$program
    test -s /usr/share/fish/vendor_completions.d/$program.fish
    test -s /usr/share/man/man1/$program.1.gz
done
test "$(/usr/lib/zcnic/zcnic-guest --version)" = "zcnic-guest $version"
test -s /usr/share/man/man1/zcnicctl-fault-add.1.gz
test -s /usr/share/man/man1/zcnic-lab-vm.1.gz
zcnic-lab --help | grep -q kselftest
zcnic-lab scenario --list | grep -q .
zcnic qemu-args --port path=/run/a | grep -q vhost-user
test -x /usr/sbin/zcnic-bind
udevadm verify /usr/lib/udev/rules.d/60-zcnic.rules
modprobe --showconfig | grep -q '^softdep virtio_net pre: zcnic'
dkms status | grep "^zcnic/.*, $release, .*: installed"
modinfo "/lib/modules/$release/updates/dkms/"zcnic.ko* | grep '^alias:.*virtio'
apt-get remove --yes zcnic zcnic-dkms
test -z "$(dkms status)"
test ! -e /usr/bin/zcnic -a ! -e /usr/share/zcnic
echo every check passed
"#;

fn debian_packages(setup: &Setup) -> Result<()> {
    let room = tempfile::tempdir()?;
    let made = package::make(room.path())?;
    let headers = debian::headers(&setup.cache, SERIES[SERIES.len() - 1])?;
    let archive = Archive::open(&setup.cache)?;
    let checks = room.path().join("checks");
    fs::write(&checks, CHECKS)?;

    let keyring = archive.keyring();
    let source = |suite| {
        let keyring = keyring.display();
        format!("deb [signed-by={keyring}] {MIRROR} {suite} main")
    };
    let inside = |script: &str| format!(r#"--customize-hook=chroot "$1" {script}"#);
    let name = |deb: &Path| deb.file_name().unwrap_or_default().to_owned();
    let copy = |files: &[&PathBuf]| {
        let quoted = files.iter().map(|file| format!("'{}'", file.display()));
        let quoted: Vec<_> = quoted.collect();
        format!("--customize-hook=copy-in {} /tmp", quoted.join(" "))
    };
    let debs = [&made.zcnic, &made.dkms];
    let [zcnic, dkms] = debs.map(|deb| name(deb));
    let install = format!(
        "apt-get install --yes /tmp/{} /tmp/{}",
        zcnic.display(),
        dkms.display()
    );
    let mode = if host::is_root() { "root" } else { "unshare" };
    let mut mmdebstrap = host::command("mmdebstrap");
    mmdebstrap
        .arg(format!("--mode={mode}"))
        .args(["--variant=minbase", "--architectures=amd64"])
        .args([
            r#"--aptopt=APT::Sandbox::User "root""#,
            "--aptopt=Acquire::Languages none",
            "--aptopt=Acquire::Retries 3",
        ])
        .arg(format!(
            "--include=dkms,udev,linux-headers-{}",
            headers.release
        ))
        .arg(copy(&[debs[0], debs[1], &checks]))
        .arg(inside(&install))
        .arg(inside(&format!(
            "sh /tmp/checks '{}' {}",
            made.version, headers.release
        )))
        .args(["--format=null", RELEASE, "/dev/null"])
        .args([RELEASE, BACKPORTS].map(source));
    step("install the packages in a clean root", || {
        run(&mut mmdebstrap).map(drop)
    })
}

fn archive(_: &Setup) -> Result<()> {
    let room = tempfile::tempdir()?;
    let make = |name: &str| {
        let directory = room.path().join(name);
        fs::create_dir(&directory)?;
        package::make(&directory)
    };
    let (made, again) = (make("first")?, make("second")?);
    let files = |made: &Made| [&made.zcnic, &made.dkms, &made.archive].map(fs::read);
    for (first, second) in files(&made).into_iter().zip(files(&again)) {
        expect(first? == second?, || {
            "two runs made different files".to_owned()
        })?;
    }

    let elsewhere = room.path().join("elsewhere");
    fs::create_dir(&elsewhere)?;
    let mut tar = host::command("tar");
    tar.arg("-C").arg(&elsewhere).arg("-xf").arg(&made.archive);
    run(&mut tar)?;
    let top = fs::read_dir(&elsewhere)?.next();
    let top = top.context("the archive is empty")??.path();
    let lab = || {
        let mut lab = Command::new(top.join("bin/zcnic-lab"));
        lab.current_dir("/");
        lab
    };
    let version = run(lab().arg("--version"))?;
    expect(version == format!("zcnic-lab {}\n", made.version), || {
        format!("{version:?} does not name {}", made.version)
    })?;
    // Its own program lists them: neither a checkout nor cargo is used.
    let mut list = lab();
    list.args(["scenario", "--list"])
        .env("PATH", "/usr/bin:/bin");
    let scenarios = run(list.env_remove("CARGO"))?;
    expect(!scenarios.is_empty(), || "no scenario is listed".to_owned())
}
