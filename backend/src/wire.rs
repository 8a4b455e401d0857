//! The data path: from a transmit ring over the cable to the receive rings of its other end.

use std::{
    sync::{Arc, atomic::Ordering},
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
    transmit::{Snapshot, TransmitFormat, parse, parse_into},
};

use crate::{
    fault::FaultyBatch,
    hub::Job,
    port::{Active, Blocked, End, FlowControl, Port, ReceiveSide, Served, TransmitSide, lock},
    ring::{
        RingError,
        chain::{Chain, ChainError, walk},
        mover::{GuestMover, Upcoming},
        raw::{Place, Span},
        receive::{ReceiveChains, Vectors},
        recycle,
        transport::Interrupt,
    },
};

/// Chains taken from a ring at once.
pub(crate) const BATCH: u16 = 64;

/// How long a frame waits for receive buffers on a cable with `pause`: long enough for a guest on a busy
/// host to post some, short enough that a receiver which died does not hang its sender.
const PAUSE_LIMIT: Duration = Duration::from_millis(500);

/// Attempts to deliver a frame while the driver keeps posting buffers that do not suffice.
const ATTEMPTS: usize = 4;

/// Bytes of a frame that are on their way to the cache before it is looked at, transmit header included.
const AHEAD: usize = 128;

/// How many chains ahead they are sent for.
const CHAINS_AHEAD: usize = 8;

/// A frame of the batch in hand, by the position of its chain.
pub(crate) type Sent<'a, 's> = (usize, Train<'a, [Span<'s>]>);

/// Which spans of a batch a chain's are; none if it can't be used. Small numbers, so that it never leaves registers.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    start: u32,
    end: u32,
}

impl Source {
    #[inline]
    fn new(chain: &Result<Chain, ChainError>) -> Self {
        match chain {
            Ok(Chain { readable, .. }) => Self {
                start: readable.start as u32,
                end: readable.end as u32,
            },
            Err(_) => Self { start: 0, end: 0 },
        }
    }

    /// Its spans.
    #[inline]
    pub(crate) fn of<'b, 'm>(self, spans: &'b [Span<'m>]) -> &'b [Span<'m>] {
        &spans[self.start as usize..self.end as usize]
    }
}

/// What a worker needs for a batch, kept from one to the next so that nothing is allocated for it.
#[derive(Default)]
pub(crate) struct Scratch {
    heads: Vec<u16>,
    spans: Vec<Span<'static>>,
    sources: Vec<Source>,
    pub(crate) snapshots: Vec<Snapshot>,
    pub(crate) trains: Vec<Sent<'static, 'static>>,
    pub(crate) way: Way,
}

/// The part of [`Scratch`] that frames need on their way to queues.
#[derive(Default)]
pub(crate) struct Way {
    outgoing: Vec<Outgoing>,
    receive: Vectors,
    interrupts: Vec<Interrupt>,
    /// Frames that were placed in buffers, ever.
    pub(crate) delivered: u64,
}

impl Way {
    /// Raises the interrupts that are due, now that no lock is held.
    pub(crate) fn raise(&mut self) {
        for interrupt in self.interrupts.drain(..) {
            interrupt.raise();
        }
    }
}

/// A train on its way to a queue.
struct Outgoing {
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

/// A train that has to wait for receive buffers.
struct Stuck {
    position: usize,
    blocked: Blocked,
}

impl Port {
    /// Serves a bounded batch of a transmit ring. An empty one is asked to kick if `arm` says so.
    pub(crate) fn serve(&self, pair: usize, arm: bool, scratch: &mut Scratch) -> Served {
        let served = {
            let mut side = lock(&self.transmit[pair]);
            match self.serve_locked(pair, &mut side, arm, scratch) {
                Ok(step) => step,
                Err(error) => {
                    self.broken(2 * pair + 1, &mut side.transport, error);
                    Step::Served(Served::Idle)
                }
            }
        };
        scratch.way.raise();
        match served {
            Step::Served(served) => served,
            Step::Control => {
                self.serve_control(pair);
                Served::More
            }
        }
    }

    fn serve_locked(
        &self,
        pair: usize,
        side: &mut TransmitSide,
        arm: bool,
        scratch: &mut Scratch,
    ) -> Result<Step, RingError> {
        let TransmitSide {
            transport,
            running,
            lane,
            shown,
            counters,
            blocked,
            ..
        } = side;
        let enabled = transport.is_enabled();
        let Some(mut ring) = transport.ring()? else {
            return Ok(Step::Served(Served::Idle));
        };
        let mut available = ring.available(BATCH)?.min(BATCH);
        let active = self.active();
        let format = active.configuration.transmit_format;
        let is_command_ring = active.command_pair == Some(pair);
        // A stopped transmit queue keeps its chains; it is looked at again when it starts.
        let parked = format.is_some() && !*running && !is_command_ring;
        if enabled && (active.suspended || parked) {
            return Ok(Step::Served(Served::Idle));
        }
        if available == 0 {
            if !arm {
                return Ok(Step::Served(Served::Empty));
            }
            let more = ring.enable_kicks()?;
            return Ok(Step::Served(if more { Served::More } else { Served::Idle }));
        }
        ring.disable_kicks();

        let Scratch {
            heads,
            spans: kept_spans,
            sources,
            snapshots,
            trains: kept_trains,
            way,
        } = scratch;
        let mut spans: Vec<Span<'_>> = recycle(std::mem::take(kept_spans));
        heads.clear();
        sources.clear();
        for ahead in 0..available {
            let head = ring.head(ahead)?;
            ring.map().prefetch_descriptor(head);
            heads.push(head);
        }
        for (ahead, &head) in heads.iter().enumerate() {
            if !enabled {
                break;
            }
            if let Some(&later) = heads.get(ahead + CHAINS_AHEAD) {
                ring.map().prefetch_table(later);
            }
            let chain = walk(ring.map(), head, &mut spans);
            // Control takes one chain at a time, with the ring's lock released.
            let frame = chain
                .as_ref()
                .map_or(true, |chain| chain.writable.is_empty());
            if is_command_ring || format.is_none() || !frame {
                if ahead == 0 {
                    *kept_spans = recycle(spans);
                    return Ok(Step::Control);
                }
                available = ahead as u16;
                break;
            }
            sources.push(Source::new(&chain));
        }

        let mut done = usize::from(available);
        let mut served = Served::More;
        let mut effects = Effects::default();
        let armed = self.faults.current(Direction::Transmit);
        if let (true, Some(format), Some(armed)) = (enabled, format, &armed) {
            let batch = FaultyBatch {
                armed,
                ring: &mut ring,
                sources: sources.as_slice(),
                spans: &spans,
                format,
                active: &active,
                lane: &mut *lane,
                shown,
                counters,
                blocked,
                effects: &mut effects,
            };
            let result = self.send_faulty(batch, way);
            served = result?;
            done = 0;
        } else if let (true, Some(format)) = (enabled, format) {
            snapshots.resize_with(snapshots.len().max(sources.len()), Snapshot::default);
            let mut trains: Vec<Sent<'_, '_>> = recycle(std::mem::take(kept_trains));
            let prefetch = |position: usize| {
                if let Some(source) = sources.get(position) {
                    let mut spans = source.of(&spans).iter();
                    if let Some(headers) = spans.next() {
                        headers.prefetch(AHEAD);
                    }
                    // A long payload is sent for when it is next, while the one before is copied.
                    let payload = spans.next().filter(|span| span.len() < Upcoming::LONG);
                    if let Some(payload) = payload {
                        payload.prefetch(AHEAD);
                    }
                }
            };
            (0..CHAINS_AHEAD).for_each(prefetch);
            for (position, (source, snapshot)) in
                sources.iter().zip(snapshots.iter_mut()).enumerate()
            {
                prefetch(position + CHAINS_AHEAD);
                let (_, train) = trains.push_mut((position, Train::unset(source.of(&spans))));
                let features = active.configuration.features;
                if parse_into(&GuestMover::new(), format, features, snapshot, train).is_err() {
                    trains.pop();
                    counters.errors += 1;
                }
            }
            let stuck = self.send(&trains, blocked.take(), way);
            if let Some(Stuck {
                position,
                blocked: state,
            }) = stuck
            {
                done = position;
                served = Served::Blocked(state.deadline);
                *blocked = Some(state);
            }
            // What is stuck is counted when it is done with.
            for (_, train) in trains.iter().filter(|(position, _)| *position < done) {
                counters.sent(train);
            }
            *kept_trains = recycle(trains);
        }
        *kept_spans = recycle(spans);
        for &head in &heads[..done] {
            ring.complete(head, 0);
        }
        if Self::interrupt(ring.publish(), &mut effects) {
            way.interrupts.extend(transport.interrupt());
        }
        if armed.is_some() {
            let due = lane.next_due(armed.as_deref());
            self.follow(Direction::Transmit, pair as u16, due);
            self.carry_out(effects);
        }
        Ok(Step::Served(served))
    }

    /// Sends one train of a batch whose others wait for it. Returns how far it got if it has to wait.
    pub(crate) fn send_one(
        &self,
        one: &[Sent<'_, '_>; 1],
        resumed: Option<Blocked>,
        way: &mut Way,
    ) -> Option<Blocked> {
        let stuck = self.send(one, resumed, way);
        stuck.map(|stuck| stuck.blocked)
    }

    /// Sends a batch. Returns the first train that has to wait, on a cable where frames wait; those behind
    /// it were not sent then.
    fn send(
        &self,
        batch: &[Sent<'_, '_>],
        resumed: Option<Blocked>,
        way: &mut Way,
    ) -> Option<Stuck> {
        match self.end() {
            Some(End::Port(peer, flow_control)) => peer.receive(batch, resumed, flow_control, way),
            Some(End::Null) => None,
            None => {
                let frames: usize = batch.iter().map(|(_, train)| train.segments()).sum();
                self.counters
                    .no_carrier
                    .fetch_add(frames as u64, Ordering::Relaxed);
                None
            }
        }
    }

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
    fn receive(
        &self,
        batch: &[Sent<'_, '_>],
        resumed: Option<Blocked>,
        flow_control: FlowControl,
        way: &mut Way,
    ) -> Option<Stuck> {
        let active = self.active();
        let offloads = active.configuration.offloads;
        let mut outgoing = std::mem::take(&mut way.outgoing);
        outgoing.clear();
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
                        },
                        segment,
                        shown,
                        deadline,
                    });
                }
                Verdict::Filtered => {
                    self.counters
                        .filtered
                        .fetch_add(train.segments() as u64, Ordering::Relaxed);
                }
                Verdict::RuleDrop => {
                    self.counters
                        .rule_drop
                        .fetch_add(train.segments() as u64, Ordering::Relaxed);
                }
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
        error = error.or(chains.error());
        let chain_error = chains.chain_error();
        way.receive = chains.into_vectors();
        if wanted {
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
}

impl Port {
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

/// What is to be done after the ring is unlocked.
enum Step {
    Served(Served),
    Control,
}

pub(crate) fn parse_train<'a, 's>(
    source: &'a [Span<'s>],
    format: TransmitFormat,
    active: &Arc<Active>,
    snapshot: &'a mut Snapshot,
) -> Result<Train<'a, [Span<'s>]>, zcnic_device::transmit::TransmitError> {
    parse(
        &GuestMover::<'s, 's>::new(),
        source,
        format,
        active.configuration.features,
        snapshot,
    )
}
