//! The ledger of receive buffers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{OrNewer, nanoseconds};

/// The amount of records of a ledger.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum LedgerMode {
    /// Nothing.
    #[default]
    Off,
    /// Numbers of chains posted and returned.
    Counting,
    /// Every buffer.
    Full,
}

/// Arguments of `ledger-set`, which restarts the ledger of the port.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LedgerSet {
    /// The port's name.
    pub port: String,
    /// The amount of records.
    pub mode: LedgerMode,
    /// Whether buffers are poisoned when posted and checked when returned; needs mode `full`.
    #[serde(default)]
    pub sanitize: bool,
    /// A filled buffer that the driver keeps for longer than this many nanoseconds is a violation;
    /// needs mode `full`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overdue: Option<u64>,
}

impl LedgerSet {
    /// Settings for a ledger with these records.
    pub fn new(port: impl Into<String>, mode: LedgerMode) -> Self {
        Self {
            port: port.into(),
            mode,
            sanitize: false,
            overdue: None,
        }
    }

    /// Poisons buffers that are posted, and checks them when they are returned.
    #[must_use]
    pub fn sanitize(mut self) -> Self {
        self.sanitize = true;
        self
    }

    /// Makes a filled buffer that the driver keeps for longer than `time` a violation.
    #[must_use]
    pub fn overdue(mut self, time: Duration) -> Self {
        self.overdue = Some(nanoseconds(time));
        self
    }
}

/// The result of `query-ledger`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Ledger {
    /// The settings.
    #[cfg_attr(feature = "schema", schemars(with = "LedgerSet"))]
    pub settings: OrNewer<LedgerSet>,
    /// Receive queues with posted chains.
    pub queues: Vec<QueueLedger>,
}

/// Statistics of one receive queue. Those of buffers are 0 unless the mode is `full`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct QueueLedger {
    /// The queue.
    pub queue: u16,
    /// Chains posted.
    pub posted: u64,
    /// Chains returned with data.
    pub filled: u64,
    /// Chains returned without data.
    pub unused: u64,
    /// Chains that the device owns.
    pub with_device: u64,
    /// The most chains that it ever owned.
    pub with_device_most: u64,
    /// Filled buffers that the driver has not posted again.
    pub out: u64,
    /// The maximum of `out`.
    pub out_most: u64,
    /// Buffers whose record was evicted, because there were too many.
    pub forgotten: u64,
    /// Violations since `ledger-set`.
    pub violations: u64,
    /// Nanoseconds for which the driver keeps a filled buffer: least value of a bucket, and count.
    pub held: Vec<(u64, u64)>,
    /// Number of other buffers posted before a filled one is posted again.
    pub distance: Vec<(u64, u64)>,
    /// The balance of the last stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_stop: Option<StopReport>,
}

/// The balance of a queue when it stops.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct StopReport {
    /// Whether every chain was returned and there was no violation.
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LedgerHistory {
    /// The port's name.
    pub port: String,
    /// The receive queue.
    pub queue: u16,
    /// A guest-physical address.
    pub address: u64,
}

/// The result of `ledger-history`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BufferHistory {
    /// Start of the buffer, as a guest-physical address.
    pub address: u64,
    /// Its length in bytes.
    pub length: u32,
    /// The last transfers, oldest first.
    pub events: Vec<BufferEvent>,
}

/// A transfer of a buffer.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BufferEvent {
    /// Nanoseconds since the backend started.
    pub time: u64,
    /// Head of the chain that the buffer was in.
    pub head: u16,
    /// The transfer; `what` in JSON.
    #[serde(rename = "what")]
    pub change: BufferChange,
}

/// Transfers of a buffer's ownership.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum BufferChange {
    /// From the driver to the device.
    Posted,
    /// From the device to the driver, with data.
    Filled,
    /// From the device to the driver, without data.
    Unused,
    /// A transfer that a newer backend has.
    #[serde(other)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Other,
}
