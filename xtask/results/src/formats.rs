//! Writes the results of a command in all formats: JSON, KTAP and JUnit.

use anyhow::Result;
use serde_json::Value;

use crate::{
    junit, ktap,
    program::{self, ProgramRun},
    report::{Report, ReportArg},
};

/// The extensions of the files beside `--report FILE.json`.
const BESIDE: [&str; 2] = ["ktap", "xml"];

/// Fails if a file beside the report can't be written, or would replace it. For the begin of a
/// command, before anything takes time.
pub fn check(argument: &ReportArg) -> Result<()> {
    argument.leaves_room_for(&BESIDE)
}

/// Writes the report as JSON, and its cases as KTAP (`FILE.ktap`) and JUnit (`FILE.xml`) beside it,
/// if the option `--report FILE` was given. `command` is the name of the whole.
pub fn write(argument: &ReportArg, command: &str, report: &Report) -> Result<()> {
    let runs = program::grouped(command, &report.cases);
    let seconds = runs.iter().map(|run| run.seconds).sum();
    write_runs(argument, command, report, &runs, seconds)
}

/// As [`write()`], of a report whose cases are those of `runs`. The whole took `seconds`.
pub fn write_runs(
    argument: &ReportArg,
    command: &str,
    report: &Report,
    runs: &[ProgramRun],
    seconds: f64,
) -> Result<()> {
    let about = facts(report);
    let lines: Vec<_> = about
        .iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    argument.write(&report.to_json())?;
    argument.write_beside("ktap", &ktap::write(runs, &lines))?;
    argument.write_beside("xml", &junit::write(command, runs, &about, seconds)?)
}

/// Returns the report's further keys that fit a line, as text.
pub fn facts(report: &Report) -> Vec<(String, String)> {
    let word = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => {
            let words: Option<Vec<_>> = items.iter().map(Value::as_str).collect();
            Some(words?.join(" "))
        }
        _ => None,
    };
    report
        .extra
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), word(value)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use serde_json::json;

    use super::*;
    use crate::report::Case;

    #[test]
    fn one_report_is_three_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("r.json");
        let argument = ReportArg {
            report: Some(path.clone()),
        };
        check(&argument).unwrap();
        let mut report = Report {
            cases: vec![Case::failed("bad input: an option", "why".to_owned())],
            ..Report::default()
        };
        report.extra.insert("kernel".to_owned(), json!("7.3.4"));
        report
            .extra
            .insert("programs".to_owned(), json!([{"n": 1}]));
        write(&argument, "test", &report).unwrap();
        let text = |extension: &str| fs::read_to_string(path.with_extension(extension)).unwrap();
        assert!(text("json").contains("\"fail\": 1"));
        let ktap = text("ktap");
        assert!(ktap.contains("# kernel: 7.3.4\n"), "{ktap}");
        assert!(ktap.contains("\n  not ok 1 an option\n"), "{ktap}");
        assert!(ktap.contains("\nnot ok 1 bad input\n"), "{ktap}");
        assert!(!ktap.contains("programs"), "{ktap}");
        assert!(text("xml").contains("<testsuite name=\"bad input\""));
        let null = ReportArg {
            report: Some("/dev/null".into()),
        };
        check(&null).unwrap();
        write(&null, "test", &report).unwrap();
        for wrong in [Path::new("r.xml"), &directory.path().join("none/r.json")] {
            let wrong = ReportArg {
                report: Some(wrong.to_owned()),
            };
            assert!(check(&wrong).is_err());
        }
    }
}
