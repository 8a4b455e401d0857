//! Tests of the demo: it works unprivileged, and fails without the rule or the split.

use std::fs;

use anyhow::{Context, Result};
use zcnic_testbed::{
    guest::Guest as Machine,
    paths,
    provision::host,
    setup::Setup,
    step::output,
    stream::{Stream, Streamed},
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

/// Runs the demo with `option`, expects it to fail, and returns its report.
fn failed(option: &str, setup: &Setup) -> Result<Streamed> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("demo.json");
    let mut demo = paths::this_program();
    demo.args(["demo", option, "--report"]).arg(&file);
    demo.args(setup.arguments());
    let ended = output(&mut demo)?;
    let stderr = String::from_utf8_lossy(&ended.stderr);
    expect(!ended.status.success(), || {
        format!("`demo {option}` succeeds")
    })?;
    let report = fs::read_to_string(&file)
        .with_context(|| format!("`demo {option}` wrote no report: {stderr}"))?;
    expect(stderr.contains("the demo failed"), || stderr.into_owned())?;
    Ok(serde_json::from_str(&report)?)
}

fn without_the_rule(setup: &Setup) -> Result<()> {
    let report = failed("--no-rule", setup)?;
    let as_wanted = report.bytes_verified > 0
        && report.frames_elsewhere > 0
        && report.bytes_copied.is_some_and(|bytes| bytes > 0)
        && report.frames_unsplit == 0;
    expect(as_wanted, || format!("it reports {report:?}"))
}

fn without_the_split(setup: &Setup) -> Result<()> {
    let report = failed("--no-split", setup)?;
    let as_wanted = report.bytes_verified > 0
        && report.frames_unsplit > 0
        && report.bytes_copied.is_some_and(|bytes| bytes > 0)
        && report.frames_split == 0
        && report.frames_elsewhere == 0;
    expect(as_wanted, || format!("it reports {report:?}"))
}
