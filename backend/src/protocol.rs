//! Between the control protocol's fault rules and the device's.

use zcnic_ctl::protocol::{
    FlowMatch, Protocol,
    fault::{
        Action as ProtocolAction, CommandStatus, Direction as ProtocolDirection, FaultRule,
        Opcode as ProtocolOpcode, Verdict as ProtocolVerdict,
    },
};
use zcnic_device::{
    abi::{Opcode, Status},
    fault::{
        Action, CommandFault, CompletionFault, Direction, FrameFault, InterruptFault,
        MetadataFault, PlacementFault, PortFault, Probability, QueueFault, Rule, RuleError, When,
        metadata::WrongVerdict,
    },
    flow::FlowPattern,
    frame::L4Protocol,
};

/// Declares both directions of the conversion between two enums with the same variants.
macro_rules! same {
    ($to:ident, $from:ident: $theirs:ty, $ours:ty { $($variant:ident),* $(,)? }) => {
        const fn $to(theirs: $theirs) -> $ours {
            match theirs {
                $(<$theirs>::$variant => <$ours>::$variant,)*
            }
        }

        /// `None`: there is no word for it.
        #[allow(unreachable_patterns, reason = "one of the enums knows more than can be theirs")]
        const fn $from(ours: $ours) -> Option<$theirs> {
            match ours {
                $(<$ours>::$variant => Some(<$theirs>::$variant),)*
                _ => None,
            }
        }
    };
}

same!(opcode_from_protocol, opcode_to_protocol: ProtocolOpcode, Opcode {
    Hello, RxqStart, RxqStop, TxqStart, TxqStop, RssSet, RssDel, RuleSet, RuleDel, RxMode, Offloads,
    Coalesce, Stats, Status, Clock,
});
same!(status_from_protocol, status_to_protocol: CommandStatus, Status {
    Stale, Invalid, Unsupported, NoSpace, NotFound, Busy, Version,
});
same!(verdict_from_protocol, verdict_to_protocol: ProtocolVerdict, WrongVerdict { Inverted, Good, Bad, Unknown });

const fn direction_from_protocol(theirs: ProtocolDirection) -> Direction {
    match theirs {
        ProtocolDirection::Rx => Direction::Receive,
        ProtocolDirection::Tx => Direction::Transmit,
        ProtocolDirection::Command => Direction::Command,
    }
}

pub(crate) const fn direction_to_protocol(ours: Direction) -> ProtocolDirection {
    match ours {
        Direction::Receive => ProtocolDirection::Rx,
        Direction::Transmit => ProtocolDirection::Tx,
        Direction::Command => ProtocolDirection::Command,
    }
}

/// The flow that a client means.
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

/// Why a rule of a client is no rule.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConvertError {
    #[error("Of nth, every and probability at most one can be given")]
    Trigger,
    #[error(transparent)]
    Rule(#[from] RuleError),
}

/// The rule that a client means; `position` tells it apart from those that are added with it.
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

/// A rule as it is listed back.
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

fn action_from_protocol(theirs: ProtocolAction) -> Action {
    match theirs {
        ProtocolAction::Drop => Action::Frame(FrameFault::Drop),
        ProtocolAction::Duplicate { copies } => Action::Frame(FrameFault::Duplicate { copies }),
        ProtocolAction::Delay { nanoseconds } => Action::Frame(FrameFault::Delay { nanoseconds }),
        ProtocolAction::Reorder { by } => Action::Frame(FrameFault::Reorder { by }),
        ProtocolAction::Corrupt { bit } => Action::Frame(FrameFault::Corrupt { bit }),
        ProtocolAction::Truncate { length } => Action::Frame(FrameFault::Truncate { length }),
        ProtocolAction::ShortBuffer { bytes } => {
            Action::Placement(PlacementFault::ShortBuffer { bytes })
        }
        ProtocolAction::SplitMissed => Action::Placement(PlacementFault::SplitMissed),
        ProtocolAction::SplitWrong { at } => Action::Placement(PlacementFault::SplitWrong { at }),
        ProtocolAction::PayloadInHeader => Action::Placement(PlacementFault::PayloadInHeader),
        ProtocolAction::WrongQueue { queue } => {
            Action::Placement(PlacementFault::WrongQueue { queue })
        }
        ProtocolAction::WrongHash { value } => Action::Metadata(MetadataFault::WrongHash { value }),
        ProtocolAction::WrongChecksum { verdict: theirs } => {
            let verdict = verdict_from_protocol(theirs);
            Action::Metadata(MetadataFault::WrongChecksum { verdict })
        }
        ProtocolAction::DescriptorError => Action::Completion(CompletionFault::DescriptorError),
        ProtocolAction::BadUsedId { beyond } => {
            Action::Completion(CompletionFault::BadUsedId { beyond })
        }
        ProtocolAction::DuplicateCompletion => Action::Completion(CompletionFault::Duplicate),
        ProtocolAction::WithholdCompletion { frames } => {
            Action::Completion(CompletionFault::Withhold { frames })
        }
        ProtocolAction::Stall { nanoseconds } => Action::Queue(QueueFault::Stall { nanoseconds }),
        ProtocolAction::LostInterrupt => Action::Queue(QueueFault::Interrupt(InterruptFault::Lost)),
        ProtocolAction::SpuriousInterrupt => {
            Action::Queue(QueueFault::Interrupt(InterruptFault::Spurious))
        }
        ProtocolAction::CommandError {
            status: theirs,
            detail,
        } => Action::Command(CommandFault::Error {
            status: status_from_protocol(theirs),
            detail,
        }),
        ProtocolAction::CommandTimeout {
            executed,
            nanoseconds,
        } => Action::Command(CommandFault::Timeout {
            executed,
            nanoseconds,
        }),
        ProtocolAction::LinkFlap { nanoseconds } => {
            Action::Port(PortFault::LinkFlap { nanoseconds })
        }
        ProtocolAction::DeviceReset => Action::Port(PortFault::DeviceReset),
        ProtocolAction::Disconnect => Action::Port(PortFault::Disconnect),
    }
}

fn action_to_protocol(ours: Action) -> ProtocolAction {
    match ours {
        Action::Frame(fault) => match fault {
            FrameFault::Drop => ProtocolAction::Drop,
            FrameFault::Duplicate { copies } => ProtocolAction::Duplicate { copies },
            FrameFault::Delay { nanoseconds } => ProtocolAction::Delay { nanoseconds },
            FrameFault::Reorder { by } => ProtocolAction::Reorder { by },
            FrameFault::Corrupt { bit } => ProtocolAction::Corrupt { bit },
            FrameFault::Truncate { length } => ProtocolAction::Truncate { length },
        },
        Action::Placement(fault) => match fault {
            PlacementFault::ShortBuffer { bytes } => ProtocolAction::ShortBuffer { bytes },
            PlacementFault::SplitMissed => ProtocolAction::SplitMissed,
            PlacementFault::SplitWrong { at } => ProtocolAction::SplitWrong { at },
            PlacementFault::PayloadInHeader => ProtocolAction::PayloadInHeader,
            PlacementFault::WrongQueue { queue } => ProtocolAction::WrongQueue { queue },
        },
        Action::Metadata(MetadataFault::WrongHash { value }) => ProtocolAction::WrongHash { value },
        Action::Metadata(MetadataFault::WrongChecksum { verdict }) => {
            ProtocolAction::WrongChecksum {
                verdict: verdict_to_protocol(verdict).unwrap_or_default(),
            }
        }
        Action::Completion(fault) => match fault {
            CompletionFault::DescriptorError => ProtocolAction::DescriptorError,
            CompletionFault::BadUsedId { beyond } => ProtocolAction::BadUsedId { beyond },
            CompletionFault::Duplicate => ProtocolAction::DuplicateCompletion,
            CompletionFault::Withhold { frames } => ProtocolAction::WithholdCompletion { frames },
        },
        Action::Queue(QueueFault::Stall { nanoseconds }) => ProtocolAction::Stall { nanoseconds },
        Action::Queue(QueueFault::Interrupt(InterruptFault::Lost)) => ProtocolAction::LostInterrupt,
        Action::Queue(QueueFault::Interrupt(InterruptFault::Spurious)) => {
            ProtocolAction::SpuriousInterrupt
        }
        Action::Command(CommandFault::Error { status, detail }) => ProtocolAction::CommandError {
            status: status_to_protocol(status).unwrap_or_default(),
            detail,
        },
        Action::Command(CommandFault::Timeout {
            executed,
            nanoseconds,
        }) => ProtocolAction::CommandTimeout {
            executed,
            nanoseconds,
        },
        Action::Port(PortFault::LinkFlap { nanoseconds }) => {
            ProtocolAction::LinkFlap { nanoseconds }
        }
        Action::Port(PortFault::DeviceReset) => ProtocolAction::DeviceReset,
        Action::Port(PortFault::Disconnect) => ProtocolAction::Disconnect,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use zcnic_device::fault::ACTIONS;

    use super::*;

    /// Every action as a client says it, with all its parameters.
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
    fn every_action_is_listed_back_as_it_was_said() {
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
    fn every_trigger_is_listed_back_as_it_was_said() {
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
