//! The reports that are kept in the workspace, and the shape of a table made of them.

use std::{fs, io, path::PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, de::DeserializeOwned};
use zcnic_results::report::Case;
use zcnic_testbed::paths;

/// Where the reports are, in the workspace.
pub(super) const REPORTS: &str = "docs/reports";

/// The report that is kept under this name, if there is one.
pub(super) fn kept<T: DeserializeOwned>(name: &str) -> Result<Option<T>> {
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
pub(super) struct Tests {
    pub(super) kernel: String,
    pub(super) qemu: String,
    pub(super) cases: Vec<Case>,
}

/// What `render` makes of the report of tests that is kept under this name.
pub(super) fn section_of(
    name: &str,
    render: impl FnOnce(&Tests) -> Result<String>,
) -> Result<String> {
    let tests: Option<Tests> = kept(name)?;
    tests.map_or_else(
        || Ok("No report is kept.".to_owned()),
        |tests| render(&tests),
    )
}

/// Fails unless a report is of a commit.
pub(super) fn committed(commit: Option<&str>) -> Result<()> {
    match commit {
        Some(commit) if !commit.ends_with("-dirty") => Ok(()),
        _ => bail!("the report is of something that is no commit"),
    }
}

/// The rows of a table, the first one its heading.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        text.push_str(&format!("| {} |\n", row.join(" | ")));
        if index == 0 {
            text.push_str(&format!("| {} |\n", vec!["---"; row.len()].join(" | ")));
        }
    }
    text
}
