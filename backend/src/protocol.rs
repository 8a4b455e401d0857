//! Conversions between the control protocol's types and the device's.

use zcnic_ctl::protocol::{
    FlowMatch, Protocol,
    fault::{
        Action as ProtocolAction, CommandStatus, Direction as ProtocolDirection, FaultRule,
        Opcode as ProtocolOpcode, Verdict as ProtocolVerdict,
    },
    ledger::{BufferChange, BufferEvent, BufferHistory, StopReport},
    port::{Layout as ProtocolLayout, RuleField, address_text},
};
use zcnic_device::{
    abi::{self, Flow, Opcode, RuleType, Status},
    fault::{
        Action, CommandFault, CompletionFault, Direction, FrameFault, InterruptFault,
        MetadataFault, PlacementFault, PortFault, Probability, QueueFault, Rule, RuleError, When,
        metadata::WrongVerdict,
    },
    features::{Feature, FeatureSet},
    flow::FlowPattern,
    frame::L4Protocol,
    ledger::{self, GuestRange, Transfer},
    receive,
};

/// Declares both directions of the conversion between two enums with the same variants. Behind
/// `unnamed` stand the device's variants that the protocol has no name for.
macro_rules! same {
    ($to:ident, $from:ident: $theirs:ty, $ours:ty {
        $($variant:ident),* $(; unnamed $($unnamed:ident),*)?
    }) => {
        const fn $to(theirs: $theirs) -> $ours {
            match theirs {
                $(<$theirs>::$variant => <$ours>::$variant,)*
            }
        }

        const fn $from(ours: $ours) -> Option<$theirs> {
            match ours {
                $(<$ours>::$variant => Some(<$theirs>::$variant),)*
                $($(<$ours>::$unnamed => None,)*)?
            }
        }
    };
}

same!(opcode_from_protocol, opcode_to_protocol: ProtocolOpcode, Opcode {
    Hello, RxqStart, RxqStop, TxqStart, TxqStop, RssSet, RssDel, RuleSet, RuleDel, RxMode, Offloads,
    Coalesce, Stats, Status, Clock, Mtu, ClockAdjust
});
same!(status_from_protocol, status_to_protocol: CommandStatus, Status {
    Stale, Invalid, Unsupported, NoSpace, NotFound, Busy, Version; unnamed Ok, Accepted
});
same!(verdict_from_protocol, verdict_to_protocol: ProtocolVerdict, WrongVerdict {
    Inverted, Good, Bad, Unknown
});

const fn direction_from_protocol(theirs: ProtocolDirection) -> Direction {
    match theirs {
        ProtocolDirection::Rx => Direction::Receive,
        ProtocolDirection::Tx => Direction::Transmit,
        ProtocolDirection::Command => Direction::Command,
    }
}

/// The life of a buffer, as clients get it.
pub(crate) fn buffer_to_protocol(
    range: GuestRange,
    events: impl IntoIterator<Item = ledger::BufferEvent>,
) -> BufferHistory {
    let event = |event: ledger::BufferEvent| BufferEvent {
        time: event.time,
        head: event.head,
        change: match event.transfer {
            Transfer::Posted => BufferChange::Posted,
            Transfer::Filled => BufferChange::Filled,
            Transfer::Unused => BufferChange::Unused,
        },
    };
    BufferHistory {
        address: range.address,
        length: range.length,
        events: events.into_iter().map(event).collect(),
    }
}

pub(crate) const fn direction_to_protocol(ours: Direction) -> ProtocolDirection {
    match ours {
        Direction::Receive => ProtocolDirection::Rx,
        Direction::Transmit => ProtocolDirection::Tx,
        Direction::Command => ProtocolDirection::Command,
    }
}

/// The flow pattern that a client sent.
pub(crate) fn pattern_from_protocol(theirs: FlowMatch) -> FlowPattern {
    FlowPattern {
        protocol: theirs.protocol.map(|protocol| match protocol {
            Protocol::Tcp => L4Protocol::Tcp,
            Protocol::Udp => L4Protocol::Udp,
        }),
        source: theirs.source,
        destination: theirs.destination,
        source_port: theirs.source_port,
        destination_port: theirs.destination_port,
    }
}

fn pattern_to_protocol(ours: FlowPattern) -> Option<FlowMatch> {
    (ours != FlowPattern::default()).then(|| FlowMatch {
        protocol: ours.protocol.map(|protocol| match protocol {
            L4Protocol::Tcp => Protocol::Tcp,
            L4Protocol::Udp => Protocol::Udp,
        }),
        source: ours.source,
        destination: ours.destination,
        source_port: ours.source_port,
        destination_port: ours.destination_port,
    })
}

/// Why a client's rule is invalid.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConvertError {
    #[error("Of nth, every and probability at most one can be given")]
    Trigger,
    #[error(transparent)]
    Rule(#[from] RuleError),
}

/// The rule that a client sent. `position` is its position among those that are added with it, and
/// the default of its `stream`.
///
/// # Errors
///
/// It has more than one trigger, or an invalid probability.
pub(crate) fn rule_from_protocol(theirs: &FaultRule, position: u32) -> Result<Rule, ConvertError> {
    let when = match (theirs.nth, theirs.every, theirs.probability) {
        (None, None, None) => When::Always,
        (Some(nth), None, None) => When::Nth(nth),
        (None, Some(every), None) => When::Every(every),
        (None, None, Some(chance)) => When::Probability(Probability::new(chance)?),
        _ => return Err(ConvertError::Trigger),
    };
    let state = |name: &Option<String>| name.as_deref().map(Into::into);
    Ok(Rule {
        direction: direction_from_protocol(theirs.direction),
        queue: theirs.queue,
        flow: theirs
            .pattern
            .map(pattern_from_protocol)
            .unwrap_or_default(),
        opcode: theirs.opcode.map(opcode_from_protocol),
        state: state(&theirs.state),
        when,
        seed: theirs.seed.unwrap_or(0),
        stream: theirs.stream.unwrap_or(position),
        times: theirs.times,
        action: action_from_protocol(theirs.action),
        enter: state(&theirs.enter),
    })
}

/// A rule as the protocol lists it.
pub(crate) fn rule_to_protocol(rule: &Rule) -> FaultRule {
    let (mut nth, mut every, mut probability) = (None, None, None);
    match rule.when {
        When::Always => {}
        When::Nth(count) => nth = Some(count),
        When::Every(count) => every = Some(count),
        When::Probability(chance) => probability = Some(chance.value()),
    }
    FaultRule {
        direction: direction_to_protocol(rule.direction),
        queue: rule.queue,
        pattern: pattern_to_protocol(rule.flow),
        opcode: rule.opcode.and_then(opcode_to_protocol),
        state: rule.state.as_deref().map(str::to_owned),
        nth,
        every,
        probability,
        seed: Some(rule.seed),
        stream: Some(rule.stream),
        times: rule.times,
        enter: rule.enter.as_deref().map(str::to_owned),
        action: action_to_protocol(rule.action),
    }
}

/// Declares both directions of the conversion of actions, from a list of the protocol's variants
/// and the device's. Each entry is used as a pattern and as an expression. The two actions with a
/// parameter whose type differs are converted by hand.
macro_rules! actions {
    ($($theirs:ident $({ $($field:ident),* })? = $kind:ident($($fault:tt)+);)+) => {
        fn action_from_protocol(theirs: ProtocolAction) -> Action {
            match theirs {
                $(ProtocolAction::$theirs $({ $($field),* })? => Action::$kind($($fault)+),)+
                ProtocolAction::WrongChecksum { verdict } => {
                    let verdict = verdict_from_protocol(verdict);
                    Action::Metadata(MetadataFault::WrongChecksum { verdict })
                }
                ProtocolAction::CommandError { status, detail } => {
                    let status = status_from_protocol(status);
                    Action::Command(CommandFault::Error { status, detail })
                }
            }
        }

        fn action_to_protocol(ours: Action) -> ProtocolAction {
            match ours {
                $(Action::$kind($($fault)+) => ProtocolAction::$theirs $({ $($field),* })?,)+
                Action::Metadata(MetadataFault::WrongChecksum { verdict }) => {
                    let verdict = verdict_to_protocol(verdict).unwrap_or_default();
                    ProtocolAction::WrongChecksum { verdict }
                }
                Action::Command(CommandFault::Error { status, detail }) => {
                    let status = status_to_protocol(status).unwrap_or_default();
                    ProtocolAction::CommandError { status, detail }
                }
            }
        }
    };
}

actions! {
    Drop = Frame(FrameFault::Drop);
    Duplicate { copies } = Frame(FrameFault::Duplicate { copies });
    Delay { nanoseconds } = Frame(FrameFault::Delay { nanoseconds });
    Reorder { by } = Frame(FrameFault::Reorder { by });
    Corrupt { bit } = Frame(FrameFault::Corrupt { bit });
    Truncate { length } = Frame(FrameFault::Truncate { length });
    ShortBuffer { bytes } = Placement(PlacementFault::ShortBuffer { bytes });
    SplitMissed = Placement(PlacementFault::SplitMissed);
    SplitWrong { at } = Placement(PlacementFault::SplitWrong { at });
    PayloadInHeader = Placement(PlacementFault::PayloadInHeader);
    WrongQueue { queue } = Placement(PlacementFault::WrongQueue { queue });
    WrongHash { value } = Metadata(MetadataFault::WrongHash { value });
    DescriptorError = Completion(CompletionFault::DescriptorError);
    BadUsedId { beyond } = Completion(CompletionFault::BadUsedId { beyond });
    DuplicateCompletion = Completion(CompletionFault::Duplicate);
    WithholdCompletion { frames } = Completion(CompletionFault::Withhold { frames });
    Stall { nanoseconds } = Queue(QueueFault::Stall { nanoseconds });
    LostInterrupt = Queue(QueueFault::Interrupt(InterruptFault::Lost));
    SpuriousInterrupt = Queue(QueueFault::Interrupt(InterruptFault::Spurious));
    CommandTimeout { executed, nanoseconds } =
        Command(CommandFault::Timeout { executed, nanoseconds });
    LinkFlap { nanoseconds } = Port(PortFault::LinkFlap { nanoseconds });
    DeviceReset = Port(PortFault::DeviceReset);
    Disconnect = Port(PortFault::Disconnect);
}

/// The names of a set of features.
pub(crate) fn names(features: FeatureSet) -> Vec<String> {
    let all = Feature::ALL.into_iter();
    all.filter(|&feature| features.has(feature))
        .map(|feature| word(&feature))
        .collect()
}

/// The name of an enum's variant as the protocol writes names: `RxCsum` is `rx-csum`.
pub(crate) fn word(variant: &impl std::fmt::Debug) -> String {
    let mut word = String::new();
    for letter in format!("{variant:?}").chars() {
        if letter.is_uppercase() && !word.is_empty() {
            word.push('-');
        }
        word.extend(letter.to_lowercase());
    }
    word
}

/// The names of packet fields (`FIELD_*`).
pub(crate) fn field_names(fields: u16) -> Vec<String> {
    let known = [
        (abi::FIELD_IP_SRC, "ip-src"),
        (abi::FIELD_IP_DST, "ip-dst"),
        (abi::FIELD_L4_SRC, "l4-src"),
        (abi::FIELD_L4_DST, "l4-dst"),
        (abi::FIELD_FLOW_LABEL, "flow-label"),
    ];
    let chosen = known.iter().filter(|(bit, _)| fields & bit != 0);
    chosen.map(|(_, name)| (*name).to_owned()).collect()
}

/// A MAC address as text.
pub(crate) fn octets(mac: &[u8]) -> String {
    let octets: Vec<String> = mac.iter().map(|octet| format!("{octet:02x}")).collect();
    octets.join(":")
}

/// The fields that a rule compares.
pub(crate) fn rule_fields(rule_type: RuleType, value: &Flow, mask: &Flow) -> Vec<RuleField> {
    let v4 = matches!(rule_type, RuleType::Ipv4 | RuleType::Tcp4 | RuleType::Udp4);
    let hex = |number: u16| format!("{number:#06x}");
    type Text<'t> = &'t dyn Fn(&Flow) -> String;
    let all: [(&str, Text<'_>, bool); 10] = [
        (
            "eth-dst",
            &|flow| octets(&flow.eth_dst),
            mask.eth_dst != [0; 6],
        ),
        (
            "eth-src",
            &|flow| octets(&flow.eth_src),
            mask.eth_src != [0; 6],
        ),
        (
            "eth-type",
            &|flow| hex(flow.eth_type.get()),
            mask.eth_type.get() != 0,
        ),
        (
            "vlan-tci",
            &|flow| hex(flow.vlan_tci.get()),
            mask.vlan_tci.get() != 0,
        ),
        (
            "ip-proto",
            &|flow| flow.ip_proto.to_string(),
            mask.ip_proto != 0,
        ),
        (
            "ip-tos",
            &|flow| format!("{:#04x}", flow.ip_tos),
            mask.ip_tos != 0,
        ),
        (
            "ip-src",
            &|flow| address_text(&flow.ip_src, v4),
            mask.ip_src != [0; 16],
        ),
        (
            "ip-dst",
            &|flow| address_text(&flow.ip_dst, v4),
            mask.ip_dst != [0; 16],
        ),
        (
            "l4-src",
            &|flow| flow.l4_src.to_string(),
            mask.l4_src.get() != 0,
        ),
        (
            "l4-dst",
            &|flow| flow.l4_dst.to_string(),
            mask.l4_dst.get() != 0,
        ),
    ];
    all.iter()
        .filter(|(_, _, compared)| *compared)
        .map(|(field, text, _)| RuleField {
            field: (*field).into(),
            value: text(value),
            mask: text(mask),
        })
        .collect()
}

/// The layout of a receive queue.
pub(crate) fn layout_to_protocol(layout: receive::Layout) -> ProtocolLayout {
    match layout {
        receive::Layout::VirtioNet => ProtocolLayout::VirtioNet,
        receive::Layout::Linear { size } => ProtocolLayout::Linear { size },
        receive::Layout::Split {
            header_size,
            page_size,
            threshold,
            ..
        } => ProtocolLayout::Split {
            header_size,
            page_size,
            hds_thresh: threshold,
        },
    }
}

/// The report of a ledger when its queue stopped.
pub(crate) fn stop_report_to_protocol(report: ledger::StopReport) -> StopReport {
    StopReport {
        clean: report.is_clean(),
        posted: report.posted,
        returned: report.returned,
        violations: report.violations,
        out: report.out,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use zcnic_device::fault::ACTIONS;

    use super::*;

    #[test]
    fn names_are_those_of_the_protocol() {
        assert_eq!(word(&Feature::RxCsum), "rx-csum");
        assert_eq!(word(&RuleType::Tcp4), "tcp4");
        assert_eq!(names(FeatureSet::ALL).len(), Feature::ALL.len());
    }

    #[test]
    fn opcodes_have_the_same_names_on_both_sides_and_are_documented() {
        let documented = include_str!("../../docs/faults.md");
        let row = documented
            .lines()
            .find(|line| line.starts_with("| `opcode` |"));
        let row = row.expect("a row about opcodes");
        for opcode in Opcode::ALL {
            let theirs = opcode_to_protocol(opcode).expect("a name");
            assert_eq!(opcode_from_protocol(theirs), opcode);
            assert_eq!(serde_json::to_value(theirs).expect("JSON"), word(&opcode));
            assert!(row.contains(&format!("`{}`", word(&opcode))), "{opcode:?}");
        }
    }

    /// Every action as a client sends it, with all its parameters.
    fn actions() -> Vec<Value> {
        vec![
            json!("drop"),
            json!({"duplicate": {"copies": 2}}),
            json!({"delay": {"nanoseconds": 1000}}),
            json!({"reorder": {"by": 2}}),
            json!({"corrupt": {"bit": 9}}),
            json!({"truncate": {"length": 60}}),
            json!({"short-buffer": {"bytes": 4}}),
            json!("split-missed"),
            json!({"split-wrong": {"at": 20}}),
            json!("payload-in-header"),
            json!({"wrong-queue": {"queue": 1}}),
            json!({"wrong-hash": {"value": 7}}),
            json!({"wrong-checksum": {"verdict": "good"}}),
            json!("descriptor-error"),
            json!({"bad-used-id": {"beyond": 1}}),
            json!("duplicate-completion"),
            json!({"withhold-completion": {"frames": 3}}),
            json!({"stall": {"nanoseconds": 5}}),
            json!("lost-interrupt"),
            json!("spurious-interrupt"),
            json!({"command-error": {"status": "no-space", "detail": 1}}),
            json!({"command-timeout": {"executed": true, "nanoseconds": 5}}),
            json!({"link-flap": {"nanoseconds": 5}}),
            json!("device-reset"),
            json!("disconnect"),
        ]
    }

    #[test]
    fn every_action_is_listed_as_it_was_added() {
        let mut names = Vec::new();
        for action in actions() {
            let command = action.to_string().contains("command");
            let whole = json!({
                "direction": if command { "command" } else { "rx" },
                "state": "a", "enter": "b", "every": 3, "seed": 4, "stream": 5, "times": 6,
                "action": action,
            });
            let theirs: FaultRule = serde_json::from_value(whole.clone()).expect("a rule");
            let ours = rule_from_protocol(&theirs, 9).expect("makes sense");
            assert_eq!(ours.check(), Ok(()), "{action}");
            assert_eq!(
                serde_json::to_value(rule_to_protocol(&ours)).expect("JSON"),
                whole
            );
            names.push(ours.action.name());
            // Names are the same on both sides.
            let name = action
                .as_str()
                .map(str::to_owned)
                .or_else(|| action.as_object()?.keys().next().cloned());
            assert_eq!(name.as_deref(), Some(ours.action.name()));
        }
        assert_eq!(names, ACTIONS.map(|info| info.name));
    }

    #[test]
    fn every_trigger_is_listed_as_it_was_added() {
        for (trigger, value) in [
            ("nth", json!(3)),
            ("every", json!(3)),
            ("probability", json!(0.25)),
            ("queue", json!(7)),
            (
                "match",
                json!({"protocol": "udp", "source": "10.0.0.1", "destination-port": 5}),
            ),
        ] {
            let mut whole = json!({"direction": "tx", "seed": 0, "stream": 0, "action": "drop"});
            whole[trigger] = value;
            let theirs: FaultRule = serde_json::from_value(whole.clone()).expect("a rule");
            let ours = rule_from_protocol(&theirs, 0).expect("makes sense");
            assert_eq!(
                serde_json::to_value(rule_to_protocol(&ours)).expect("JSON"),
                whole
            );
        }
        let both = json!({"direction": "tx", "nth": 1, "every": 2, "action": "drop"});
        let theirs: FaultRule = serde_json::from_value(both).expect("a rule");
        assert!(matches!(
            rule_from_protocol(&theirs, 0),
            Err(ConvertError::Trigger)
        ));
    }

    #[test]
    fn unknown_words_are_refused() {
        for wrong in [
            json!({"direction": "rx", "action": "explode"}),
            json!({"direction": "rx", "action": {"delay": {}}}),
            json!({"direction": "rx", "action": {"delay": {"nanoseconds": 1, "extra": 2}}}),
            json!({"direction": "up", "action": "drop"}),
            json!({"direction": "rx", "nth": 0, "action": "drop"}),
            json!({"direction": "rx", "when": 3, "action": "drop"}),
            json!({"direction": "rx"}),
        ] {
            assert!(
                serde_json::from_value::<FaultRule>(wrong.clone()).is_err(),
                "{wrong}"
            );
        }
    }
}
