//! The demo, and that it fails when it should.

use std::{fs, process::Command};

use anyhow::{Context, Result};
use serde_json::Value;
use zcnic_testbed::{
    guest::Guest as Machine, provision::host, setup::Setup, step::output, stream::Stream,
};

use super::test::{
    Kind::Zcnic,
    Run::{Guest, Host},
    Test, expect,
};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "demo: works with the backend and QEMU unprivileged",
        run: Guest(Zcnic, unprivileged),
    },
    Test {
        name: "demo: fails without the rule, its frames elsewhere and copied",
        run: Host(without_the_rule),
    },
    Test {
        name: "demo: fails without the split, its frames whole and copied",
        run: Host(without_the_split),
    },
];

fn unprivileged(guest: &mut Machine) -> Result<()> {
    let users = guest.users()?;
    let own = rustix::process::geteuid().as_raw();
    let wanted = |user: u32| user != 0 && (host::is_root() || user == own);
    expect(
        users.len() == 2 && users.iter().all(|&user| wanted(user)),
        || format!("QEMU and the backend run as {users:?}"),
    )?;
    let stream = Stream::default();
    let faults = stream.run(guest)?.faults(&stream);
    expect(faults.is_empty(), || faults.join("; "))
}

/// Runs the demo with `option`, sees it fail, and returns its report.
fn failed(option: &str, setup: &Setup) -> Result<Value> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("demo.json");
    let mut demo = Command::new(std::env::current_exe()?);
    demo.args(["demo", option, "--report"]).arg(&file);
    demo.args(setup.arguments());
    let ended = output(&mut demo)?;
    let said = String::from_utf8_lossy(&ended.stderr);
    expect(!ended.status.success(), || {
        format!("`demo {option}` succeeds")
    })?;
    let report = fs::read_to_string(&file)
        .with_context(|| format!("`demo {option}` reports nothing: {said}"))?;
    expect(said.contains("the demo failed"), || said.into_owned())?;
    Ok(serde_json::from_str(&report)?)
}

/// Fails unless the report's number `key` is (or is not) 0.
fn zero(report: &Value, key: &str, wanted: bool) -> Result<()> {
    let found = report[key].as_u64().map(|number| number == 0);
    expect(found == Some(wanted), || {
        format!("{key} is {}", report[key])
    })
}

fn without_the_rule(setup: &Setup) -> Result<()> {
    let report = failed("--no-rule", setup)?;
    zero(&report, "bytes_verified", false)?;
    zero(&report, "frames_elsewhere", false)?;
    zero(&report, "bytes_copied", false)?;
    zero(&report, "frames_unsplit", true)
}

fn without_the_split(setup: &Setup) -> Result<()> {
    let report = failed("--no-split", setup)?;
    zero(&report, "bytes_verified", false)?;
    zero(&report, "frames_unsplit", false)?;
    zero(&report, "bytes_copied", false)?;
    zero(&report, "frames_split", true)?;
    zero(&report, "frames_elsewhere", true)
}
