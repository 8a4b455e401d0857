//! The reports that are kept in the workspace, and the Markdown that is made of them.

use std::{fs, io, path::PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, de::DeserializeOwned};

use zcnic_results::report::Case;
use zcnic_testbed::paths;

/// The directory of the reports, in the workspace.
pub(super) const REPORTS: &str = "docs/reports";

/// Columns of a generated line of prose.
const COLUMNS: usize = 100;

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

/// The section that `render` makes of the report of tests that is kept under this name.
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

/// Fails unless a report is of a commit, without uncommitted changes.
pub(super) fn committed(commit: Option<&str>) -> Result<()> {
    match commit {
        Some(commit) if !commit.ends_with("-dirty") => Ok(()),
        _ => bail!("the report is not of a clean commit"),
    }
}

/// `text` filled to lines of [`COLUMNS`] columns: the first one begins with `first`, the others with as many blanks.
pub(super) fn filled(first: &str, text: &str) -> String {
    let (mut done, mut line) = (String::new(), first.to_owned());
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            done.push_str(&line);
            done.push('\n');
            line = " ".repeat(first.chars().count());
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    format!("{done}{line}\n")
}

/// The rows of a Markdown table; the first one is its heading.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filled_lines_end_at_the_last_column_and_hang() {
        let word = "x".repeat(48);
        let text = format!("{word} {word}\n{word}");
        let blanks = "  ";
        assert_eq!(
            filled("* ", &text),
            format!("* {word} {word}\n{blanks}{word}\n")
        );
        assert_eq!(filled("", "a b\nc"), "a b c\n");
    }
}
