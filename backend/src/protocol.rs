//! Between the control protocol's fault rules and the device's.

use zcnic_ctl::protocol::{
    FlowMatch, Protocol,
    fault::{
        Action as Said, CommandStatus, Direction as SaidDirection, FaultRule, Opcode as SaidOpcode,
        Verdict,
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
    ($to:ident, $from:ident: $said:ty, $meant:ty { $($variant:ident),* $(,)? }) => {
        const fn $to(said: $said) -> $meant {
            match said {
                $(<$said>::$variant => <$meant>::$variant,)*
            }
        }

        /// `None`: there is no word for it.
        #[allow(unreachable_patterns, reason = "one of the enums knows more than can be said")]
        const fn $from(meant: $meant) -> Option<$said> {
            match meant {
                $(<$meant>::$variant => Some(<$said>::$variant),)*
                _ => None,
            }
        }
    };
}

same!(opcode, said_opcode: SaidOpcode, Opcode {
    Hello, RxqStart, RxqStop, TxqStart, TxqStop, RssSet, RssDel, RuleSet, RuleDel, RxMode, Offloads,
    Coalesce, Stats, Status, Clock,
});
same!(status, said_status: CommandStatus, Status {
    Stale, Invalid, Unsupported, NoSpace, NotFound, Busy, Version,
});
same!(verdict, said_verdict: Verdict, WrongVerdict { Inverted, Good, Bad, Unknown });

const fn direction(said: SaidDirection) -> Direction {
    match said {
        SaidDirection::Rx => Direction::Receive,
        SaidDirection::Tx => Direction::Transmit,
        SaidDirection::Command => Direction::Command,
    }
}

pub(crate) const fn said_direction(meant: Direction) -> SaidDirection {
    match meant {
        Direction::Receive => SaidDirection::Rx,
        Direction::Transmit => SaidDirection::Tx,
        Direction::Command => SaidDirection::Command,
    }
}

/// The flow that a client means.
pub(crate) fn pattern(said: FlowMatch) -> FlowPattern {
    FlowPattern {
        protocol: said.protocol.map(|protocol| match protocol {
            Protocol::Tcp => L4Protocol::Tcp,
            Protocol::Udp => L4Protocol::Udp,
        }),
        source: said.source,
        destination: said.destination,
        source_port: said.source_port,
        destination_port: said.destination_port,
    }
}

fn said_pattern(meant: FlowPattern) -> Option<FlowMatch> {
    (meant != FlowPattern::default()).then(|| FlowMatch {
        protocol: meant.protocol.map(|protocol| match protocol {
            L4Protocol::Tcp => Protocol::Tcp,
            L4Protocol::Udp => Protocol::Udp,
        }),
        source: meant.source,
        destination: meant.destination,
        source_port: meant.source_port,
        destination_port: meant.destination_port,
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
pub(crate) fn rule(said: &FaultRule, position: u32) -> Result<Rule, ConvertError> {
    let when = match (said.nth, said.every, said.probability) {
        (None, None, None) => When::Always,
        (Some(nth), None, None) => When::Nth(nth),
        (None, Some(every), None) => When::Every(every),
        (None, None, Some(chance)) => When::Probability(Probability::new(chance)?),
        _ => return Err(ConvertError::Trigger),
    };
    let state = |name: &Option<String>| name.as_deref().map(Into::into);
    Ok(Rule {
        direction: direction(said.direction),
        queue: said.queue,
        flow: said.pattern.map(pattern).unwrap_or_default(),
        opcode: said.opcode.map(opcode),
        state: state(&said.state),
        when,
        seed: said.seed.unwrap_or(0),
        stream: said.stream.unwrap_or(position),
        times: said.times,
        action: action(said.action),
        enter: state(&said.enter),
    })
}

/// A rule as it is listed back.
pub(crate) fn said_rule(rule: &Rule) -> FaultRule {
    let (mut nth, mut every, mut probability) = (None, None, None);
    match rule.when {
        When::Always => {}
        When::Nth(count) => nth = Some(count),
        When::Every(count) => every = Some(count),
        When::Probability(chance) => probability = Some(chance.value()),
    }
    FaultRule {
        direction: said_direction(rule.direction),
        queue: rule.queue,
        pattern: said_pattern(rule.flow),
        opcode: rule.opcode.and_then(said_opcode),
        state: rule.state.as_deref().map(str::to_owned),
        nth,
        every,
        probability,
        seed: Some(rule.seed),
        stream: Some(rule.stream),
        times: rule.times,
        enter: rule.enter.as_deref().map(str::to_owned),
        action: said_action(rule.action),
    }
}

fn action(said: Said) -> Action {
    match said {
        Said::Drop => Action::Frame(FrameFault::Drop),
        Said::Duplicate { copies } => Action::Frame(FrameFault::Duplicate { copies }),
        Said::Delay { nanoseconds } => Action::Frame(FrameFault::Delay { nanoseconds }),
        Said::Reorder { by } => Action::Frame(FrameFault::Reorder { by }),
        Said::Corrupt { bit } => Action::Frame(FrameFault::Corrupt { bit }),
        Said::Truncate { length } => Action::Frame(FrameFault::Truncate { length }),
        Said::ShortBuffer { bytes } => Action::Placement(PlacementFault::ShortBuffer { bytes }),
        Said::SplitMissed => Action::Placement(PlacementFault::SplitMissed),
        Said::SplitWrong { at } => Action::Placement(PlacementFault::SplitWrong { at }),
        Said::PayloadInHeader => Action::Placement(PlacementFault::PayloadInHeader),
        Said::WrongQueue { queue } => Action::Placement(PlacementFault::WrongQueue { queue }),
        Said::WrongHash { value } => Action::Metadata(MetadataFault::WrongHash { value }),
        Said::WrongChecksum { verdict: said } => {
            let verdict = verdict(said);
            Action::Metadata(MetadataFault::WrongChecksum { verdict })
        }
        Said::DescriptorError => Action::Completion(CompletionFault::DescriptorError),
        Said::BadUsedId { beyond } => Action::Completion(CompletionFault::BadUsedId { beyond }),
        Said::DuplicateCompletion => Action::Completion(CompletionFault::Duplicate),
        Said::WithholdCompletion { frames } => {
            Action::Completion(CompletionFault::Withhold { frames })
        }
        Said::Stall { nanoseconds } => Action::Queue(QueueFault::Stall { nanoseconds }),
        Said::LostInterrupt => Action::Queue(QueueFault::Interrupt(InterruptFault::Lost)),
        Said::SpuriousInterrupt => Action::Queue(QueueFault::Interrupt(InterruptFault::Spurious)),
        Said::CommandError {
            status: said,
            detail,
        } => Action::Command(CommandFault::Error {
            status: status(said),
            detail,
        }),
        Said::CommandTimeout {
            executed,
            nanoseconds,
        } => Action::Command(CommandFault::Timeout {
            executed,
            nanoseconds,
        }),
        Said::LinkFlap { nanoseconds } => Action::Port(PortFault::LinkFlap { nanoseconds }),
        Said::DeviceReset => Action::Port(PortFault::DeviceReset),
        Said::Disconnect => Action::Port(PortFault::Disconnect),
    }
}

fn said_action(meant: Action) -> Said {
    match meant {
        Action::Frame(fault) => match fault {
            FrameFault::Drop => Said::Drop,
            FrameFault::Duplicate { copies } => Said::Duplicate { copies },
            FrameFault::Delay { nanoseconds } => Said::Delay { nanoseconds },
            FrameFault::Reorder { by } => Said::Reorder { by },
            FrameFault::Corrupt { bit } => Said::Corrupt { bit },
            FrameFault::Truncate { length } => Said::Truncate { length },
        },
        Action::Placement(fault) => match fault {
            PlacementFault::ShortBuffer { bytes } => Said::ShortBuffer { bytes },
            PlacementFault::SplitMissed => Said::SplitMissed,
            PlacementFault::SplitWrong { at } => Said::SplitWrong { at },
            PlacementFault::PayloadInHeader => Said::PayloadInHeader,
            PlacementFault::WrongQueue { queue } => Said::WrongQueue { queue },
        },
        Action::Metadata(MetadataFault::WrongHash { value }) => Said::WrongHash { value },
        Action::Metadata(MetadataFault::WrongChecksum { verdict }) => Said::WrongChecksum {
            verdict: said_verdict(verdict).unwrap_or_default(),
        },
        Action::Completion(fault) => match fault {
            CompletionFault::DescriptorError => Said::DescriptorError,
            CompletionFault::BadUsedId { beyond } => Said::BadUsedId { beyond },
            CompletionFault::Duplicate => Said::DuplicateCompletion,
            CompletionFault::Withhold { frames } => Said::WithholdCompletion { frames },
        },
        Action::Queue(QueueFault::Stall { nanoseconds }) => Said::Stall { nanoseconds },
        Action::Queue(QueueFault::Interrupt(InterruptFault::Lost)) => Said::LostInterrupt,
        Action::Queue(QueueFault::Interrupt(InterruptFault::Spurious)) => Said::SpuriousInterrupt,
        Action::Command(CommandFault::Error { status, detail }) => Said::CommandError {
            status: said_status(status).unwrap_or_default(),
            detail,
        },
        Action::Command(CommandFault::Timeout {
            executed,
            nanoseconds,
        }) => Said::CommandTimeout {
            executed,
            nanoseconds,
        },
        Action::Port(PortFault::LinkFlap { nanoseconds }) => Said::LinkFlap { nanoseconds },
        Action::Port(PortFault::DeviceReset) => Said::DeviceReset,
        Action::Port(PortFault::Disconnect) => Said::Disconnect,
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
            let said: FaultRule = serde_json::from_value(whole.clone()).expect("a rule");
            let meant = rule(&said, 9).expect("makes sense");
            assert_eq!(meant.check(), Ok(()), "{action}");
            assert_eq!(
                serde_json::to_value(said_rule(&meant)).expect("JSON"),
                whole
            );
            names.push(meant.action.name());
            // Names are the same on both sides.
            let name = action
                .as_str()
                .map(str::to_owned)
                .or_else(|| action.as_object()?.keys().next().cloned());
            assert_eq!(name.as_deref(), Some(meant.action.name()));
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
            let said: FaultRule = serde_json::from_value(whole.clone()).expect("a rule");
            let meant = rule(&said, 0).expect("makes sense");
            assert_eq!(
                serde_json::to_value(said_rule(&meant)).expect("JSON"),
                whole
            );
        }
        let both = json!({"direction": "tx", "nth": 1, "every": 2, "action": "drop"});
        let said: FaultRule = serde_json::from_value(both).expect("a rule");
        assert!(matches!(rule(&said, 0), Err(ConvertError::Trigger)));
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
