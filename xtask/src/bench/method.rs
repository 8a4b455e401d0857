//! How often and how long is measured.

use std::time::Duration;

use super::process::Priority;

/// How often and how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Method {
    pub(super) rounds: usize,
    pub(super) sample: Duration,
    pub(super) priority: Priority,
    /// The processor of whoever serves the rings, and that of the frontend.
    pub(super) cpus: [usize; 2],
}
