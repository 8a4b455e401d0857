//! Events, for clients that subscribed to them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    fault::{Direction, FaultId},
    ledger::{BufferHistory, StopReport},
};

/// Arguments of `subscribe`: the kinds of events to send from now on.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Subscribe {
    /// Kinds of events; an empty list ends the subscription.
    pub events: Vec<EventKind>,
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A fault rule hit.
    FaultHit,
    /// A ledger found a violation.
    Violation,
    /// A receive queue stopped, and its ledger has a balance.
    QueueStop,
    /// A port's carrier changed.
    Link,
    /// A frontend connected or disconnected.
    Connection,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::FaultHit,
        Self::Violation,
        Self::QueueStop,
        Self::Link,
        Self::Connection,
    ];
}

/// A line with an event.
///
/// ```
/// use zcnic_ctl::protocol::event::{Event, EventKind};
///
/// let line = r#"{"event": "link", "data": {"port": "1", "up": false}}"#;
/// let event: Event = serde_json::from_str(line)?;
/// assert_eq!(event.kind(), Some(EventKind::Link));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", tag = "event", content = "data")]
pub enum Event {
    /// A fault rule hit.
    FaultHit(FaultHit),
    /// A ledger found a violation.
    Violation(Violation),
    /// A receive queue stopped.
    QueueStop(QueueStop),
    /// A port's carrier changed.
    Link(Link),
    /// A frontend connected or disconnected.
    Connection(Connection),
    /// A frame crossed the wire.
    Frame(Frame),
    /// The client reads too slowly: events before this one were dropped.
    Lost(Lost),
    /// An event that a newer backend has, or one with words of a newer backend.
    #[serde(untagged)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Other(OtherEvent),
}

impl Event {
    /// The kind to subscribe to; `None`: the event needs no subscription, or this version does not
    /// know it.
    #[must_use]
    pub fn kind(&self) -> Option<EventKind> {
        match self {
            Self::FaultHit(_) => Some(EventKind::FaultHit),
            Self::Violation(_) => Some(EventKind::Violation),
            Self::QueueStop(_) => Some(EventKind::QueueStop),
            Self::Link(_) => Some(EventKind::Link),
            Self::Connection(_) => Some(EventKind::Connection),
            Self::Frame(_) | Self::Lost(_) | Self::Other(_) => None,
        }
    }
}

/// An event that this version does not know.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OtherEvent {
    /// Its kind.
    pub event: String,
    /// Its members.
    #[serde(default)]
    pub data: Value,
}

/// A fault rule hit. Those of one direction and queue come in order.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FaultHit {
    /// The port.
    pub port: String,
    /// Number of the rule.
    pub id: FaultId,
    /// Name of the action.
    pub action: String,
    /// Direction or queue of the hit.
    pub direction: Direction,
    /// Direction or queue of the hit.
    pub queue: u16,
    /// The number of the frame or command among those of this queue that the rule applies to, from
    /// 1.
    pub count: u64,
    /// The number of this hit among the rule's hits on this queue, from 1.
    pub hit: u64,
    /// When its batch was done, in nanoseconds since the backend started.
    #[serde(default)]
    pub time: u64,
}

/// A violation of the ownership of buffers.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Violation {
    /// The port.
    pub port: String,
    /// The receive queue.
    pub queue: u16,
    /// The kind, for programs.
    pub kind: String,
    /// The description, for people.
    pub desc: String,
    /// When it was found, in nanoseconds since the backend started.
    #[serde(default)]
    pub time: u64,
    /// The buffers that it names, with their last transfers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buffers: Vec<BufferHistory>,
}

/// A receive queue stopped.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct QueueStop {
    /// The port.
    pub port: String,
    /// The receive queue.
    pub queue: u16,
    /// The ledger's balance.
    #[serde(flatten)]
    pub report: StopReport,
}

/// A port's carrier.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Link {
    /// The port.
    pub port: String,
    /// Whether there is a carrier.
    pub up: bool,
}

/// A frontend connected or disconnected.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Connection {
    /// The port.
    pub port: String,
    /// Whether it connected.
    pub connected: bool,
}

/// A frame that crossed the wire.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Frame {
    /// The port.
    pub port: String,
    /// Whether the port sent or received it.
    pub direction: Direction,
    /// Nanoseconds of the device's clock, which started at real time. A receive or transmit
    /// timestamp of the frame has the same value.
    pub time: u64,
    /// The frame's number. The events of its sender and of its receiver have the same.
    #[serde(default)]
    pub id: u64,
    /// Length of the frame, in bytes.
    pub length: u32,
    /// The captured bytes, two hexadecimal digits each.
    pub bytes: String,
    /// The queue that sent it, or that steering chose for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<u16>,
    /// The RSS hash of a received frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<u32>,
    /// Location of the flow rule that a received frame matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<u32>,
    /// The fate of a received frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fate: Option<FrameFate>,
    /// Bytes of a received frame in the header buffer; missing: it was not split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<u32>,
    /// The queue in whose buffers a fault rule put a received frame instead of `queue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirected: Option<u16>,
    /// The port's fault rules that hit the frame.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<FrameFault>,
}

/// A fault rule that hit a frame.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FrameFault {
    /// Number of the rule.
    pub id: u64,
    /// Name of the action.
    pub action: String,
}

/// The fate of a received frame.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum FrameFate {
    /// In receive buffers.
    Placed,
    /// With hardware GRO, which places it alone or in an aggregate.
    Coalesced,
    /// Held back by a fault rule.
    Held,
    /// In the buffers of the queue `redirected`.
    Redirected,
    /// Dropped: the ring had too few buffers.
    NoBuffer,
    /// Dropped: the queue is stopped.
    Stopped,
    /// Dropped: it needs more buffers than a frame may take.
    TooLong,
    /// Dropped by a fault rule.
    FaultDrop,
    /// Dropped by a flow rule.
    RuleDrop,
    /// Dropped by the address filter.
    Filtered,
    /// Dropped: it is longer than the MTU.
    Oversize,
}

/// Events that a client missed.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Lost {
    /// Number of events.
    pub count: u64,
}
