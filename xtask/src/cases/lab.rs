//! Several guests on one backend, and a guest that dies: its last words, its logs.

use std::{fs, path::Path, process::Stdio};

use anyhow::{Context, Result};
use zcnic_testbed::{
    paths,
    setup::Setup,
    step::{describe, output},
};

use super::test::{Run::Host, Test, expect};

pub(super) const TESTS: &[Test] = &[Test {
    name: "lab: two guests on one cable, and the report of the one that panics",
    run: Host(panics),
}];

/// Runs in the first guest: it reaches the second, has the asked-for processors, queues and MTU,
/// and panics.
const SCRIPT: &str = "set -e
    ping -c 3 -W 10 192.0.2.2
    test $(nproc) = 2
    test $(cat /sys/class/net/eth0/mtu) = 4000
    ethtool -l eth0 | grep -q 'Combined:.*3'
    echo c > /proc/sysrq-trigger";

fn panics(setup: &Setup) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let artifacts = directory.path().join("artifacts");
    let mut vm = paths::this_program();
    vm.arg("vm")
        .args(setup.arguments())
        .args([
            "--guests=2",
            "--cpus=2",
            "--memory=1G",
            "--queues=3",
            "--mtu=4000",
        ])
        // The kernel stays after its panic, and the guest ends nevertheless.
        .args(["--append=panic=0", "--timeout=120", "--artifacts"])
        .arg(&artifacts)
        .args(["--", "bash", "-c", SCRIPT])
        .stdin(Stdio::null());
    let ended = output(&mut vm)?;
    let stderr = String::from_utf8_lossy(&ended.stderr);
    let stdout = String::from_utf8_lossy(&ended.stdout);
    let what = || format!("`{}` prints\n{stdout}{stderr}", describe(&vm));
    expect(!ended.status.success(), what)?;
    expect(stdout.contains(" 0% packet loss"), what)?;
    let logs = artifacts.canonicalize()?;
    for words in [
        "Kernel panic - not syncing: sysrq triggered crash",
        "RIP: ",
        "Call Trace:",
        &format!("logs of this guest: {}/guest-1 (", logs.display()),
    ] {
        expect(stderr.contains(words), || {
            format!("no {words:?}: {}", what())
        })?;
    }
    for (file, words) in [
        ("guest-1/console.log", "Linux version"),
        ("guest-1/kernel-report.txt", "sysrq triggered crash"),
        ("guest-1/commands.sh", "-append 'console=ttyS0 panic=-1"),
        ("guest-1/zcnic.log", ""),
        ("guest-2/console.log", "Linux version"),
    ] {
        let text = read(&logs, file)?;
        expect(text.contains(words), || {
            format!("{file} has no {words:?}:\n{text}")
        })?;
    }
    expect(!logs.join("guest-2/kernel-report.txt").exists(), || {
        "the second guest has a report, too".to_owned()
    })
}

fn read(logs: &Path, file: &str) -> Result<String> {
    let path = logs.join(file);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}
