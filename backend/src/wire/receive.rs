//! The receiving end of a wire: from a batch of trains to the buffers of the queues that they are steered to.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use zcnic_device::{
    fault::{
        Direction, Effects,
        receive::{FaultyQueue, Progress},
    },
    features::Feature,
    receive::{Annotation, Delivered, ReceiveQueue},
    steering::Verdict,
    train::Train,
};

use super::{Sent, Stuck, Way};
use crate::{
    hub::Job,
    port::{Active, Blocked, FlowControl, Port, ReceiveSide, lock},
    ring::{
        mover::{GuestMover, Upcoming},
        place::Place,
        raw::Span,
        receive::ReceiveChains,
    },
};

/// How long a frame waits for receive buffers on a cable with `pause`: long enough for a guest on a busy
/// host to post some, short enough that a receiver which died does not hang its sender.
const PAUSE_LIMIT: Duration = Duration::from_millis(500);

/// Attempts to deliver a frame while the driver keeps posting buffers that do not suffice.
const ATTEMPTS: usize = 4;

/// A train on its way to a queue.
pub(super) struct Outgoing {
    /// Which train of the batch it is.
    index: usize,
    /// Where it goes. Written long before it is read, or the processor would have to wait for all that was
    /// stored between, to memory that the other side has in its cache.
    note: Annotation,
    /// The first segment that was not delivered yet.
    segment: usize,
    /// Segments below this were shown to the receiver's fault rules.
    shown: usize,
    /// When it is given up, if it waited already.
    deadline: Option<Instant>,
}

/// A train that no queue gets.
pub(super) struct Refused {
    /// Of its chain in the batch.
    position: usize,
    frames: u64,
    /// A flow rule says so, not the address filter.
    by_rule: bool,
}

impl Refused {
    fn new(position: usize, train: &Train<'_, [Span<'_>]>, by_rule: bool) -> Self {
        Self {
            position,
            frames: train.segments() as u64,
            by_rule,
        }
    }
}

impl Port {
    /// Receives a batch that waits for buffers. Returns how many of it are done with, and how far the next one
    /// got.
    pub(crate) fn receive_waiting(
        &self,
        batch: &[Sent<'_, '_>],
        resumed: Option<Blocked>,
        way: &mut Way,
    ) -> (usize, Option<Blocked>) {
        match self.receive(batch, resumed, FlowControl::Pause, way) {
            Some(Stuck { position, blocked }) => (position, Some(blocked)),
            None => (batch.len(), None),
        }
    }

    /// Steers a batch to queues and places it in their buffers; returns as [`send`](Self::send) does.
    pub(super) fn receive(
        &self,
        batch: &[Sent<'_, '_>],
        resumed: Option<Blocked>,
        flow_control: FlowControl,
        way: &mut Way,
    ) -> Option<Stuck> {
        let active = self.active();
        let offloads = active.configuration.offloads;
        let time = self.arrival(&active);
        let mut outgoing = std::mem::take(&mut way.outgoing);
        outgoing.clear();
        way.refused.clear();
        for (index, (position, train)) in batch.iter().enumerate() {
            let (mut segment, mut shown, mut deadline) = (0, 0, None);
            if let (0, Some(resumed)) = (*position, resumed) {
                segment = resumed.segment.min(train.segments());
                shown = resumed.shown;
                deadline = Some(resumed.deadline);
            }
            match active
                .configuration
                .steering
                .steer(train.headers(), train.head())
            {
                Verdict::Queue { queue, hash } => {
                    outgoing.push(Outgoing {
                        index,
                        note: Annotation {
                            queue,
                            hash,
                            offloads,
                            time,
                            vlan: None,
                        },
                        segment,
                        shown,
                        deadline,
                    });
                }
                Verdict::Filtered => way.refused.push(Refused::new(*position, train, false)),
                Verdict::RuleDrop => way.refused.push(Refused::new(*position, train, true)),
            }
        }
        if flow_control == FlowControl::Drop {
            // Each receive ring is locked once; within a queue the order stays as sent. Where frames wait
            // it stays across queues, because those behind a waiting one were not sent at all.
            outgoing.sort_unstable_by_key(|outgoing| (outgoing.note.queue, outgoing.index));
        }
        let stuck = outgoing
            .chunk_by_mut(|a, b| a.note.queue == b.note.queue)
            .find_map(|group| self.receive_group(batch, group, &active, flow_control, way));
        way.outgoing = outgoing;
        // Those behind one that has to wait come again.
        let done = stuck.as_ref().map_or(usize::MAX, |stuck| stuck.position);
        for refused in way.refused.iter().filter(|refused| refused.position < done) {
            let counter = if refused.by_rule {
                &self.counters.rule_drop
            } else {
                &self.counters.filtered
            };
            counter.fetch_add(refused.frames, Ordering::Relaxed);
        }
        stuck
    }

    /// Delivers trains of a batch to one receive queue. Returns the first that has to wait.
    fn receive_group(
        &self,
        batch: &[Sent<'_, '_>],
        group: &mut [Outgoing],
        active: &Active,
        flow_control: FlowControl,
        way: &mut Way,
    ) -> Option<Stuck> {
        let queue = group.first()?.note.queue;
        let pair = usize::from(queue);
        let mut guard = lock(self.receive.get(pair)?);
        let ReceiveSide {
            transport,
            queue: device,
            lane,
            books,
            waited_for,
            stalled,
            releasing,
        } = &mut *guard;
        let usable = transport.is_enabled() && !active.suspended;
        let (ring, mut error) = match if usable { transport.ring() } else { Ok(None) } {
            Ok(ring) => (ring, None),
            Err(error) => (None, Some(error)),
        };
        let vectors = std::mem::take(&mut way.receive);
        let upcoming = Upcoming::default();
        let mut chains = ReceiveChains::new(ring, active.max_chains, vectors)
            .announce(&upcoming)
            .watched_by(books.witness(|| self.hub.now()));
        chains.disable_kicks();
        let flows = self.flows.current();
        let mover = GuestMover::with(&upcoming);
        let armed = self.faults.current(Direction::Receive);
        let coalesces = active.configuration.offloads.has(Feature::Gro) || device.holds();
        let mut effects = Effects::default();
        let mut stuck = None;
        let mut group = group.iter_mut().peekable();
        while let Some(outgoing) = group.next() {
            let (position, train) = &batch[outgoing.index];
            if let (true, Some(next)) = (upcoming.is_worth(), group.peek()) {
                let (_, next) = &batch[next.index];
                upcoming.source.set(payload_place(next));
            }
            for attempt in 1.. {
                let may_wait = |stalled: bool| {
                    flow_control == FlowControl::Pause
                        && !stalled
                        && outgoing
                            .deadline
                            .is_none_or(|deadline| deadline > Instant::now())
                };
                let now = match &armed {
                    None if !coalesces => {
                        let (from, note) = (outgoing.segment, &outgoing.note);
                        device.deliver(&mover, &mut chains, train, from, note)
                    }
                    None => {
                        let segments = outgoing.segment..train.segments();
                        let (waits, now) = (may_wait(*stalled), self.hub.now());
                        let (note, ring) = (&outgoing.note, &mut chains);
                        device.coalesce(&mover, ring, train, segments, note, waits, now)
                    }
                    Some(armed) => {
                        let waits = may_wait(*stalled);
                        let mut progress = Progress {
                            segment: outgoing.segment,
                            shown: outgoing.shown,
                        };
                        let mut faulty = FaultyQueue {
                            queue: &mut *device,
                            lane: &mut *lane,
                            armed: Some(armed),
                            mover: &mover,
                            ring: &mut chains,
                            now: self.hub.now(),
                            effects: &mut effects,
                        };
                        let now = faulty.deliver(train, &mut progress, &outgoing.note, waits);
                        outgoing.shown = progress.shown;
                        now
                    }
                };
                way.delivered += u64::from(now.frames);
                flows.count(train.headers(), train.head(), queue, &now);
                if now.frames > 0 {
                    *stalled = false;
                    outgoing.deadline = None;
                }
                let Some(at) = now.blocked_at else {
                    break;
                };
                outgoing.segment = at;
                let waits = flow_control == FlowControl::Pause && !*stalled;
                let deadline = outgoing
                    .deadline
                    .unwrap_or_else(|| Instant::now() + PAUSE_LIMIT);
                if !waits || deadline <= Instant::now() {
                    outgoing.segment = device.drop_blocked(train, at);
                    let lost = outgoing.segment - at;
                    let dropped = Delivered {
                        dropped: lost as u32,
                        ..Delivered::default()
                    };
                    flows.count(train.headers(), train.head(), queue, &dropped);
                    if waits {
                        *stalled = true;
                        self.counters
                            .pause_timeout
                            .fetch_add(lost as u64, Ordering::Relaxed);
                    }
                    if outgoing.segment < train.segments() {
                        continue;
                    }
                    break;
                }
                // Wait for a kick, unless there is no need to any more.
                *waited_for = true;
                if !chains.enable_kicks() || attempt == ATTEMPTS {
                    let blocked = Blocked {
                        segment: at,
                        shown: outgoing.shown,
                        deadline,
                    };
                    stuck = Some(Stuck {
                        position: *position,
                        blocked,
                    });
                    break;
                }
            }
            if stuck.is_some() {
                break;
            }
        }
        device.settled(|held| flows.count(held.headers(), held.head(), queue, &held.delivered));
        self.follow_held(queue, device, releasing);
        let wanted = Self::interrupt(chains.publish(), &mut effects);
        let delay = active.configuration.moderation.receive;
        let put_off = wanted && delay.nanoseconds > 0 && chains.put_off(delay.chains);
        error = error.or(chains.error());
        let chain_error = chains.chain_error();
        way.receive = chains.into_vectors();
        if put_off {
            self.interrupt_later(2 * pair, transport, delay);
        } else if wanted {
            way.interrupts.extend(transport.interrupt());
        }
        if let Some(error) = error {
            self.broken(2 * pair, transport, error);
        }
        if let Some(error) = chain_error {
            self.warn(format_args!("receive ring {}: {error}", 2 * pair));
        }
        let violations = books.violations();
        if armed.is_some() {
            let due = lane.next_due(armed.as_deref());
            self.follow(Direction::Receive, queue, due);
        }
        drop(guard);
        self.carry_out(effects);
        self.report_violations(pair, violations);
        stuck
    }

    /// Has a receive queue looked at again when something that it holds is due.
    fn follow_held(&self, queue: u16, device: &ReceiveQueue, releasing: &mut bool) {
        /// What is due already found no buffers, so it is not tried at once.
        const PAUSE: u64 = 1_000_000;
        if let (Some(due), false) = (device.release_at(), *releasing) {
            *releasing = true;
            let due = due.max(self.hub.now().saturating_add(PAUSE));
            self.hub.schedule(due, Job::Release(self.index, queue));
        }
    }

    /// Something that a receive queue holds may be due.
    pub(crate) fn release_held(&self, queue: u16) {
        let Some(side) = self.receive.get(usize::from(queue)) else {
            return;
        };
        let stalled = {
            let side = &mut *lock(side);
            side.releasing = false;
            side.stalled
        };
        let pauses = |(_, flow_control)| flow_control == FlowControl::Pause;
        let waits = !stalled && self.peer().is_some_and(pauses);
        let flows = self.flows.current();
        self.on_receive(queue, |faulty, _| {
            let device = &mut *faulty.queue;
            device.release(faulty.mover, faulty.ring, waits, faulty.now);
            device.settled(|held| flows.count(held.headers(), held.head(), queue, &held.delivered));
        });
        let side = &mut *lock(side);
        self.follow_held(queue, &side.queue, &mut side.releasing);
    }
}

/// Where the payload of a train begins, more or less: in a span of its own if there are several.
fn payload_place(train: &Train<'_, [Span<'_>]>) -> Place {
    let payload = train.source().iter().take(2).next_back();
    payload.map(|span| span.place(0)).unwrap_or_default()
}
