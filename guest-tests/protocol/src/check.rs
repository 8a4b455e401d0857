//! The result of `zcnic-guest check`: the kernel's log and page pools after a test.

use serde::{Deserialize, Serialize};

use crate::interface::PagePool;

/// The object that `zcnic-guest check` prints.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct CheckResult {
    /// There are no problems.
    pub ok: bool,
    /// Everything that is wrong, for people.
    pub problems: Vec<String>,
    /// The kernel's log.
    pub log: LogFindings,
    /// All page pools.
    pub page_pools: Vec<FoundPool>,
}

/// Findings in a part of the kernel's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct LogFindings {
    /// Bad lines.
    pub hits: Vec<LogHit>,
    /// The log from the first bad line on, at most the length of a long trace.
    pub context: Vec<String>,
    /// Records that the kernel overwrote before they were read.
    pub lost: u64,
    /// Sequence number of the first record after this part: the `--since` of the next check.
    pub next_seq: u64,
}

impl LogFindings {
    /// Whether no line is bad and no record was lost.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.hits.is_empty() && self.lost == 0
    }
}

/// A line of the kernel's log that no good run has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct LogHit {
    /// Sequence number of the record.
    pub seq: u64,
    /// Microseconds since boot.
    pub usec: u64,
    /// Names of the classes of bad lines that it belongs to.
    pub classes: Vec<String>,
    /// The line.
    pub line: String,
}

/// A page pool and where it was found.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct FoundPool {
    /// Named network namespace; None for the one that the check ran in.
    pub netns: Option<String>,
    /// Buffers that a receive ring of its interface takes; None if that is unknown.
    pub posted: Option<u64>,
    /// The pool.
    #[serde(flatten)]
    pub pool: PagePool,
}
