//! The data path: from a transmit ring over the cable to the receive rings of its other end.

use std::sync::{Arc, atomic::Ordering};

use zcnic_device::{
    fault::{Direction, Effects},
    features::FeatureSet,
    port::Delay,
    train::Train,
    transmit::{Snapshot, TransmitFormat, parse, parse_into},
};

use crate::{
    datapath::{
        batch::{BATCH, PositionedTrain, RxBatch, Scratch, TimestampSlot, WaitingTrain},
        faulty::FaultyBatch,
    },
    port::{ActiveConfig, Backpressure, End, Port, ServeOutcome, TxQueue},
    ring::{
        RingError,
        chain::{Chain, walk},
        mover::{GuestMover, NextCopy},
        raw::{Mapping, Span},
        recycle,
        transport::Transport,
    },
    sync::lock,
    timer::Job,
};

/// Bytes of a frame that are on their way to the cache before it is looked at, transmit header included.
const AHEAD: usize = 128;

/// How many chains ahead they are sent for.
const CHAINS_AHEAD: usize = 8;

impl Port {
    /// Serves a bounded batch of a transmit ring. An empty one is asked to kick if `arm` says so.
    pub(crate) fn serve(&self, pair: usize, arm: bool, scratch: &mut Scratch) -> ServeOutcome {
        let served = {
            let mut side = lock(&self.transmit[pair]);
            match self.serve_locked(pair, &mut side, arm, scratch) {
                Ok(step) => step,
                Err(error) => {
                    self.broken(2 * pair + 1, &mut side.transport, error);
                    Step::Outcome(ServeOutcome::Idle)
                }
            }
        };
        scratch.rx_batch.raise();
        match served {
            Step::Outcome(served) => served,
            Step::Control => {
                self.serve_control(pair);
                ServeOutcome::More
            }
        }
    }

    fn serve_locked(
        &self,
        pair: usize,
        side: &mut TxQueue,
        arm: bool,
        scratch: &mut Scratch,
    ) -> Result<Step, RingError> {
        let TxQueue {
            transport,
            running,
            lane,
            decision,
            counters,
            backpressure,
            ..
        } = side;
        let enabled = transport.is_enabled();
        let Some(mut ring) = transport.ring()? else {
            return Ok(Step::Outcome(ServeOutcome::Idle));
        };
        let available = ring.available(BATCH)?.min(BATCH);
        let active = self.active();
        let format = active.configuration.transmit_format;
        let is_command_ring = active.command_pair == Some(pair);
        // A stopped transmit queue keeps its chains; it is looked at again when it starts.
        let parked = format.is_some() && !*running && !is_command_ring;
        if enabled && (active.suspended || parked) {
            return Ok(Step::Outcome(ServeOutcome::Idle));
        }
        if available == 0 {
            if !arm {
                return Ok(Step::Outcome(ServeOutcome::Empty));
            }
            let more = ring.enable_kicks()?;
            return Ok(Step::Outcome(if more {
                ServeOutcome::More
            } else {
                ServeOutcome::Idle
            }));
        }
        ring.disable_kicks();

        let Scratch {
            heads,
            spans: kept_spans,
            chains,
            timestamps,
            snapshots,
            trains: kept_trains,
            rx_batch,
        } = scratch;
        let mut spans: Vec<Span<'_>> = recycle(std::mem::take(kept_spans));
        chains.clear();
        timestamps.clear();
        ring.heads(available, heads)?;
        if enabled {
            let frames = match format {
                Some(format) if !is_command_ring => {
                    walk_frames(ring.map(), heads, format, &mut spans, chains, timestamps)
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
        let mut served = ServeOutcome::More;
        let mut effects = Effects::default();
        let armed = self.faults.current(Direction::Transmit);
        if let (true, Some(format), Some(armed)) = (enabled, format, &armed) {
            let batch = FaultyBatch {
                armed,
                ring: &mut ring,
                chains: chains.as_slice(),
                spans: &spans,
                timestamps: timestamps.as_slice(),
                format,
                active: &active,
                lane: &mut *lane,
                decision,
                counters,
                backpressure,
                effects: &mut effects,
            };
            let result = self.send_faulty(batch, rx_batch);
            served = result?;
            done = 0;
        } else if let (true, Some(format)) = (enabled, format) {
            snapshots.resize_with(snapshots.len().max(chains.len()), Snapshot::default);
            let mut trains: Vec<PositionedTrain<'_, '_>> = recycle(std::mem::take(kept_trains));
            let features = active.configuration.features;
            counters.errors +=
                parse_frames(chains, &spans, format, features, snapshots, &mut trains);
            let time = if timestamps.is_empty() {
                0
            } else {
                self.hub.clock()
            };
            let waiting = self.send(&trains, backpressure.take(), rx_batch);
            if let Some(WaitingTrain {
                position,
                backpressure: state,
            }) = waiting
            {
                done = position;
                served = ServeOutcome::Backpressure(state.deadline);
                *backpressure = Some(state);
            }
            // What is stuck is counted when it is done with.
            let sent = || trains.iter().filter(|(position, _)| *position < done);
            sent().for_each(|(_, train)| counters.sent(train));
            timestamps
                .retain(|timestamp| sent().any(|(position, _)| *position == timestamp.position));
            timestamps
                .iter()
                .for_each(|timestamp| timestamp.write(&spans, time));
            if self.hub.captures.any() {
                self.captured(&GuestMover::new(), sent().map(|(_, train)| train));
            }
            *kept_trains = recycle(trains);
        }
        *kept_spans = recycle(spans);
        if timestamps.is_empty() {
            ring.complete_all(&heads[..done], 0);
        } else {
            for (position, &head) in heads[..done].iter().enumerate() {
                let stamped = timestamps
                    .iter()
                    .any(|timestamp| timestamp.position == position);
                ring.complete(head, if stamped { TimestampSlot::LENGTH } else { 0 });
            }
        }
        let wanted = Self::interrupt(ring.publish(), &mut effects);
        let delay = active.configuration.moderation.transmit;
        if wanted && delay.nanoseconds > 0 && ring.moderate(delay.chains) {
            self.schedule_moderated_interrupt(2 * pair + 1, transport, delay);
        } else if wanted {
            rx_batch.interrupts.extend(transport.interrupt());
        }
        if armed.is_some() {
            let due = lane.next_due(armed.as_deref());
            self.follow(Direction::Transmit, pair as u16, due);
            self.carry_out(effects);
        }
        Ok(Step::Outcome(served))
    }

    /// Has a ring looked at when an interrupt that was put off is due.
    pub(crate) fn schedule_moderated_interrupt(
        &self,
        ring: usize,
        transport: &mut Transport,
        delay: Delay,
    ) {
        if !std::mem::replace(&mut transport.moderated, true) {
            let due = self.hub.now().saturating_add(delay.nanoseconds);
            self.hub.schedule(due, Job::Interrupt(self.index, ring));
        }
    }

    /// An interrupt of a ring that was put off is due.
    pub(crate) fn moderated_interrupt_due(&self, ring: usize) {
        let interrupt = self.set_up(ring, Transport::take_moderated_interrupt);
        if let Some(interrupt) = interrupt {
            interrupt.raise();
        }
    }

    /// Sends one train of a batch whose others wait for it. Returns how far it got if it has to wait.
    pub(crate) fn send_one(
        &self,
        one: &[PositionedTrain<'_, '_>; 1],
        resumed: Option<Backpressure>,
        rx_batch: &mut RxBatch,
    ) -> Option<Backpressure> {
        let waiting = self.send(one, resumed, rx_batch);
        waiting.map(|waiting| waiting.backpressure)
    }

    /// Sends a batch. Returns the first train that has to wait, on a cable where frames wait; those behind
    /// it were not sent then.
    fn send(
        &self,
        batch: &[PositionedTrain<'_, '_>],
        resumed: Option<Backpressure>,
        rx_batch: &mut RxBatch,
    ) -> Option<WaitingTrain> {
        match self.end() {
            Some(End::Port(peer, flow_control)) => {
                peer.receive(batch, resumed, flow_control, rx_batch)
            }
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
    timestamps: &mut Vec<TimestampSlot>,
) -> usize {
    for (position, &head) in heads.iter().enumerate() {
        if let Some(&later) = heads.get(position + CHAINS_AHEAD) {
            map.prefetch_table(later);
        }
        // One that can't be used is a frame of no bytes.
        let chain = walk(map, head, spans).unwrap_or_default();
        if chain.has_writable() {
            match TimestampSlot::of(position, chain, spans) {
                Some(timestamp) if format == TransmitFormat::Zcnic => timestamps.push(timestamp),
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
    trains: &mut Vec<PositionedTrain<'b, 'm>>,
) -> u64 {
    let prefetch = |chain: &Chain| {
        let mut parts = chain.readable(spans).iter();
        if let Some(headers) = parts.next() {
            headers.prefetch(AHEAD);
        }
        // A long payload is sent for when it is next, while the one before is copied.
        if let Some(payload) = parts.next().filter(|span| span.len() < NextCopy::LONG) {
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
    Outcome(ServeOutcome),
    Control,
}

pub(crate) fn parse_train<'a, 's>(
    source: &'a [Span<'s>],
    format: TransmitFormat,
    active: &Arc<ActiveConfig>,
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
