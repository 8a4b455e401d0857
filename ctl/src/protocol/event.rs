//! Events, for those who subscribed to them.

use serde::{Deserialize, Serialize};

use super::{fault::Direction, ledger::StopReport};

/// Arguments of `subscribe`: from now on these kinds of events are sent, and no others.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Subscribe {
    /// Kinds of events; none ends the subscription.
    pub events: Vec<EventKind>,
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A fault rule hit.
    FaultHit,
    /// A ledger found something that must not happen.
    Violation,
    /// A receive queue stopped, and its ledger has something to say about that.
    QueueStop,
    /// A port's carrier came or went.
    Link,
    /// A frontend came or went.
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
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "event", content = "data")]
pub enum Event {
    /// A fault rule hit.
    FaultHit(FaultHit),
    /// A ledger found something that must not happen.
    Violation(Violation),
    /// A receive queue stopped.
    QueueStop(QueueStop),
    /// A port's carrier came or went.
    Link(Link),
    /// A frontend came or went.
    Connection(Connection),
    /// A frame crossed the wire.
    Frame(Frame),
    /// The client reads too slowly: events before this one were not sent to it.
    Lost(Lost),
}

impl Event {
    /// What one subscribes to; `None`: it comes for other reasons.
    #[must_use]
    pub fn kind(&self) -> Option<EventKind> {
        match self {
            Self::FaultHit(_) => Some(EventKind::FaultHit),
            Self::Violation(_) => Some(EventKind::Violation),
            Self::QueueStop(_) => Some(EventKind::QueueStop),
            Self::Link(_) => Some(EventKind::Link),
            Self::Connection(_) => Some(EventKind::Connection),
            Self::Frame(_) | Self::Lost(_) => None,
        }
    }
}

/// A fault rule hit. Those of one direction and queue come in order.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct FaultHit {
    /// The port.
    pub port: String,
    /// Number of the rule.
    pub id: u64,
    /// What happens.
    pub action: String,
    /// Where.
    pub direction: Direction,
    /// Where.
    pub queue: u16,
    /// Which of the frames or commands of this queue that the rule applies to it was, from 1.
    pub count: u64,
    /// Which hit of the rule on this queue it was, from 1.
    pub hit: u64,
}

/// Something that must not happen to a buffer.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The port.
    pub port: String,
    /// The receive queue.
    pub queue: u16,
    /// What, for programs.
    pub kind: String,
    /// What, for people.
    pub desc: String,
}

/// A receive queue stopped.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct QueueStop {
    /// The port.
    pub port: String,
    /// The receive queue.
    pub queue: u16,
    /// What the ledger says.
    #[serde(flatten)]
    pub report: StopReport,
}

/// A port's carrier.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Link {
    /// The port.
    pub port: String,
    /// There is a carrier.
    pub up: bool,
}

/// A frontend came or went.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Connection {
    /// The port.
    pub port: String,
    /// It came.
    pub connected: bool,
}

/// A frame that crossed the wire.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Frame {
    /// The port.
    pub port: String,
    /// Whether it sent or received it.
    pub direction: Direction,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Its bytes, all of them.
    pub length: u32,
    /// Those that are told, two hexadecimal digits each.
    pub bytes: String,
}

/// Events that a client did not get.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// How many.
    pub count: u64,
}
