//! `cargo xtask tables`: the tables in the documents that say what was seen, from reports of full runs,
//! which are kept in the workspace.

use std::{fs, io, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{paths, report::Case};

mod cases;
mod detection;
mod scenarios;
mod selftests;
mod systems;

/// Where the reports are, in the workspace.
const REPORTS: &str = "docs/reports";

/// The lines around what is written.
const BEGIN: &str = "<!-- begin: cargo xtask tables -->";
const END: &str = "<!-- end -->";

/// Makes what is between the markers of a document.
type Section = fn() -> Result<String>;

/// The documents with a section.
const DOCUMENTS: [(&str, Section); 5] = [
    ("README.md", selftests::section),
    ("docs/detection.md", detection::section),
    ("docs/performance.md", systems::section),
    ("docs/scenarios.md", scenarios::section),
    ("docs/systems.md", cases::section),
];

/// Write the tables in README.md and docs from the reports in docs/reports
///
/// `--report FILE` makes reports; which is kept under which name is said where the tables are made.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> Result<ExitCode> {
    for (document, section) in DOCUMENTS {
        let path = paths::workspace().join(document);
        let (before, after) = renewed(document, section)?;
        if before != after {
            fs::write(&path, after).with_context(|| format!("cannot write {document}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A document as it is and as it should be.
fn renewed(document: &str, section: Section) -> Result<(String, String)> {
    let path = paths::workspace().join(document);
    let before = fs::read_to_string(path).with_context(|| format!("cannot read {document}"))?;
    let after = replace(&before, &section()?).with_context(|| document.to_owned())?;
    Ok((before, after))
}

/// `text` with `section` between the markers.
fn replace(text: &str, section: &str) -> Result<String> {
    let parts = text.split_once(BEGIN);
    let parts = parts.and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let Some((before, after)) = parts else {
        bail!("there are no lines {BEGIN} and {END}");
    };
    let section = section.trim_end();
    Ok(format!("{before}{BEGIN}\n\n{section}\n\n{END}{after}"))
}

/// The report that is kept under this name, if there is one.
fn kept<T: DeserializeOwned>(name: &str) -> Result<Option<T>> {
    let path: PathBuf = paths::workspace()
        .join(REPORTS)
        .join(format!("{name}.json"));
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| path.display().to_string())?,
    };
    let report = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    Ok(Some(report))
}

/// A report of tests that ran in guests.
#[derive(Debug, Deserialize)]
struct Tests {
    kernel: String,
    qemu: String,
    cases: Vec<Case>,
}

/// What `render` makes of the report of tests that is kept under this name.
fn section_of(name: &str, render: impl FnOnce(&Tests) -> Result<String>) -> Result<String> {
    let tests: Option<Tests> = kept(name)?;
    tests.map_or_else(
        || Ok("No report is kept.".to_owned()),
        |tests| render(&tests),
    )
}

/// Fails unless a report is of a commit.
fn committed(commit: Option<&str>) -> Result<()> {
    match commit {
        Some(commit) if !commit.ends_with("-dirty") => Ok(()),
        _ => bail!("the report is of something that is no commit"),
    }
}

/// The rows of a table, the first one its heading.
fn table(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        text.push_str(&format!("| {} |\n", row.join(" | ")));
        if index == 0 {
            text.push_str(&format!("| {} |\n", vec!["---"; row.len()].join(" | ")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_say_what_the_reports_say() {
        for (document, section) in DOCUMENTS {
            let (before, after) = renewed(document, section).unwrap();
            assert!(
                before == after,
                "{document} differs from {REPORTS}: run `cargo xtask tables`"
            );
        }
    }

    #[test]
    fn what_is_outside_the_markers_stays() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let new = replace(&text, "new\n").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\n\nnew\n\n{END}\nb\n"));
        assert_eq!(replace(&new, "new\n").unwrap(), new);
        assert!(replace("a", "b").is_err());
    }
}
