//! What a port has beyond its status and counters.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Arguments of commands about one port.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PortName {
    /// The port's name.
    pub port: String,
}

/// Arguments of `link-set`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LinkSet {
    /// The port's name.
    pub port: String,
    /// Whether there may be a carrier.
    pub up: bool,
}

/// Arguments of `capture-start`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureStart {
    /// The port's name.
    pub port: String,
    /// How many bytes of each frame are told; all if it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u32>,
}

/// Arguments of `features-set`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FeaturesSet {
    /// The port's name.
    pub port: String,
    /// What the device is to offer; all that it can do if it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered: Option<Vec<String>>,
}

/// What `query-features` returns.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Features {
    /// Feature bits of virtio that the driver acknowledged.
    pub virtio: u64,
    /// What HELLO agreed on; empty without a session.
    pub negotiated: Vec<String>,
    /// Of these, the offloads that are switched on.
    pub offloads: Vec<String>,
    /// What the next HELLO can agree on.
    pub offered: Vec<String>,
    /// What the device can do.
    pub supported: Vec<String>,
}

/// What `query-queues` returns.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Queues {
    /// Pairs of which a ring runs.
    pub pairs: Vec<QueuePair>,
}

/// A queue pair.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct QueuePair {
    /// Its number.
    pub queue: u16,
    /// It carries commands.
    pub commands: bool,
    /// The receive queue's chains; missing: it is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    /// The transmit queue sends.
    pub transmits: bool,
    /// The receive ring.
    pub rx: Ring,
    /// The transmit ring.
    pub tx: Ring,
}

/// How frames are laid into chains.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "shape")]
pub enum Layout {
    /// Plain virtio-net with mergeable buffers.
    VirtioNet,
    /// One descriptor.
    Linear {
        /// Its bytes.
        size: u32,
    },
    /// Headers and payload apart.
    #[serde(rename_all = "kebab-case")]
    Split {
        /// Bytes of the header fragment.
        header_size: u32,
        /// Bytes of the payload buffer.
        page_size: u32,
        /// Frames up to this length are not split.
        hds_thresh: u32,
    },
}

/// A ring.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Ring {
    /// Descriptors.
    pub size: u16,
    /// It runs.
    pub running: bool,
    /// The frontend enabled it.
    pub enabled: bool,
    /// The next entry of the available ring to take, modulo 65536.
    pub next_available: u16,
    /// The next entry of the used ring to write, modulo 65536.
    pub next_used: u16,
    /// Frames that faults hold back.
    pub held_frames: u64,
    /// Chains that faults hold back.
    pub held_chains: u64,
    /// Frames that faults dropped.
    pub fault_drops: u64,
}

/// What `query-steering` returns.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Steering {
    /// Every frame passes the address filter.
    pub promisc: bool,
    /// Every multicast frame does.
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
pub struct RssContext {
    /// Its number.
    pub context: u16,
    /// Hash input by flow type, as `ethtool -n ... rx-flow-hash` names it; types without a hash are missing.
    pub fields: Vec<(String, Vec<String>)>,
    /// The symmetric transform.
    pub symmetric: String,
    /// The indirection table.
    pub table: Vec<u16>,
}

/// A flow rule.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SteeringRule {
    /// The lowest that matches wins.
    pub location: u32,
    /// Frames that it is about.
    pub rule_type: String,
    /// What happens to them: `drop`, `queue` or `context`.
    pub action: String,
    /// The queue, or what is added to the context's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<u16>,
    /// The RSS context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<u16>,
    /// What is compared.
    pub fields: Vec<RuleField>,
}

/// A field that a rule compares, in network order.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
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
