//! All buffers that a ledger knows, page by page.

use serde::{Deserialize, Serialize};

use super::{event::Violation, ledger::BufferHistory};

/// Arguments of `ledger-buffers`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LedgerBuffers {
    /// The port's name.
    pub port: String,
    /// The receive queue.
    pub queue: u16,
    /// The lowest guest-physical address of a buffer that is asked for.
    #[serde(default)]
    pub from: u64,
}

/// The result of `ledger-buffers`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BufferHistories {
    /// The time of the answer, in nanoseconds since the backend started.
    pub time: u64,
    /// Buffers by address, at most 512.
    pub buffers: Vec<BufferHistory>,
    /// The address to ask for next; missing: there are no more buffers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// The queue's last violations, oldest first, at most 64.
    pub violations: Vec<Violation>,
}
