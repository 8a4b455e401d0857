//! The messages of the control socket: one JSON object per line, shaped like QEMU's QMP.

pub mod buffers;
pub mod event;
pub mod fault;
pub mod ledger;
pub mod port;
pub mod rule;
pub mod scenario;

use std::{
    collections::BTreeMap, fmt, net::IpAddr, num::ParseIntError, str::FromStr, time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The longest line that either side accepts, its newline included, in bytes.
pub const MAX_LINE: usize = 64 * 1024;

/// The first line that the backend sends.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Greeting {
    /// The backend.
    pub zcnic: Identity,
}

/// The identity of a backend.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Identity {
    /// Version of the backend.
    pub version: String,
}

/// A line from the client.
///
/// ```
/// use zcnic_ctl::protocol::{Request, command};
///
/// let request = Request {
///     execute: command::QUERY_STATUS.to_owned(),
///     arguments: None,
///     id: Some(7.into()),
/// };
/// assert_eq!(serde_json::to_string(&request)?, r#"{"execute":"query-status","id":7}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Name of the command.
    pub execute: String,
    /// Its arguments, an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Value>,
    /// Any value; the response repeats it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Value>,
}

/// The line that answers a request.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Response {
    /// The result.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The request's `id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Value>,
}

/// The result of a request.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was executed.
    Return(Value),
    /// It was refused, and nothing changed.
    Error(Failure),
}

/// The reason why a request was refused.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Failure {
    /// For programs.
    pub class: ErrorClass,
    /// For people.
    pub desc: String,
}

/// A value that requests spell strictly, in an answer: a newer backend may have put more into it
/// than this version knows.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum OrNewer<T> {
    /// A value of this version.
    Known(T),
    /// A value with members or words of a newer one.
    Newer(Value),
}

impl<T> OrNewer<T> {
    /// The value, if this version knows all that is in it.
    #[must_use]
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Newer(_) => None,
        }
    }
}

/// Kinds of errors.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ErrorClass {
    /// The line is not a request, or an argument is invalid.
    GenericError,
    /// There is no such command.
    CommandNotFound,
    /// There is no such port, counter, rule or buffer.
    NotFound,
    /// A wait timed out.
    Timeout,
    /// A kind that a newer backend has.
    #[serde(other)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Other,
}

/// The result of `query-status`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// In the order of the command line.
    pub ports: Vec<PortStatus>,
    /// In the order of the command line.
    pub cables: Vec<CableStatus>,
    /// In the order of the command line.
    #[serde(default)]
    pub wires: Vec<WireStatus>,
    /// In the order of the command line.
    #[serde(default)]
    pub switches: Vec<SwitchStatus>,
}

/// State of a port.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct PortStatus {
    /// Its name.
    pub name: String,
    /// Its vhost-user socket.
    pub path: String,
    /// A frontend is connected.
    pub connected: bool,
    /// The port at the other end of the cable is connected; a null wire always has a link.
    pub link: bool,
    /// The mode of its driver.
    pub driver: Driver,
    /// Number of data queue pairs of a zcnic port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_pairs: Option<u16>,
    /// Rings that run and are enabled.
    pub rings: Vec<u16>,
}

/// The mode of a port's driver.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    /// Not known yet: the driver has sent nothing.
    Undecided,
    /// An ordinary virtio-net driver.
    Plain,
    /// The zcnic driver.
    Zcnic,
    /// A mode that a newer backend has.
    #[serde(other)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Other,
}

/// A cable.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct CableStatus {
    /// Names of the ports that it connects.
    pub ports: [String; 2],
    /// Frames without a receive buffer wait instead of being dropped.
    pub pause: bool,
    /// Its properties, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<CableShape>,
    /// The two directions of a cable with properties, that from the first port first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<LineStatus>,
}

/// The properties of a cable, the same in each direction.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct CableShape {
    /// Bits of frames per second; absent: not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// Nanoseconds from the last bit sent to the last bit received.
    pub delay: u64,
    /// Frames in a million that are lost.
    pub loss_ppm: u32,
    /// Determines which.
    pub seed: u64,
}

/// The wire of a port.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct WireStatus {
    /// Name of the port.
    pub port: String,
    /// `loopback`, `null`, `generate`, `stream`, `tap` or `pcap`.
    pub kind: String,
    /// Its other end: an address with `connect=` or `listen=`, an interface or a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// The state of a wire to the outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<LineStatus>,
}

/// The state of a wire to the outside, or of one direction of a cable with properties. Frames are
/// counted since the backend started, as they cross the wire: a tap takes and gives unsegmented
/// ones.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct LineStatus {
    /// There is a carrier: the peer of a stream is connected, the tap exists.
    pub up: bool,
    /// Frames that left.
    pub tx_frames: u64,
    /// Frames that did not leave: the peer does not read, or is gone.
    pub tx_dropped: u64,
    /// Frames that arrived for the port's address filter and steering.
    pub rx_frames: u64,
    /// Frames that arrived while the port had no driver, or that are invalid.
    pub rx_dropped: u64,
    /// Frames that a cable lost because of its property `loss`.
    pub lost: u64,
    /// Connections of a stream so far.
    pub connections: u64,
}

/// A learning switch.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct SwitchStatus {
    /// Its name.
    pub name: String,
    /// Names of its ports.
    pub ports: Vec<String>,
    /// Addresses that it knows.
    pub addresses: u64,
    /// Frames that went to one port.
    pub forwarded: u64,
    /// Frames that went to all ports but their sender.
    pub flooded: u64,
}

/// The result of `query-stats`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Stats {
    /// In the order of the command line.
    pub ports: Vec<PortStats>,
}

/// Counters of a port since the backend started. Frames are wire frames: each segment counts.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct PortStats {
    /// Its name.
    pub name: String,
    /// Connections of frontends.
    pub connections: u64,
    /// Frames dropped by the address filter.
    pub rx_filtered: u64,
    /// Frames dropped by flow rules.
    pub rx_rule_drop: u64,
    /// Frames dropped because they are longer than the MTU.
    #[serde(default)]
    pub rx_oversize: u64,
    /// Frames dropped after they waited for receive buffers in vain.
    pub rx_pause_timeout: u64,
    /// Frames sent without a link.
    pub tx_no_carrier: u64,
    /// Queue pairs that ever moved or dropped a frame.
    pub queues: Vec<QueueStats>,
}

/// Counters of a queue pair: `struct zcnic_queue_stats` explains them.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "named and explained in struct zcnic_queue_stats"
)]
pub struct QueueStats {
    pub queue: u16,
    pub rx_frames: u64,
    pub rx_bytes: u64,
    pub rx_split: u64,
    #[serde(default)]
    pub rx_unsplit: u64,
    #[serde(default)]
    pub rx_long_headers: u64,
    pub rx_csum_bad: u64,
    pub rx_no_buffer: u64,
    pub rx_stopped: u64,
    pub rx_too_long: u64,
    #[serde(default)]
    pub rx_unsplit_too_long: u64,
    pub rx_bad_chain: u64,
    pub rx_gro_frames: u64,
    pub rx_gro_bytes: u64,
    pub rx_gro_wire_frames: u64,
    pub rx_gro_wire_bytes: u64,
    /// Frames with an RSS hash.
    pub rx_hashed: u64,
    pub tx_frames: u64,
    pub tx_bytes: u64,
    pub tx_errors: u64,
}

/// Arguments of `flow-counter-add`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FlowCounterAdd {
    /// The receiving port's name.
    pub port: String,
    /// The frames to count.
    #[serde(rename = "match")]
    pub pattern: FlowMatch,
}

/// A flow: a frame matches if every given field does. Fragments have no ports and no protocol.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FlowMatch {
    /// TCP or UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Source IP address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// Destination IP address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<IpAddr>,
    /// Source port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// Destination port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
}

/// Protocols with ports.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// The number of a flow counter, unique while the backend runs.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct CounterId(pub u64);

impl FromStr for CounterId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for CounterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The result of `flow-counter-add`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FlowCounterAdded {
    /// The counter's number.
    pub id: CounterId,
}

/// Arguments of `flow-counter-query` and `flow-counter-remove`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FlowCounterId {
    /// The counter's number.
    pub id: CounterId,
}

/// The result of `flow-counter-query`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FlowCounts {
    /// Counts by receive queue; queues that the flow never reached are missing.
    pub queues: BTreeMap<u16, FlowCount>,
}

/// Frames of a flow on one receive queue. Each segment counts.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FlowCount {
    /// Frames placed into receive buffers.
    pub delivered: u64,
    /// Placed frames that were split into headers and payload.
    pub split: u64,
    /// Placed frames with a payload that were not split.
    pub unsplit: u64,
    /// Frames dropped at this queue.
    pub dropped: u64,
}

/// A time as the protocol has it; one of more than 584 years becomes the longest.
#[must_use]
pub fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Commands, by name.
pub mod command {
    /// Declares the commands and the list of them.
    macro_rules! commands {
        ($($(#[$doc:meta])* $constant:ident = $name:literal;)*) => {
            $($(#[$doc])* pub const $constant: &str = $name;)*
            /// All of them.
            pub const ALL: &[&str] = &[$($name),*];
        };
    }

    commands! {
        /// Returns [`Status`](super::Status).
        QUERY_STATUS = "query-status";
        /// Returns [`Stats`](super::Stats).
        QUERY_STATS = "query-stats";
        /// Takes [`PortName`](super::port::PortName), returns [`Features`](super::port::Features).
        QUERY_FEATURES = "query-features";
        /// Takes [`FeaturesSet`](super::port::FeaturesSet), returns an empty object.
        FEATURES_SET = "features-set";
        /// Takes [`PortName`](super::port::PortName), returns [`Queues`](super::port::Queues).
        QUERY_QUEUES = "query-queues";
        /// Takes [`PortName`](super::port::PortName), returns [`Steering`](super::port::Steering).
        QUERY_STEERING = "query-steering";
        /// Takes [`FlowCounterAdd`](super::FlowCounterAdd), returns
        /// [`FlowCounterAdded`](super::FlowCounterAdded).
        FLOW_COUNTER_ADD = "flow-counter-add";
        /// Takes [`FlowCounterId`](super::FlowCounterId), returns
        /// [`FlowCounts`](super::FlowCounts).
        FLOW_COUNTER_QUERY = "flow-counter-query";
        /// Takes [`FlowCounterId`](super::FlowCounterId), returns an empty object.
        FLOW_COUNTER_REMOVE = "flow-counter-remove";
        /// Takes [`FaultAdd`](super::fault::FaultAdd), returns
        /// [`FaultIds`](super::fault::FaultIds).
        FAULT_ADD = "fault-add";
        /// Returns [`Faults`](super::fault::Faults).
        FAULT_LIST = "fault-list";
        /// Takes [`FaultRemove`](super::fault::FaultRemove), returns an empty object.
        FAULT_REMOVE = "fault-remove";
        /// Takes [`FaultWait`](super::fault::FaultWait), returns
        /// [`FaultStatus`](super::fault::FaultStatus).
        FAULT_WAIT = "fault-wait";
        /// Takes [`LedgerSet`](super::ledger::LedgerSet), returns an empty object.
        LEDGER_SET = "ledger-set";
        /// Takes [`PortName`](super::port::PortName), returns [`Ledger`](super::ledger::Ledger).
        QUERY_LEDGER = "query-ledger";
        /// Takes [`LedgerHistory`](super::ledger::LedgerHistory), returns
        /// [`BufferHistory`](super::ledger::BufferHistory).
        LEDGER_HISTORY = "ledger-history";
        /// Takes [`LedgerBuffers`](super::buffers::LedgerBuffers), returns
        /// [`BufferHistories`](super::buffers::BufferHistories).
        LEDGER_BUFFERS = "ledger-buffers";
        /// Takes [`LinkSet`](super::port::LinkSet), returns an empty object.
        LINK_SET = "link-set";
        /// Takes [`PortName`](super::port::PortName), returns an empty object.
        DEVICE_RESET = "device-reset";
        /// Takes [`PortName`](super::port::PortName), returns an empty object.
        DISCONNECT = "disconnect";
        /// Takes [`CaptureStart`](super::port::CaptureStart), returns an empty object.
        CAPTURE_START = "capture-start";
        /// Takes [`PortName`](super::port::PortName), returns an empty object.
        CAPTURE_STOP = "capture-stop";
        /// Takes [`Subscribe`](super::event::Subscribe), returns an empty object.
        SUBSCRIBE = "subscribe";
    }
}
