//! Captures of the data path: frames as they cross the cable, with the receiver's decisions on them.
//!
//! Without captures a batch pays one load. With them, each receive queue places segment by segment
//! and notes the fate of each. When the batch is done, its frames are finished (their checksums
//! computed, their segments made) and offered to the capturing clients without waiting for any.

use std::ops::Range;

use zcnic_ctl::protocol::{
    event::{Frame, FrameFate, FrameFault},
    fault::Direction as ProtocolDirection,
};
use zcnic_device::{
    fault::{Touch, receive::SegmentFate},
    memory::Mover,
    receive::{Annotation, Fate},
    train::{Train, finish_into},
};

use crate::{
    captures::Captures,
    port::{Port, context::PortContext},
};

/// The decisions of a receiving port on one segment of a batch.
#[derive(Debug)]
pub(crate) struct Received {
    /// Position of its train's chain in the batch.
    position: usize,
    /// Its index in the train.
    segment: usize,
    /// The receiving port's number.
    port: usize,
    /// The event but for the frame's number, length and bytes.
    about: Frame,
}

impl Received {
    /// A segment that was offered to the receive queue of `note`. `time` and the flow rule are
    /// added by [`complete`](Self::complete).
    pub(crate) fn by_queue(
        context: &PortContext,
        position: usize,
        note: &Annotation,
        fate: &SegmentFate,
    ) -> Self {
        let (word, split, redirected) = match fate.fate {
            Fate::Placed { split } => (FrameFate::Placed, split, None),
            Fate::Coalesced => (FrameFate::Coalesced, None, None),
            Fate::Held => (FrameFate::Held, None, None),
            Fate::Redirected { queue } => (FrameFate::Redirected, None, Some(queue)),
            Fate::NoBuffer => (FrameFate::NoBuffer, None, None),
            Fate::Stopped => (FrameFate::Stopped, None, None),
            Fate::TooLong => (FrameFate::TooLong, None, None),
            Fate::Faulted => (FrameFate::FaultDrop, None, None),
        };
        let about = Frame {
            queue: Some(note.queue),
            hash: note.hash.map(|hash| hash.value),
            split: split.map(|bytes| bytes as u32),
            redirected,
            ..Self::received(context, word, &fate.touches)
        };
        Self {
            position,
            segment: fate.segment,
            port: context.number(),
            about,
        }
    }

    /// A segment that steering dropped.
    pub(crate) fn by_steering(
        context: &PortContext,
        position: usize,
        segment: usize,
        fate: FrameFate,
    ) -> Self {
        Self {
            position,
            segment,
            port: context.number(),
            about: Self::received(context, fate, &[]),
        }
    }

    fn received(context: &PortContext, fate: FrameFate, touches: &[Touch]) -> Frame {
        Frame {
            fate: Some(fate),
            ..about(context, ProtocolDirection::Rx, touches)
        }
    }

    /// Adds the time of arrival and the location of the flow rule.
    pub(crate) fn complete(&mut self, time: u64, rule: Option<u32>) {
        (self.about.time, self.about.rule) = (time, rule);
    }

    /// Position of its train's chain in the batch.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// Whether it was dropped before flow rules were looked at.
    pub(crate) fn precedes_rules(&self) -> bool {
        matches!(
            self.about.fate,
            Some(FrameFate::Filtered | FrameFate::Oversize)
        )
    }

    /// Offers the finished frame with this number to the clients.
    pub(crate) fn record(mut self, captures: &Captures, id: u64, frame: &[u8]) {
        self.about.id = id;
        captures.record(self.port, &self.about, frame);
    }
}

/// The sender of captured frames.
#[derive(Clone, Copy)]
pub(crate) struct Sender<'a> {
    pub(crate) port: &'a Port,
    /// The transmit queue.
    pub(crate) queue: u16,
    /// The transmit time, in nanoseconds.
    pub(crate) time: u64,
}

impl Sender<'_> {
    /// Offers a finished frame with this number to the clients that capture the sender.
    pub(crate) fn record(&self, captures: &Captures, id: u64, frame: &[u8], touches: &[Touch]) {
        let context = &self.port.context;
        let about = Frame {
            time: self.time,
            id,
            queue: Some(self.queue),
            ..about(context, ProtocolDirection::Tx, touches)
        };
        captures.record(context.number(), &about, frame);
    }
}

/// The event of a port's frame, without the members that only some frames have.
fn about(context: &PortContext, direction: ProtocolDirection, touches: &[Touch]) -> Frame {
    let fault = |touch: &Touch| FrameFault {
        id: touch.rule.0,
        action: touch.action.to_owned(),
    };
    Frame {
        port: context.name().to_owned(),
        direction,
        time: 0,
        id: 0,
        length: 0,
        bytes: String::new(),
        queue: None,
        hash: None,
        rule: None,
        fate: None,
        split: None,
        redirected: None,
        faults: touches.iter().map(fault).collect(),
    }
}

/// Records the given segments of a batch, which `sender` sent (`None`: a generator) and `received`
/// describes. `touches` are the sender's rules that hit them.
pub(crate) fn record_batch<'t, M>(
    captures: &Captures,
    sender: Option<Sender<'_>>,
    touches: &[Touch],
    mover: &M,
    sent: impl Iterator<Item = (usize, &'t Train<'t, M::Source>, Range<usize>)>,
    mut received: Vec<Received>,
) where
    M: Mover,
    M::Source: 't,
{
    if received.is_empty() && sender.is_none_or(|sender| sender.port.egress().is_none()) {
        return;
    }
    received.sort_by_key(|one| (one.position, one.segment));
    let mut received = received.into_iter().peekable();
    let mut frame = Vec::new();
    for (position, train, segments) in sent {
        for segment in segments {
            finish_into(mover, train, segment, &mut frame);
            let id = captures.next_id();
            if let Some(sender) = sender {
                sender.record(captures, id, &frame, touches);
            }
            let here = |one: &Received| (one.position, one.segment) == (position, segment);
            while let Some(one) = received.next_if(here) {
                one.record(captures, id, &frame);
            }
        }
    }
}
