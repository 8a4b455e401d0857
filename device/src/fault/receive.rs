//! Faults on the way into a receive queue.

use super::{
    Action, Armed, CompletionFault, Effects, FrameFault, Lane, MetadataFault, PlacementFault,
    QueueFault, RawRing, RuleId,
    completion::complete,
    frame::change,
    lane::{Strike, Subject},
    metadata::wrong_hash,
    owned::{OwnedFrame, Touch},
    waiting::Deadline,
};
use crate::{
    features::Feature,
    memory::{FromDevice, Mover, ReceiveRing},
    receive::{
        Annotation, Delivered, Fate, Placed, ReceiveQueue,
        faulty::{Tweak, WrongSplit},
    },
    rss::Hash,
    train::{Train, finish, finished},
};

/// A receive queue of a port with fault rules, while its ring is locked. It does the work of
/// [`ReceiveQueue::deliver`], segment by segment, and applies the rules.
pub struct FaultyQueue<'a, M, R> {
    /// The queue.
    pub queue: &'a mut ReceiveQueue,
    /// Its lane.
    pub lane: &'a mut Lane,
    /// The rules; `None`: they were removed, and the frames and chains that they hold are released.
    pub armed: Option<&'a Armed>,
    /// Moves bytes.
    pub mover: &'a M,
    /// The queue's ring.
    pub ring: &'a mut R,
    /// The time, in nanoseconds.
    pub now: u64,
    /// Work for the caller after it has unlocked the ring.
    pub effects: &'a mut Effects,
    /// Gets the fate of each segment of a train, if a client captures them.
    pub fates: Option<&'a mut Vec<SegmentFate>>,
}

/// The fate of one segment of a train, and the rules that hit it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFate {
    /// Its index in the train.
    pub segment: usize,
    /// Its fate.
    pub fate: Fate,
    /// The rules.
    pub touches: Vec<Touch>,
}

/// The progress of a train.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The next segment.
    pub segment: usize,
    /// The rules have seen the segments below this.
    pub shown: usize,
}

/// The combined actions of the rules on one frame.
#[derive(Default)]
struct Plan {
    drop: bool,
    /// Deliveries beyond the first.
    copies: u32,
    /// The frame's bytes, if the device has a copy.
    bytes: Option<Vec<u8>>,
    hold: Option<(RuleId, Deadline)>,
    redirect: Option<u16>,
    tweak: Tweak,
    completion: Option<(RuleId, CompletionFault)>,
}

impl<M, R> FaultyQueue<'_, M, R>
where
    M: Mover,
    R: ReceiveRing<Target = M::Target> + RawRing,
{
    /// Delivers the train's segments from `progress` on. If `waits`, a frame that no rule touched
    /// and that finds no buffers stays: [`Delivered::blocked_at`] is set, and `progress` is where
    /// to resume. Otherwise, and for frames that rules touched, a missing buffer is a drop.
    pub fn deliver(
        &mut self,
        train: &Train<'_, M::Source>,
        progress: &mut Progress,
        note: &Annotation,
        waits: bool,
    ) -> Delivered {
        let mut delivered = Delivered::default();
        while progress.segment < train.segments() {
            let index = progress.segment;
            let mut strikes = Vec::new();
            if index >= progress.shown {
                progress.shown = index + 1;
                if let Some(armed) = self.armed {
                    let subject = Subject::Frame(train.headers(), train.header_bytes());
                    strikes = self.lane.consult(armed, &subject, self.effects);
                }
            }
            let fate = if strikes.is_empty() && !self.lane.is_stalled(self.armed, self.now) {
                let Some(fate) = self.pass(train, index, note, waits, &mut delivered) else {
                    delivered.blocked_at = Some(index);
                    return delivered;
                };
                fate
            } else {
                self.strike(train, index, note, &strikes, &mut delivered)
            };
            if let Some(fates) = &mut self.fates {
                fates.push(SegmentFate {
                    segment: index,
                    fate,
                    touches: Strike::touches(&strikes),
                });
            }
            progress.segment += 1;
            self.release_into(note, &mut delivered);
        }
        delivered
    }

    /// Delivers the held frames whose deadline has passed, and returns withheld chains.
    pub fn release(&mut self, note: &Annotation) -> Delivered {
        let mut delivered = Delivered::default();
        self.release_into(note, &mut delivered);
        delivered
    }

    /// Delivers a frame that a rule redirected here, without consulting the rules.
    pub fn deliver_frame(&mut self, frame: &OwnedFrame, note: &Annotation) -> Delivered {
        let mut delivered = Delivered::default();
        self.put_frame(frame, note, &mut delivered);
        delivered
    }

    fn release_into(&mut self, note: &Annotation, delivered: &mut Delivered) {
        if self.lane.is_idle() {
            return;
        }
        // A stopped ring can't take chains back.
        if self.ring.size() > 0 {
            self.lane.return_due(self.ring, self.armed, self.now);
        }
        for frame in self.lane.take_due(self.armed, self.now) {
            self.put_frame(&frame, note, delivered);
        }
    }

    fn put_frame(&mut self, frame: &OwnedFrame, note: &Annotation, delivered: &mut Delivered) {
        let note = Annotation {
            hash: frame.hash,
            ..*note
        };
        self.put(
            &FromDevice(self.mover),
            &finished(frame.bytes()),
            0,
            &note,
            &Plan::default(),
            delivered,
        );
    }

    /// Delivers a frame that no rule touched. `None`: it has to wait.
    fn pass(
        &mut self,
        train: &Train<'_, M::Source>,
        index: usize,
        note: &Annotation,
        waits: bool,
        delivered: &mut Delivered,
    ) -> Option<Fate> {
        if note.offloads.has(Feature::Gro) || self.queue.holds() {
            let one = index..index + 1;
            let (queue, ring) = (&mut *self.queue, &mut *self.ring);
            let one = queue.coalesce(self.mover, ring, train, one, note, waits, self.now);
            delivered.merge(&one);
            if one.blocked_at.is_none() {
                return Some(self.queue.coalesced_fate(train, &one));
            }
            return self.without_buffer(waits, delivered);
        }
        let Some(layout) = self.queue.layout() else {
            self.queue.count_stopped(1);
            delivered.dropped += 1;
            return Some(Fate::Stopped);
        };
        match self
            .queue
            .place(self.mover, self.ring, layout, train, index, note, None)
        {
            Placed::Frame(placed) => {
                self.ring.commit(self.queue.written());
                delivered.add(placed);
                Some(self.queue.placed_fate())
            }
            Placed::NoBuffer => {
                self.ring.commit(&[]);
                self.without_buffer(waits, delivered)
            }
            Placed::TooLong => {
                self.ring.commit(&[]);
                delivered.dropped += 1;
                Some(Fate::TooLong)
            }
        }
    }

    /// Drops a frame for which there is no buffer, unless it waits.
    fn without_buffer(&mut self, waits: bool, delivered: &mut Delivered) -> Option<Fate> {
        if waits {
            return None;
        }
        self.queue.count_no_buffer(1);
        delivered.dropped += 1;
        Some(Fate::NoBuffer)
    }

    /// Delivers a frame that rules touch, or drops it if the queue is stalled.
    fn strike(
        &mut self,
        train: &Train<'_, M::Source>,
        index: usize,
        note: &Annotation,
        strikes: &[Strike],
        delivered: &mut Delivered,
    ) -> Fate {
        let mut note = *note;
        let mut plan = Plan::default();
        for strike in strikes {
            self.plan(train, index, strike, &mut note, &mut plan);
        }
        if plan.drop || self.lane.is_stalled(self.armed, self.now) {
            self.lane.drop_frame();
            delivered.dropped += 1;
            return Fate::Faulted;
        }
        let wanted = plan.copies;
        let copies = self.lane.copies(wanted, self.effects);
        delivered.dropped += wanted - copies as u32;
        if plan.hold.is_some() || plan.redirect.is_some() {
            return self.keep(plan, copies, note.hash, delivered);
        }
        let mut first = None;
        for copy in 0..=copies {
            if copy > 0 {
                plan.completion = None;
            }
            let fate = match &plan.bytes {
                Some(bytes) => self.put(
                    &FromDevice(self.mover),
                    &finished(bytes),
                    0,
                    &note,
                    &plan,
                    delivered,
                ),
                None => self.put(self.mover, train, index, &note, &plan, delivered),
            };
            first.get_or_insert(fate);
        }
        first.unwrap_or(Fate::Faulted)
    }

    /// Holds or redirects a frame and its copies.
    fn keep(
        &mut self,
        plan: Plan,
        copies: usize,
        hash: Option<Hash>,
        delivered: &mut Delivered,
    ) -> Fate {
        let mut lost = copies + 1;
        let bytes = plan.bytes.unwrap_or_default();
        let owned = self.lane.own(bytes, hash, Vec::new());
        if owned.is_none() {
            self.lane.drop_beyond_limit(copies);
        }
        let frames = owned.map(|frame| self.lane.duplicates(frame, copies));
        for frame in frames.into_iter().flatten() {
            let kept = match (plan.hold, plan.redirect) {
                (Some((rule, deadline)), _) => self.lane.hold(rule, deadline, frame),
                (None, Some(queue)) if self.lane.make(1, self.effects) > 0 => {
                    self.effects.redirected.push((queue, frame));
                    true
                }
                (None, _) => false,
            };
            lost -= usize::from(kept);
        }
        delivered.dropped += lost as u32;
        match (plan.hold, plan.redirect) {
            _ if lost > copies => Fate::Faulted,
            (None, Some(queue)) => Fate::Redirected { queue },
            _ => Fate::Held,
        }
    }

    fn plan(
        &mut self,
        train: &Train<'_, M::Source>,
        index: usize,
        strike: &Strike,
        note: &mut Annotation,
        plan: &mut Plan,
    ) {
        let rule = strike.rule;
        let mover = self.mover;
        let own = |plan: &mut Plan| {
            plan.bytes
                .get_or_insert_with(|| finish(mover, train, index));
        };
        match strike.action {
            Action::Frame(fault) => match fault {
                FrameFault::Drop => plan.drop = true,
                FrameFault::Duplicate { copies } => {
                    plan.copies = plan.copies.saturating_add(copies.get());
                }
                FrameFault::Delay { nanoseconds } => {
                    own(plan);
                    let deadline = Deadline::At(self.now.saturating_add(nanoseconds));
                    plan.hold = Some((rule, deadline));
                }
                FrameFault::Reorder { by } => {
                    own(plan);
                    plan.hold = Some((rule, self.lane.behind(by.get())));
                }
                FrameFault::Corrupt { .. } | FrameFault::Truncate { .. } => {
                    own(plan);
                    if let Some(bytes) = &mut plan.bytes {
                        change(bytes, fault, strike.draw);
                    }
                }
            },
            Action::Placement(fault) => match fault {
                PlacementFault::ShortBuffer { bytes } => plan.tweak.short = bytes,
                PlacementFault::SplitMissed => plan.tweak.split = Some(WrongSplit::Nothing),
                PlacementFault::SplitWrong { at } => {
                    plan.tweak.split = Some(WrongSplit::At(at as usize));
                }
                PlacementFault::PayloadInHeader => plan.tweak.split = Some(WrongSplit::Full),
                PlacementFault::WrongQueue { queue } => {
                    own(plan);
                    plan.redirect = Some(queue);
                }
            },
            Action::Metadata(MetadataFault::WrongHash { value }) => {
                note.hash = Some(wrong_hash(note.hash, value, strike.draw));
            }
            Action::Metadata(MetadataFault::WrongChecksum { verdict }) => {
                plan.tweak.verdict = Some(verdict);
            }
            Action::Completion(fault) => plan.completion = Some((rule, fault)),
            Action::Queue(QueueFault::Stall { nanoseconds }) => {
                self.lane.stall(rule, self.now, nanoseconds);
            }
            Action::Queue(QueueFault::Interrupt(fault)) => self.effects.interrupt = Some(fault),
            // Port faults are in the effects; commands are not frames.
            Action::Port(_) | Action::Command(_) => {}
        }
    }

    fn put<N>(
        &mut self,
        mover: &N,
        train: &Train<'_, N::Source>,
        index: usize,
        note: &Annotation,
        plan: &Plan,
        delivered: &mut Delivered,
    ) -> Fate
    where
        N: Mover<Target = M::Target>,
    {
        // A touched frame is not coalesced, and does not overtake held segments.
        self.queue.release_all(self.mover, self.ring, self.now);
        let Some(layout) = self.queue.layout() else {
            self.queue.count_stopped(1);
            delivered.dropped += 1;
            return Fate::Stopped;
        };
        if let Some((_, CompletionFault::DescriptorError)) = plan.completion {
            delivered.dropped += 1;
            if self.ring.reserve() {
                self.ring.commit(&[0]);
                self.lane.drop_frame();
                return Fate::Faulted;
            }
            self.ring.commit(&[]);
            self.queue.count_no_buffer(1);
            return Fate::NoBuffer;
        }
        let tweak = Some(&plan.tweak);
        match self
            .queue
            .place(mover, self.ring, layout, train, index, note, tweak)
        {
            Placed::Frame(placed) => {
                match plan.completion {
                    None => self.ring.commit(self.queue.written()),
                    Some((rule, fault)) => {
                        let elements = complete(self.ring, self.queue.written(), fault);
                        let until = self.lane.withheld_until(fault);
                        self.lane.withhold(rule, until, elements, self.ring);
                    }
                }
                delivered.add(placed);
                self.queue.placed_fate()
            }
            Placed::NoBuffer => {
                self.ring.commit(&[]);
                self.queue.count_no_buffer(1);
                delivered.dropped += 1;
                Fate::NoBuffer
            }
            Placed::TooLong => {
                self.ring.commit(&[]);
                delivered.dropped += 1;
                Fate::TooLong
            }
        }
    }
}
