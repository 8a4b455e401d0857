//! The ledger of receive buffers.

use serde::{Deserialize, Serialize};

/// How much a ledger keeps.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LedgerMode {
    /// Nothing.
    #[default]
    Off,
    /// How many chains were posted and returned.
    Counting,
    /// Who owns which buffer.
    Full,
}

/// Arguments of `ledger-set`. The ledger of the port begins anew.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerSet {
    /// The port's name.
    pub port: String,
    /// How much is kept.
    pub mode: LedgerMode,
    /// Buffers are poisoned when they are posted and checked when they are returned; needs mode `full`.
    #[serde(default)]
    pub sanitize: bool,
    /// A filled buffer that the driver keeps for longer than this many nanoseconds is a violation; needs mode
    /// `full`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overdue: Option<u64>,
}

/// What `query-ledger` returns.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// What was set.
    pub settings: LedgerSet,
    /// Receive queues on which anything was posted.
    pub queues: Vec<QueueLedger>,
}

/// Numbers of one receive queue. Those of buffers are 0 unless the mode is `full`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct QueueLedger {
    /// The queue.
    pub queue: u16,
    /// Chains posted.
    pub posted: u64,
    /// Chains returned with data.
    pub filled: u64,
    /// Chains returned without.
    pub unused: u64,
    /// Chains that the device owns.
    pub with_device: u64,
    /// The most that it ever did.
    pub with_device_most: u64,
    /// Filled buffers that the driver has not posted again.
    pub out: u64,
    /// The most that there ever were.
    pub out_most: u64,
    /// Buffers that were forgotten because there were too many.
    pub forgotten: u64,
    /// Violations since `ledger-set`.
    pub violations: u64,
    /// For how many nanoseconds the driver keeps a filled buffer: least value of a bucket, and count.
    pub held: Vec<(u64, u64)>,
    /// How many other buffers are posted before a filled one is again.
    pub distance: Vec<(u64, u64)>,
    /// What was said at the last stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_stop: Option<StopReport>,
}

/// What is said of a queue that stopped.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct StopReport {
    /// Every buffer came home and nothing was wrong.
    pub clean: bool,
    /// Chains posted since the queue started.
    pub posted: u64,
    /// Chains returned since then.
    pub returned: u64,
    /// Violations since then.
    pub violations: u64,
    /// Filled buffers that the driver had not posted again; it may keep them.
    pub out: u64,
}

/// Arguments of `ledger-history`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerHistory {
    /// The port's name.
    pub port: String,
    /// The receive queue.
    pub queue: u16,
    /// A guest-physical address.
    pub address: u64,
}

/// What `ledger-history` returns.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct BufferHistory {
    /// Where the buffer starts.
    pub address: u64,
    /// Its bytes.
    pub length: u32,
    /// The last times that it changed hands, oldest first.
    pub events: Vec<BufferEvent>,
}

/// A buffer changed hands.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct BufferEvent {
    /// Nanoseconds since the backend started.
    pub time: u64,
    /// The chain that it was in.
    pub head: u16,
    /// How; `what` on the wire.
    #[serde(rename = "what")]
    pub change: BufferChange,
}

/// Ways in which a buffer changes hands.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BufferChange {
    /// From the driver to the device.
    Posted,
    /// Back, with data.
    Filled,
    /// Back, without.
    Unused,
}
