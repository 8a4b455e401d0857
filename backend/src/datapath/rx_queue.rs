//! One receive queue while it is locked: delivers trains into its buffers, and makes frames without
//! a buffer wait or drops them.

use std::{
    ops::Range,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use zcnic_device::{
    fault::{
        Armed, Effects, Lane,
        receive::{FaultyQueue, Progress, SegmentFate},
    },
    receive::{Annotation, Delivered, Fate, ReceiveQueue},
    train::Train,
};

use super::capture::Received;
use crate::{
    config::FlowControl,
    port::{
        Counters, context::PortContext, flow_counters::ActiveFlowCounters, queues::Backpressure,
    },
    ring::{mover::GuestMover, raw::Span, receive::ReceiveChains},
};

/// How long a frame waits for receive buffers on a cable with `pause`: long enough for a guest on a
/// busy host to post some, short enough that a dead receiver does not hang its sender.
pub(super) const PAUSE_LIMIT: Duration = Duration::from_millis(500);

/// Attempts to deliver a frame while the driver keeps posting too few buffers.
const ATTEMPTS: usize = 4;

/// A locked receive queue, its ring, and the common properties of a batch's frames.
pub(crate) struct LockedRxQueue<'a, 's, 'm> {
    pub(crate) context: &'a PortContext,
    pub(crate) counters: &'a Counters,
    pub(crate) queue: &'a mut ReceiveQueue,
    pub(crate) lane: &'a mut Lane,
    /// A sender waits for buffers of the ring.
    pub(crate) waited_for: &'a mut bool,
    /// A frame waited in vain: later frames are dropped without waiting until one is received.
    pub(crate) stalled: &'a mut bool,
    pub(crate) mover: GuestMover<'s, 'm>,
    pub(crate) chains: &'a mut ReceiveChains<'m>,
    pub(crate) flows: &'a ActiveFlowCounters,
    pub(crate) armed: Option<&'a Armed>,
    /// Hardware GRO is on, or the queue still holds segments.
    pub(crate) coalesces: bool,
    /// Segments are placed one after the other: no fault rules, no GRO and no captures.
    pub(crate) plain: bool,
    /// Gets the decisions on each segment, while a client captures frames.
    pub(crate) received: Option<&'a mut Vec<Received>>,
    pub(crate) flow_control: FlowControl,
    pub(crate) effects: &'a mut Effects,
    /// Frames that were placed in buffers.
    pub(crate) delivered: u64,
}

impl<'s> LockedRxQueue<'_, 's, '_> {
    /// Delivers the train at `position` of its batch; one that waited before continues at `resumed`.
    /// Returns how far it got if it has to wait (again).
    #[inline]
    pub(crate) fn deliver(
        &mut self,
        position: usize,
        train: &Train<'_, [Span<'s>]>,
        note: &Annotation,
        resumed: Option<Backpressure>,
    ) -> Option<Backpressure> {
        let mut progress = Progress::default();
        if self.plain && resumed.is_none() {
            let now = self.queue.deliver(&self.mover, self.chains, train, 0, note);
            self.count(train, note, &now);
            *self.stalled &= now.frames == 0;
            progress.segment = now.blocked_at?;
        }
        self.deliver_rest(position, train, note, progress, resumed)
    }

    fn count(&mut self, train: &Train<'_, [Span<'s>]>, note: &Annotation, delivered: &Delivered) {
        self.delivered += u64::from(delivered.frames);
        let (headers, head) = (train.headers(), train.header_bytes());
        self.flows.count(headers, head, note.queue, delivered);
    }

    /// Delivers the rest of a train until all of it is delivered, dropped or has to wait.
    #[inline(never)]
    fn deliver_rest(
        &mut self,
        position: usize,
        train: &Train<'_, [Span<'s>]>,
        note: &Annotation,
        mut progress: Progress,
        resumed: Option<Backpressure>,
    ) -> Option<Backpressure> {
        let mut deadline = None;
        if let Some(resumed) = resumed {
            progress.segment = resumed.segment.min(train.segments());
            progress.shown = resumed.shown;
            deadline = Some(resumed.deadline);
        }
        for attempt in 1.. {
            let now = self.attempt(position, train, note, &mut progress, deadline);
            self.count(train, note, &now);
            if now.frames > 0 {
                *self.stalled = false;
                deadline = None;
            }
            let at = now.blocked_at?;
            progress.segment = at;
            let waits = self.flow_control == FlowControl::Pause && !*self.stalled;
            let until = deadline.unwrap_or_else(|| Instant::now() + PAUSE_LIMIT);
            if !waits || until <= Instant::now() {
                progress.segment = self.queue.drop_blocked(train, at);
                let lost = progress.segment - at;
                let dropped = Delivered {
                    dropped: lost as u32,
                    ..Delivered::default()
                };
                self.count(train, note, &dropped);
                self.note_fates(position, note, at..progress.segment, Fate::NoBuffer);
                if waits {
                    *self.stalled = true;
                    let counter = &self.counters.pause_timeout;
                    counter.fetch_add(lost as u64, Ordering::Relaxed);
                }
                if progress.segment < train.segments() {
                    continue;
                }
                return None;
            }
            // Wait for a kick, unless buffers were posted meanwhile.
            *self.waited_for = true;
            if !self.chains.enable_kicks() || attempt == ATTEMPTS {
                return Some(Backpressure {
                    segment: at,
                    shown: progress.shown,
                    deadline: until,
                });
            }
        }
        None
    }

    /// Tries once, by way of fault rules or GRO if the queue has them.
    fn attempt(
        &mut self,
        position: usize,
        train: &Train<'_, [Span<'s>]>,
        note: &Annotation,
        progress: &mut Progress,
        deadline: Option<Instant>,
    ) -> Delivered {
        if self.plain {
            let from = progress.segment;
            return self
                .queue
                .deliver(&self.mover, self.chains, train, from, note);
        }
        let (mover, ring) = (&self.mover, &mut *self.chains);
        let waits = self.flow_control == FlowControl::Pause
            && !*self.stalled
            && deadline.is_none_or(|deadline| deadline > Instant::now());
        let now = self.context.now();
        if self.armed.is_none() && self.coalesces {
            let segments = progress.segment..train.segments();
            let taken = segments.clone();
            let done = self
                .queue
                .coalesce(mover, ring, train, segments, note, waits, now);
            let fate = self.queue.coalesced_fate(train, &done);
            let end = done.blocked_at.unwrap_or(taken.end);
            self.note_fates(position, note, taken.start..end, fate);
            return done;
        }
        let mut fates = Vec::new();
        let done = FaultyQueue {
            queue: &mut *self.queue,
            lane: &mut *self.lane,
            armed: self.armed,
            mover,
            ring,
            now,
            effects: &mut *self.effects,
            fates: self.received.is_some().then_some(&mut fates),
        }
        // Without rules, the caller decides whether a frame waits or is dropped.
        .deliver(train, progress, note, waits || self.armed.is_none());
        if let Some(received) = &mut self.received {
            let one = |fate| Received::by_queue(self.context, position, note, fate);
            received.extend(fates.iter().map(one));
        }
        done
    }

    /// Notes the common fate of segments that no rule hit, for captures.
    fn note_fates(
        &mut self,
        position: usize,
        note: &Annotation,
        segments: Range<usize>,
        fate: Fate,
    ) {
        let Some(received) = &mut self.received else {
            return;
        };
        received.extend(segments.map(|segment| {
            let touches = Vec::new();
            let fate = SegmentFate {
                segment,
                fate,
                touches,
            };
            Received::by_queue(self.context, position, note, &fate)
        }));
    }
}
