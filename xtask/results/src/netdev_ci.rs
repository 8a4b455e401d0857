//! Results in the format of the netdev CI (github.com/linux-netdev/nipa, contest/remote): the
//! result file that its collector reads from an executor.

use std::{fs, path::Path, time::SystemTime};

use anyhow::{Context, Result};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::{
    program::{ProgramRun, file_name},
    report::{Case, Outcome},
};

/// The executor's name, as the collector lists it.
const EXECUTOR: &str = "zcnic";

/// A tested tree and the time of the test.
#[derive(Debug)]
pub struct BranchRun<'a> {
    /// The tree's commit or path; the collector calls it a branch.
    pub state: &'a str,
    /// When the first test began.
    pub start: SystemTime,
    /// When the last test ended.
    pub end: SystemTime,
}

/// Writes a result file to `path`.
pub fn write(path: &Path, results: &Value) -> Result<()> {
    fs::write(path, format!("{results:#}\n"))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Returns the result file of a run.
pub fn results(branch: &BranchRun<'_>, runs: &[ProgramRun]) -> Value {
    file(branch, &runs.iter().map(program).collect::<Vec<_>>())
}

/// Returns the result file of a tree that does not compile: one failed test named `build`.
pub fn build_failure(branch: &BranchRun<'_>) -> Value {
    let group = group("drivers/net/hw");
    file(
        branch,
        &[json!({"test": "build", "group": group, "result": "fail"})],
    )
}

fn file(branch: &BranchRun<'_>, results: &[Value]) -> Value {
    let time = |time: SystemTime| {
        DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Micros, false)
    };
    json!({
        "executor": EXECUTOR,
        "branch": branch.state,
        "start": time(branch.start),
        "end": time(branch.end),
        "results": results,
    })
}

fn program(run: &ProgramRun) -> Value {
    let file = file_name(&run.name);
    let directory = run.name.strip_suffix(file).unwrap_or_default();
    // In the output of a program the names of its cases begin with its own.
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    let case = |case: &Case| {
        let own = case.name.split_once(':').map(|(_, own)| own);
        json!({
            "test": own.map_or_else(|| namify(stem), |own| namify(&format!("{stem}.{own}"))),
            "result": word(case.outcome),
            "time": case.seconds.round(),
        })
    };
    json!({
        "test": namify(file),
        "group": group(directory),
        "result": overall(run),
        "time": run.seconds,
        "results": run.cases.iter().map(case).collect::<Vec<_>>(),
    })
}

/// One failure fails a program; without a pass it is skipped.
fn overall(run: &ProgramRun) -> &'static str {
    if run.count(Outcome::Fail) > 0 {
        "fail"
    } else if run.count(Outcome::Pass) == 0 {
        "skip"
    } else {
        "pass"
    }
}

/// The netdev CI counts an expected failure as a pass, as the kernel's harness does.
fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Pass | Outcome::Xfail => "pass",
        Outcome::Fail => "fail",
        Outcome::Skip => "skip",
    }
}

fn group(directory: &str) -> String {
    format!("selftests-{}", namify(directory))
}

/// Keeps letters and digits, and puts dashes between words.
fn namify(text: &str) -> String {
    let words: Vec<_> = text
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    words.join("-")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::program::tests::program_run;

    fn branch() -> BranchRun<'static> {
        BranchRun {
            state: "v7.3.4",
            start: SystemTime::UNIX_EPOCH,
            end: SystemTime::UNIX_EPOCH + Duration::from_millis(90_500),
        }
    }

    #[test]
    fn a_program_has_its_cases_below_it() {
        let file = results(&branch(), &[program_run()]);
        assert_eq!(file["executor"], "zcnic");
        assert_eq!(file["start"], "1970-01-01T00:00:00.000000+00:00");
        assert_eq!(file["end"], "1970-01-01T00:01:30.500000+00:00");
        let program = &file["results"][0];
        assert_eq!(program["test"], "a-py");
        assert_eq!(program["group"], "selftests-drivers-net");
        assert_eq!(program["result"], "fail");
        assert_eq!(program["results"][0]["test"], "a-good-tcp4");
        let words: Vec<_> = program["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| &c["result"])
            .collect();
        assert_eq!(words, ["pass", "fail", "skip", "pass", "fail"]);
    }

    #[test]
    fn a_program_passes_only_by_passing() {
        let mut run = program_run();
        run.cases.retain(|case| case.outcome == Outcome::Skip);
        assert_eq!(
            results(&branch(), &[run.clone()])["results"][0]["result"],
            "skip"
        );
        run.cases[0].outcome = Outcome::Pass;
        assert_eq!(results(&branch(), &[run])["results"][0]["result"], "pass");
    }

    #[test]
    fn a_tree_that_does_not_build_has_failed_its_build() {
        let file = build_failure(&branch());
        assert_eq!(file["results"][0]["test"], "build");
        assert_eq!(file["results"][0]["result"], "fail");
    }
}
