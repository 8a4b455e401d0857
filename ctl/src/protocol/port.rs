//! Features, queues, steering and settings of a port.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Arguments of commands about one port.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PortName {
    /// The port's name.
    pub port: String,
}

impl PortName {
    /// Arguments of a command about the port `name`.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { port: name.into() }
    }
}

/// Arguments of `link-set`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LinkSet {
    /// The port's name.
    pub port: String,
    /// Whether the port may have a carrier.
    pub up: bool,
}

/// Arguments of `capture-start`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CaptureStart {
    /// The port's name.
    pub port: String,
    /// The captured bytes of each frame; all if it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u32>,
}

/// Arguments of `features-set`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FeaturesSet {
    /// The port's name.
    pub port: String,
    /// The features to offer; all that the device has if it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered: Option<Vec<String>>,
}

/// The result of `query-features`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Features {
    /// Feature bits of virtio that the driver acknowledged.
    pub virtio: u64,
    /// The features that HELLO negotiated; empty without a session.
    pub negotiated: Vec<String>,
    /// The offloads that are switched on.
    pub offloads: Vec<String>,
    /// The features that the next HELLO can negotiate.
    pub offered: Vec<String>,
    /// All features of the device.
    pub supported: Vec<String>,
}

/// The result of `query-queues`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Queues {
    /// Queue pairs with a running ring.
    pub pairs: Vec<QueuePair>,
}

/// A queue pair.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct QueuePair {
    /// Its number.
    pub queue: u16,
    /// Whether it carries commands.
    pub commands: bool,
    /// The layout of the receive queue's chains; missing: the queue is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    /// Whether the transmit queue is started.
    pub transmits: bool,
    /// The receive ring.
    pub rx: Ring,
    /// The transmit ring.
    pub tx: Ring,
}

/// The layout of frames in chains.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", tag = "shape")]
pub enum Layout {
    /// Plain virtio-net with mergeable buffers.
    VirtioNet,
    /// One descriptor.
    Linear {
        /// Its bytes.
        size: u32,
    },
    /// Two descriptors: headers and payload.
    #[serde(rename_all = "kebab-case")]
    Split {
        /// Bytes of the header fragment.
        header_size: u32,
        /// Bytes of the payload buffer.
        page_size: u32,
        /// Frames up to this length are not split.
        hds_thresh: u32,
    },
    /// A layout that a newer backend has.
    #[serde(other)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Other,
}

/// A ring.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Ring {
    /// Descriptors.
    pub size: u16,
    /// Whether it runs.
    pub running: bool,
    /// Whether the frontend enabled it.
    pub enabled: bool,
    /// The next entry of the available ring to take, modulo 65536.
    pub next_available: u16,
    /// The next entry of the used ring to write, modulo 65536.
    pub next_used: u16,
    /// Frames held by faults.
    pub held_frames: u64,
    /// Chains withheld by faults.
    pub held_chains: u64,
    /// Frames that faults dropped.
    pub fault_drops: u64,
    /// Those of them that rules held, copied or redirected beyond a limit.
    #[serde(default)]
    pub fault_limit_drops: u64,
}

/// The result of `query-steering`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Steering {
    /// Whether every frame passes the address filter.
    pub promisc: bool,
    /// Whether every multicast frame passes it.
    pub allmulti: bool,
    /// Addresses that pass.
    pub addresses: Vec<String>,
    /// RSS contexts.
    pub contexts: Vec<RssContext>,
    /// Flow rules by location.
    pub rules: Vec<SteeringRule>,
}

/// An RSS context.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RssContext {
    /// Its number.
    pub context: u16,
    /// Hash input by flow type, as `ethtool -n ... rx-flow-hash` names it; types without a hash are
    /// missing.
    pub fields: Vec<(String, Vec<String>)>,
    /// The symmetric transform.
    pub symmetric: String,
    /// The indirection table.
    pub table: Vec<u16>,
}

/// A flow rule.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct SteeringRule {
    /// The lowest that matches wins.
    pub location: u32,
    /// Frames that it applies to.
    pub rule_type: String,
    /// The action: `drop`, `queue` or `context`.
    pub action: String,
    /// The queue, or the offset to the context's queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<u16>,
    /// The RSS context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<u16>,
    /// The fields that are compared.
    pub fields: Vec<RuleField>,
}

/// A field that a rule compares, in network order.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RuleField {
    /// Its name.
    pub field: String,
    /// Its value.
    pub value: String,
    /// The bits that count.
    pub mask: String,
}

/// An IP address or a number, as text.
#[must_use]
pub fn address_text(bytes: &[u8; 16], v4: bool) -> String {
    let [a, b, c, d, ..] = *bytes;
    let address: IpAddr = if v4 {
        [a, b, c, d].into()
    } else {
        (*bytes).into()
    };
    address.to_string()
}
