//! Faults on demand (docs/faults.md).

use std::{
    fmt,
    num::{NonZeroU32, NonZeroU64, ParseIntError},
    str::FromStr,
};

use serde::{Deserialize, Serialize, Serializer, ser::Error};

use super::{FlowMatch, OrNewer};

/// The number of a fault rule, unique while the backend runs.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct FaultId(pub u64);

impl FromStr for FaultId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for FaultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The traffic that a rule applies to.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Frames that arrive at a receive queue.
    Rx,
    /// Frames that a transmit queue sends.
    Tx,
    /// Commands of the driver.
    Command,
}

/// A fault rule. At most one of `nth`, `every` and `probability` is given; without them the rule
/// hits every frame or command that it applies to.
///
/// ```
/// use zcnic_ctl::protocol::fault::{Action, FaultRule};
///
/// let rule: FaultRule = serde_json::from_str(
///     r#"{"direction": "rx", "probability": 0.1, "action": {"delay": {"nanoseconds": 5000}}}"#,
/// )?;
/// assert_eq!(rule.action, Action::Delay { nanoseconds: 5000 });
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FaultRule {
    /// The traffic that the rule applies to.
    pub direction: Direction,
    /// Only frames of this queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<u16>,
    /// Only these frames.
    #[serde(rename = "match", default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<FlowMatch>,
    /// Only these commands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opcode: Option<Opcode>,
    /// Only while the queue is in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The rule hits the frame with this number, counted from 1 per queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nth: Option<NonZeroU64>,
    /// The rule hits each multiple of this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<NonZeroU64>,
    /// The rule hits with this probability, 0 to 1.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "finite"
    )]
    pub probability: Option<f64>,
    /// The seed of random draws; 0 if it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Distinguishes rules with the same seed; by default, the position in the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<u32>,
    /// The most hits on each queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<NonZeroU64>,
    /// The state that the queue enters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enter: Option<String>,
    /// The action.
    pub action: Action,
}

/// Writes a number. JSON has `null` for infinity and NaN, and a rule that is read with `null` hits
/// every frame.
fn finite<S: Serializer>(number: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match number {
        Some(number) if !number.is_finite() => {
            let text = format!("probability {number} is not between 0 and 1");
            Err(S::Error::custom(text))
        }
        number => number.serialize(serializer),
    }
}

/// The action of a fault rule; docs/faults.md explains each.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "explained in docs/faults.md and zcnic_device::fault"
)]
pub enum Action {
    Drop,
    Duplicate {
        #[serde(default = "one")]
        copies: NonZeroU32,
    },
    Delay {
        nanoseconds: u64,
    },
    Reorder {
        #[serde(default = "one")]
        by: NonZeroU32,
    },
    Corrupt {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bit: Option<u32>,
    },
    Truncate {
        length: u32,
    },
    ShortBuffer {
        bytes: u32,
    },
    SplitMissed,
    SplitWrong {
        at: u32,
    },
    PayloadInHeader,
    WrongQueue {
        queue: u16,
    },
    WrongHash {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<u32>,
    },
    WrongChecksum {
        #[serde(default)]
        verdict: Verdict,
    },
    DescriptorError,
    BadUsedId {
        #[serde(default)]
        beyond: u32,
    },
    DuplicateCompletion,
    WithholdCompletion {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        frames: Option<NonZeroU32>,
    },
    Stall {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nanoseconds: Option<u64>,
    },
    LostInterrupt,
    SpuriousInterrupt,
    CommandError {
        #[serde(default)]
        status: CommandStatus,
        #[serde(default)]
        detail: u32,
    },
    CommandTimeout {
        #[serde(default)]
        executed: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nanoseconds: Option<u64>,
    },
    LinkFlap {
        nanoseconds: u64,
    },
    DeviceReset,
    Disconnect,
}

fn one() -> NonZeroU32 {
    NonZeroU32::MIN
}

/// A checksum verdict to report instead of the valid one.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Good becomes bad, anything else good.
    #[default]
    Inverted,
    /// Reported as valid.
    Good,
    /// Reported as invalid.
    Bad,
    /// Reported as not verified.
    Unknown,
}

/// The commands of docs/abi.md.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "explained in docs/abi.md")]
pub enum Opcode {
    Hello,
    RxqStart,
    RxqStop,
    TxqStart,
    TxqStop,
    RssSet,
    RssDel,
    RuleSet,
    RuleDel,
    RxMode,
    Offloads,
    Coalesce,
    Stats,
    Status,
    Clock,
    Mtu,
    ClockAdjust,
}

/// The error statuses of commands, from docs/abi.md.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "explained in docs/abi.md")]
pub enum CommandStatus {
    Stale,
    #[default]
    Invalid,
    Unsupported,
    NoSpace,
    NotFound,
    Busy,
    Version,
}

/// Arguments of `fault-add`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FaultAdd {
    /// The port's name.
    pub port: String,
    /// All of these are added, or none.
    pub rules: Vec<FaultRule>,
}

/// The result of `fault-add`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FaultIds {
    /// Numbers of the rules, in their order; unique while the backend runs.
    pub ids: Vec<FaultId>,
}

/// Arguments of `fault-remove`: either of them.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FaultRemove {
    /// Number of a rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<FaultId>,
    /// Name of a port, whose rules are all removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
}

/// Arguments of `fault-wait`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FaultWait {
    /// Number of the rule.
    pub id: FaultId,
    /// The number of hits to wait for, over all queues.
    #[serde(default = "hits")]
    pub hits: u64,
    /// The timeout, in nanoseconds.
    pub timeout: u64,
}

fn hits() -> u64 {
    1
}

/// The result of `fault-list`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Faults {
    /// The rules of all ports.
    pub faults: Vec<FaultStatus>,
}

/// A rule and its counts, the result of `fault-wait`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct FaultStatus {
    /// Its number.
    pub id: FaultId,
    /// Its port.
    pub port: String,
    /// Frames and commands that it applied to.
    pub seen: u64,
    /// Frames and commands that it hit.
    pub hits: u64,
    /// Whether a backend that dies after a hit leaves rings that its successor can't resume.
    pub voids_recovery: bool,
    /// The rule, as it is in force.
    #[cfg_attr(feature = "schema", schemars(with = "FaultRule"))]
    pub rule: OrNewer<FaultRule>,
}
