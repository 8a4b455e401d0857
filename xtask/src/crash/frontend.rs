//! The level of frontends: the tests `crash_matrix` of the backend, with more seeds and points.

use std::{ops::Range, process::Command};

use anyhow::{Context, Result, bail};
use zcnic_testbed::{
    paths,
    step::{run as run_command, step},
};

use super::tally::{Tally, Trial};

/// The level's name, in front of the points'.
const LEVEL: &str = "frontend/";

fn tests(words: &[&str]) -> Command {
    let mut command = paths::cargo();
    command.args([
        "test",
        "--quiet",
        "-p",
        "zcnic-backend",
        "--test",
        "crash_matrix",
        "--",
    ]);
    command.args(words);
    command
}

/// The points whose names contain `filter`.
pub(super) fn points(filter: &str) -> Result<Vec<String>> {
    // Their names are those of tests, which have to be built.
    if filter.starts_with("guest/") {
        return Ok(Vec::new());
    }
    let mut command = tests(&["--list"]);
    command.env("ZCNIC_CRASH_POINTS", "all");
    let list = step("build the frontends", || run_command(&mut command))?;
    let points = list.lines().filter_map(|line| line.strip_suffix(": test"));
    let points = points.map(|name| format!("{LEVEL}{name}"));
    Ok(points.filter(|name| name.contains(filter)).collect())
}

/// Tries points with all seeds, several at a time because a pause takes seconds, and adds each
/// trial.
pub(super) fn run(points: &[String], seeds: &Range<u64>, tally: &mut Tally) -> Result<()> {
    let report = tempfile::NamedTempFile::new()?;
    let names: Vec<_> = points
        .iter()
        .filter_map(|point| point.strip_prefix(LEVEL))
        .collect();
    let mut command = tests(&["--test-threads", "4"]);
    command
        .env("ZCNIC_CRASH_POINTS", names.join(","))
        .env("ZCNIC_CRASH_SEED", seeds.start.to_string())
        .env("ZCNIC_CRASH_SEEDS", (seeds.end - seeds.start).to_string())
        .env("ZCNIC_CRASH_REPORT", report.path())
        .env("RUST_BACKTRACE", "0");
    let what = format!(
        "strike frontends, backends and clients at {} points",
        names.len()
    );
    // A point that did not recover is a failed test, whose trial the report has.
    let ended = step(&what, || command.output().context("cannot run cargo test"))?;
    let lines = std::fs::read_to_string(report.path())?;
    for line in lines.lines() {
        let trial: Trial = serde_json::from_str(line)?;
        let point = format!("{LEVEL}{}", trial.point);
        tally.add(Trial { point, ..trial });
    }
    if lines.is_empty() {
        bail!(
            "no point was tried: {}",
            String::from_utf8_lossy(&ended.stderr)
        );
    }
    Ok(())
}
