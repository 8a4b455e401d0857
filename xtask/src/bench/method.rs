//! How often and how long a benchmark measures.

use std::time::Duration;

use super::process::Priority;

/// How often and how long a benchmark measures, and where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Method {
    pub(super) rounds: usize,
    pub(super) sample: Duration,
    pub(super) priority: Priority,
    /// The processors of the backend's worker and of the frontend.
    pub(super) cpus: [usize; 2],
}
