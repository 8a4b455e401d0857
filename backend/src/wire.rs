//! The data path: from a transmit ring over the cable to the receive rings of its other end.

mod intake;
mod receive;

use std::sync::{Arc, atomic::Ordering};

use zcnic_device::{
    abi::TxTime,
    fault::{Direction, Effects},
    features::FeatureSet,
    port::Delay,
    train::Train,
    transmit::{Snapshot, TransmitFormat, parse, parse_into, wants_time},
};
use zerocopy::IntoBytes;

use self::receive::{Outgoing, Refused};
use crate::{
    fault::FaultyBatch,
    hub::Job,
    port::{Active, Blocked, End, Port, Served, TransmitSide, lock},
    ring::{
        RingError,
        chain::{Chain, walk},
        mover::{GuestMover, Upcoming, gather},
        raw::{Mapping, Span},
        recycle,
        transport::{Interrupt, Transport},
        window::Window,
    },
};

/// Chains taken from a ring at once.
pub(crate) const BATCH: u16 = 64;

/// Bytes of a frame that are on their way to the cache before it is looked at, transmit header included.
const AHEAD: usize = 128;

/// How many chains ahead they are sent for.
const CHAINS_AHEAD: usize = 8;

/// A frame of the batch in hand, by the position of its chain.
pub(crate) type Sent<'a, 's> = (usize, Train<'a, [Span<'s>]>);

/// Where a frame of a batch wants to have written when it was sent.
#[derive(Clone, Copy)]
pub(crate) struct Stamp {
    /// Of its chain.
    pub(crate) position: usize,
    chain: Chain,
}

impl Stamp {
    /// Bytes that are written.
    pub(crate) const LENGTH: u32 = size_of::<TxTime>() as u32;

    /// That of the chain at `position`, which has a writable part.
    #[cold]
    fn of(position: usize, chain: Chain, spans: &[Span<'_>]) -> Option<Self> {
        let (readable, writable) = (chain.readable(spans), chain.writable(spans));
        let mut start = [0; 2];
        let length: usize = readable.iter().map(Span::len).sum();
        if length >= start.len() {
            gather(readable, 0, &mut start);
        }
        wants_time(start, writable.iter().map(Span::len)).then_some(Self { position, chain })
    }

    pub(crate) fn write(&self, spans: &[Span<'_>], time: u64) {
        let time = TxTime {
            timestamp_ns: time.into(),
            ..TxTime::default()
        };
        if let [place] = self.chain.writable(spans) {
            place.write(0, time.as_bytes());
        }
    }
}

/// What a worker needs for a batch, kept from one to the next so that nothing is allocated for it.
#[derive(Default)]
pub(crate) struct Scratch {
    heads: Vec<u16>,
    spans: Vec<Span<'static>>,
    chains: Vec<Chain>,
    stamps: Vec<Stamp>,
    pub(crate) snapshots: Vec<Snapshot>,
    pub(crate) trains: Vec<Sent<'static, 'static>>,
    pub(crate) way: Way,
}

/// The part of [`Scratch`] that frames need on their way to queues.
#[derive(Default)]
pub(crate) struct Way {
    outgoing: Vec<Outgoing>,
    refused: Vec<Refused>,
    window: Window<'static>,
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

    #[expect(clippy::too_many_lines, reason = "one batch, stage by stage")]
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
        let available = ring.available(BATCH)?.min(BATCH);
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
            chains,
            stamps,
            snapshots,
            trains: kept_trains,
            way,
        } = scratch;
        let mut spans: Vec<Span<'_>> = recycle(std::mem::take(kept_spans));
        chains.clear();
        stamps.clear();
        ring.heads(available, heads)?;
        if enabled {
            let frames = match format {
                Some(format) if !is_command_ring => {
                    walk_frames(ring.map(), heads, format, &mut spans, chains, stamps)
                }
                _ => 0,
            };
            if frames == 0 {
                *kept_spans = recycle(spans);
                return Ok(Step::Control);
            }
            // Control takes one chain at a time, with the ring's lock released.
            heads.truncate(frames);
        }

        let mut done = heads.len();
        let mut served = Served::More;
        let mut effects = Effects::default();
        let armed = self.faults.current(Direction::Transmit);
        if let (true, Some(format), Some(armed)) = (enabled, format, &armed) {
            let batch = FaultyBatch {
                armed,
                ring: &mut ring,
                chains: chains.as_slice(),
                spans: &spans,
                stamps: stamps.as_slice(),
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
            snapshots.resize_with(snapshots.len().max(chains.len()), Snapshot::default);
            let mut trains: Vec<Sent<'_, '_>> = recycle(std::mem::take(kept_trains));
            let features = active.configuration.features;
            counters.errors +=
                parse_frames(chains, &spans, format, features, snapshots, &mut trains);
            let time = if stamps.is_empty() {
                0
            } else {
                self.hub.clock()
            };
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
            let sent = || trains.iter().filter(|(position, _)| *position < done);
            sent().for_each(|(_, train)| counters.sent(train));
            stamps.retain(|stamp| sent().any(|(position, _)| *position == stamp.position));
            stamps.iter().for_each(|stamp| stamp.write(&spans, time));
            if self.hub.captures.any() {
                self.captured(&GuestMover::new(), sent().map(|(_, train)| train));
            }
            *kept_trains = recycle(trains);
        }
        *kept_spans = recycle(spans);
        if stamps.is_empty() {
            ring.complete_all(&heads[..done], 0);
        } else {
            for (position, &head) in heads[..done].iter().enumerate() {
                let stamped = stamps.iter().any(|stamp| stamp.position == position);
                ring.complete(head, if stamped { Stamp::LENGTH } else { 0 });
            }
        }
        let wanted = Self::interrupt(ring.publish(), &mut effects);
        let delay = active.configuration.moderation.transmit;
        if wanted && delay.nanoseconds > 0 && ring.put_off(delay.chains) {
            self.interrupt_later(2 * pair + 1, transport, delay);
        } else if wanted {
            way.interrupts.extend(transport.interrupt());
        }
        if armed.is_some() {
            let due = lane.next_due(armed.as_deref());
            self.follow(Direction::Transmit, pair as u16, due);
            self.carry_out(effects);
        }
        Ok(Step::Served(served))
    }

    /// Has a ring looked at when an interrupt that was put off is due.
    fn interrupt_later(&self, ring: usize, transport: &mut Transport, delay: Delay) {
        if !std::mem::replace(&mut transport.putting_off, true) {
            let due = self.hub.now().saturating_add(delay.nanoseconds);
            self.hub.schedule(due, Job::Interrupt(self.index, ring));
        }
    }

    /// An interrupt of a ring that was put off is due.
    pub(crate) fn interrupt_due(&self, ring: usize) {
        let interrupt = self.set_up(ring, Transport::late_interrupt);
        if let Some(interrupt) = interrupt {
            interrupt.raise();
        }
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
}

/// Walks the chains that start at `heads` as far as they are frames. Returns how many they are.
fn walk_frames<'m>(
    map: &'m Mapping,
    heads: &[u16],
    format: TransmitFormat,
    spans: &mut Vec<Span<'m>>,
    chains: &mut Vec<Chain>,
    stamps: &mut Vec<Stamp>,
) -> usize {
    for (position, &head) in heads.iter().enumerate() {
        if let Some(&later) = heads.get(position + CHAINS_AHEAD) {
            map.prefetch_table(later);
        }
        // One that can't be used is a frame of no bytes.
        let chain = walk(map, head, spans).unwrap_or_default();
        if chain.has_writable() {
            match Stamp::of(position, chain, spans) {
                Some(stamp) if format == TransmitFormat::Zcnic => stamps.push(stamp),
                _ => return position,
            }
        }
        chains.push(chain);
    }
    heads.len()
}

/// Makes trains of the frames among `chains`; says how many are none.
fn parse_frames<'b, 'm>(
    chains: &[Chain],
    spans: &'b [Span<'m>],
    format: TransmitFormat,
    features: FeatureSet,
    snapshots: &'b mut [Snapshot],
    trains: &mut Vec<Sent<'b, 'm>>,
) -> u64 {
    let prefetch = |chain: &Chain| {
        let mut parts = chain.readable(spans).iter();
        if let Some(headers) = parts.next() {
            headers.prefetch(AHEAD);
        }
        // A long payload is sent for when it is next, while the one before is copied.
        if let Some(payload) = parts.next().filter(|span| span.len() < Upcoming::LONG) {
            payload.prefetch(AHEAD);
        }
    };
    chains.iter().take(CHAINS_AHEAD).for_each(prefetch);
    let mut errors = 0;
    for (position, (chain, snapshot)) in chains.iter().zip(snapshots).enumerate() {
        chains.get(position + CHAINS_AHEAD).map(prefetch);
        let (_, train) = trains.push_mut((position, Train::unset(chain.readable(spans))));
        if parse_into(&GuestMover::new(), format, features, snapshot, train).is_err() {
            trains.pop();
            errors += 1;
        }
    }
    errors
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
