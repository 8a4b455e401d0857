//! Faults of transmitted frames, and of commands.

use std::ops::Range;

use super::{
    Action, Armed, CommandFault, CompletionFault, Effects, FrameFault, Lane, QueueFault, RawRing,
    RuleId,
    completion::complete,
    frame::{MAX_COPIES, change},
    lane::{Strike, Subject},
    owned::{OwnedFrame, Touch},
    waiting::Deadline,
};
use crate::{
    abi::{self, Opcode},
    memory::Mover,
    train::{Train, finish},
};
use zerocopy::FromBytes;

/// The result of the rules on a transmit chain.
#[derive(Debug, Default)]
pub struct Sent {
    /// The frames to send instead of the train; `None`: the train is sent unchanged.
    pub frames: Option<Vec<OwnedFrame>>,
    /// The fault of the chain's completion, for [`Lane::complete`].
    pub completion: Option<ChainFault>,
    /// The rules that hit the chain, if the train is sent unchanged.
    pub touches: Vec<Touch>,
}

/// A rule's completion fault on a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainFault {
    rule: RuleId,
    fault: CompletionFault,
}

impl ChainFault {
    /// Whether the chain counts as a transmit error.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.fault == CompletionFault::DescriptorError
    }
}

/// A rule's fault on a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandStrike {
    rule: RuleId,
    /// The fault.
    pub fault: CommandFault,
}

impl Lane {
    /// Consults the rules about a train that is to be sent. The owner of the queue checks
    /// [`is_stalled`](Self::is_stalled) before it takes a chain. A rule that stalls the queue does
    /// so from the next chain on.
    pub fn send<M: Mover>(
        &mut self,
        armed: &Armed,
        mover: &M,
        train: &Train<'_, M::Source>,
        now: u64,
        effects: &mut Effects,
    ) -> Sent {
        let mut sent = Sent::default();
        for index in 0..train.segments() {
            let subject = Subject::Frame(train.headers(), train.header_bytes());
            let strikes = self.consult(armed, &subject, effects);
            let touched = strikes.iter().any(|strike| {
                matches!(
                    strike.action,
                    Action::Frame(_) | Action::Completion(CompletionFault::DescriptorError)
                )
            });
            if touched && sent.frames.is_none() {
                sent.frames = Some(self.unchanged(mover, train, 0..index));
            }
            let bytes = sent.frames.is_some().then(|| finish(mover, train, index));
            let frames = self.strike(&strikes, bytes, now, effects, &mut sent.completion);
            match &mut sent.frames {
                Some(all) => all.extend(frames),
                None => sent.touches.extend(Strike::touches(&strikes)),
            }
            let due = self.take_due(Some(armed), now);
            if !due.is_empty() {
                sent.frames
                    .get_or_insert_with(|| self.unchanged(mover, train, 0..index + 1))
                    .extend(due);
            }
        }
        sent
    }

    /// Segments that no rule touched.
    fn unchanged<M: Mover>(
        &mut self,
        mover: &M,
        train: &Train<'_, M::Source>,
        segments: Range<usize>,
    ) -> Vec<OwnedFrame> {
        let frames = segments.filter_map(|index| {
            let bytes = finish(mover, train, index);
            self.own(bytes, None, Vec::new())
        });
        frames.collect()
    }

    fn strike(
        &mut self,
        strikes: &[Strike],
        bytes: Option<Vec<u8>>,
        now: u64,
        effects: &mut Effects,
        completion: &mut Option<ChainFault>,
    ) -> Vec<OwnedFrame> {
        let mut copies = 0_u32;
        let (mut drop, mut hold) = (false, None);
        let mut bytes = bytes;
        for &Strike { rule, action, draw } in strikes {
            match action {
                Action::Frame(fault) => match fault {
                    FrameFault::Drop => drop = true,
                    FrameFault::Duplicate { copies: more } => {
                        copies = copies.saturating_add(more.get());
                    }
                    FrameFault::Delay { nanoseconds } => {
                        hold = Some((rule, Deadline::At(now.saturating_add(nanoseconds))));
                    }
                    FrameFault::Reorder { by } => hold = Some((rule, self.behind(by.get()))),
                    FrameFault::Corrupt { .. } | FrameFault::Truncate { .. } => {
                        if let Some(bytes) = &mut bytes {
                            change(bytes, fault, draw);
                        }
                    }
                },
                Action::Completion(fault) => {
                    drop |= fault == CompletionFault::DescriptorError;
                    *completion = Some(ChainFault { rule, fault });
                }
                Action::Queue(QueueFault::Stall { nanoseconds }) => {
                    self.stall(rule, now, nanoseconds);
                }
                Action::Queue(QueueFault::Interrupt(fault)) => effects.interrupt = Some(fault),
                // Not for transmitted frames; port faults are in the effects.
                Action::Placement(_)
                | Action::Metadata(_)
                | Action::Command(_)
                | Action::Port(_) => {}
            }
        }
        if drop {
            self.drop_frame();
            return Vec::new();
        }
        let Some(frame) = bytes.and_then(|bytes| self.own(bytes, None, Strike::touches(strikes)))
        else {
            return Vec::new();
        };
        let copies = self.copies(copies, effects);
        let frames = self.duplicates(frame, copies);
        let Some((rule, deadline)) = hold else {
            return frames;
        };
        for frame in frames {
            self.hold(rule, deadline, frame);
        }
        Vec::new()
    }

    /// Returns how many of the `copies` that all rules want of one frame are made.
    pub(super) fn copies(&mut self, copies: u32, effects: &mut Effects) -> usize {
        let allowed = copies.min(MAX_COPIES);
        self.drop_beyond_limit((copies - allowed) as usize);
        self.make(allowed as usize, effects)
    }

    /// Returns the next chain of a transmit ring with the fault that a rule chose.
    pub fn complete(&mut self, ring: &mut impl RawRing, length: u32, fault: ChainFault) {
        let ChainFault { rule, fault } = fault;
        let elements = complete(ring, &[length], fault);
        let until = self.withheld_until(fault);
        self.withhold(rule, until, elements, ring);
    }

    /// Consults the rules about a command.
    pub fn command(
        &mut self,
        armed: &Armed,
        request: &[u8],
        effects: &mut Effects,
    ) -> Option<CommandStrike> {
        let opcode = abi::Request::read_from_prefix(request)
            .ok()
            .and_then(|(header, _)| Opcode::try_from(header.opcode.get()).ok());
        let strikes = self.consult(armed, &Subject::Command(opcode), effects);
        strikes.iter().find_map(|strike| match strike.action {
            Action::Command(fault) => Some(CommandStrike {
                rule: strike.rule,
                fault,
            }),
            _ => None,
        })
    }

    /// Withholds the answer to a command, which is the next chain of `ring` and has `length` bytes.
    pub fn hold_answer(
        &mut self,
        ring: &mut impl RawRing,
        length: u32,
        rule: CommandStrike,
        nanoseconds: Option<u64>,
        now: u64,
    ) {
        let until = nanoseconds.map_or(Deadline::Removal, |late| {
            Deadline::At(now.saturating_add(late))
        });
        let mut elements = Vec::new();
        ring.hold(&[length], &mut elements);
        self.withhold(rule.rule, until, elements, ring);
    }
}
