//! When each part last succeeded, and on which commit: `docs/reports/ci.json`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use zcnic_testbed::{paths, provision::host, step::run};

/// The file, in the workspace.
const FILE: &str = "docs/reports/ci.json";

/// The last success of each part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub(crate) struct Record {
    parts: BTreeMap<String, Success>,
}

/// A run of a part that succeeded.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Success {
    /// The commit that was tested.
    pub(crate) commit: String,
    /// The day, UTC, such as 2026-11-30.
    pub(crate) date: String,
    /// How long it took.
    pub(crate) seconds: f64,
}

impl Success {
    /// Such as `2026-11-30, 0123456789ab`.
    pub(crate) fn words(&self) -> String {
        let commit = self.commit.get(..12).unwrap_or(&self.commit);
        format!("{}, {commit}", self.date)
    }
}

impl Record {
    /// The one that is kept in the workspace; empty if there is none.
    pub(crate) fn read() -> Result<Self> {
        Self::read_from(&path())
    }

    fn read_from(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    /// The last success of a part, if one is known.
    pub(crate) fn of(&self, part: &str) -> Option<&Success> {
        self.parts.get(part)
    }

    /// Notes that `part` succeeded today on `commit`, and writes the file, so that a run that is ended
    /// keeps what it has proved.
    pub(crate) fn note(part: &str, commit: &str, seconds: f64) -> Result<()> {
        let date = run(host::command("date").args(["--utc", "+%F"]))?;
        let success = Success {
            commit: commit.to_owned(),
            date: date.trim().to_owned(),
            seconds,
        };
        Self::note_in(&path(), part, success)
    }

    fn note_in(path: &Path, part: &str, success: Success) -> Result<()> {
        let mut record = Self::read_from(path)?;
        record.parts.insert(part.to_owned(), success);
        let text = serde_json::to_string_pretty(&record)?;
        fs::write(path, format!("{text}\n")).with_context(|| path.display().to_string())
    }
}

/// The commit that successes are noted for: `None` if the workspace differs from it outside `docs`, where runs leave
/// their reports and the tables made from them.
pub(super) fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let mut git = host::command("git");
        git.arg("-C").arg(paths::workspace()).args(arguments);
        run(&mut git).ok()
    };
    let changes = git(&["status", "--porcelain", "--", ".", ":!docs"])?;
    let head = git(&["rev-parse", "HEAD"])?;
    changes.is_empty().then(|| head.trim().to_owned())
}

fn path() -> PathBuf {
    paths::workspace().join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_replaces_the_last_one_of_its_part_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ci.json");
        assert_eq!(Record::read_from(&path).unwrap(), Record::default());
        let success = |commit: &str| Success {
            commit: commit.to_owned(),
            date: "2026-11-30".to_owned(),
            seconds: 1.5,
        };
        for (part, commit) in [
            ("a", "0123456789abcdef"),
            ("b", "2222"),
            ("a", "3333333333333333"),
        ] {
            Record::note_in(&path, part, success(commit)).unwrap();
        }
        let record = Record::read_from(&path).unwrap();
        let words = |part| record.of(part).map(Success::words);
        assert_eq!(words("a").unwrap(), "2026-11-30, 333333333333");
        assert_eq!(words("b").unwrap(), "2026-11-30, 2222");
        assert_eq!(words("c"), None);
    }
}
