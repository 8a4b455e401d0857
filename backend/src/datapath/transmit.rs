//! The sending end of a cable: serves a transmit ring in batches.

use zcnic_device::{
    abi,
    fault::{Direction, Effects},
    features::FeatureSet,
    train::Train,
    transmit::{Snapshot, TransmitFormat, parse_into},
};
use zerocopy::FromBytes;

use super::{
    batch::{
        BATCH, MAX_SEGMENTS, PositionedTrain, RxBatch, Scratch, TimestampSlot, TxBatch,
        sent_segments,
    },
    capture::{self, Sender},
    egress::send,
    faulty::{self, TxFaults},
    interrupts,
};
use crate::{
    index::PairIndex,
    port::{
        Port,
        queues::{ServeOutcome, TxQueue},
    },
    ring::{
        RingError,
        chain::{Chain, walk},
        mover::{GuestMover, NextCopy, gather},
        raw::{Mapping, Span},
        recycle,
        split::SplitRing,
    },
};

/// Bytes of a frame that are prefetched before it is parsed, transmit header included.
const PREFETCH_BYTES: usize = 128;

/// How many chains ahead they are prefetched.
const PREFETCH_DISTANCE: usize = 8;

/// Serves a bounded batch of a transmit ring. If it is empty, the driver is asked to kick only if
/// `arm_kicks`.
pub(crate) fn serve(
    port: &Port,
    pair: PairIndex,
    arm_kicks: bool,
    scratch: &mut Scratch,
) -> ServeOutcome {
    let outcome = {
        let mut queue = port.queues.tx(pair);
        match serve_locked(port, pair, &mut queue, arm_kicks, scratch) {
            Ok(outcome) => outcome,
            Err(error) => {
                let ring = pair.tx_ring();
                port.context.mark_broken(ring, &mut queue.transport, error);
                ServeOutcome::Idle
            }
        }
    };
    scratch.rx_batch.raise_interrupts();
    outcome
}

fn serve_locked(
    port: &Port,
    pair: PairIndex,
    queue: &mut TxQueue,
    arm_kicks: bool,
    scratch: &mut Scratch,
) -> Result<ServeOutcome, RingError> {
    let TxQueue {
        transport,
        running,
        lane,
        decision,
        counters,
        backpressure,
        ..
    } = queue;
    let enabled = transport.is_enabled();
    let Some(mut ring) = transport.ring()? else {
        return Ok(ServeOutcome::Idle);
    };
    let available = ring.available(BATCH)?.min(BATCH);
    let active = port.active();
    // Frames on the ring of commands are control's to refuse.
    let format = active.configuration.transmit_format;
    let format = format.filter(|_| active.command_pair != Some(pair));
    // A stopped transmit queue keeps its chains; its start kicks the ring.
    let parked = format.is_some() && !*running;
    if enabled && active.suspended {
        return Ok(ServeOutcome::Idle);
    }
    if enabled && parked {
        return serve_parked(&mut ring);
    }
    if available == 0 {
        return wait_for_kick(&mut ring, arm_kicks);
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
        let frames = format.map_or(0, |format| {
            walk_frames(ring.map(), heads, format, &mut spans, chains, timestamps)
        });
        if frames == 0 {
            *kept_spans = recycle(spans);
            return Ok(ServeOutcome::Control);
        }
        // Control takes one chain at a time, with the ring's lock released.
        heads.truncate(frames);
    }
    let (mut done, mut outcome) = (heads.len(), ServeOutcome::More);
    let mut effects = Effects::default();
    let armed = port.faults.armed(Direction::Transmit);
    if let (true, Some(format)) = (enabled, format) {
        let batch = TxBatch {
            chains,
            spans: &spans,
            timestamps,
            format,
            features: active.configuration.features,
            clock: active.configuration.clock,
            queue: pair.queue(),
            counters,
            backpressure,
        };
        if let Some(armed) = &armed {
            let faults = TxFaults {
                armed,
                ring: &mut ring,
                lane: &mut *lane,
                decision,
                effects: &mut effects,
            };
            (done, outcome) = (0, faulty::send_batch(port, batch, faults, rx_batch)?);
        } else {
            (done, outcome) = send_batch(port, batch, snapshots, kept_trains, rx_batch);
        }
    }
    *kept_spans = recycle(spans);
    complete(&mut ring, &heads[..done], timestamps);
    let wanted = interrupts::after_faults(ring.publish(), &mut effects);
    let delay = active.configuration.moderation.transmit;
    if wanted && delay.nanoseconds > 0 && ring.moderate(delay.chains) {
        let (context, ring) = (&port.context, pair.tx_ring());
        interrupts::schedule_moderated(context, ring, transport, delay.nanoseconds);
    } else if wanted {
        rx_batch.interrupts.extend(transport.interrupt());
    }
    if let Some(armed) = armed {
        faulty::finish(port, pair, lane, &armed, effects);
    }
    Ok(outcome)
}

/// Serves the ring of a stopped queue: control gets HELLO, which is legal on every ring at any time.
/// It is looked for at the head only, because chains are completed in order.
fn serve_parked(ring: &mut SplitRing<'_>) -> Result<ServeOutcome, RingError> {
    if ring.available(ring.size())? > 0 {
        let head = ring.head(0)?;
        let mut spans = Vec::new();
        let chain = walk(ring.map(), head, &mut spans).unwrap_or_default();
        if chain.has_writable() && is_hello(chain.readable(&spans)) {
            return Ok(ServeOutcome::Control);
        }
    }
    wait_for_kick(ring, true)
}

fn is_hello(readable: &[Span<'_>]) -> bool {
    let mut start = [0; size_of::<abi::Request>()];
    gather(readable, 0, &mut start);
    let request = abi::Request::read_from_bytes(&start);
    request.is_ok_and(|request| {
        request.magic.get() == abi::MAGIC && request.opcode.get() == u16::from(abi::Opcode::Hello)
    })
}

/// Serves an empty ring: asks for a kick if `arm_kicks`.
fn wait_for_kick(ring: &mut SplitRing<'_>, arm_kicks: bool) -> Result<ServeOutcome, RingError> {
    if !arm_kicks {
        return Ok(ServeOutcome::Empty);
    }
    let more = ring.enable_kicks()?;
    Ok(if more {
        ServeOutcome::More
    } else {
        ServeOutcome::Idle
    })
}

/// Parses and sends a batch. Returns how many chains are done, and the reason why others are not.
#[inline]
fn send_batch(
    port: &Port,
    batch: TxBatch<'_, '_>,
    snapshots: &mut Vec<Snapshot>,
    kept_trains: &mut Vec<PositionedTrain<'static, 'static>>,
    rx_batch: &mut RxBatch,
) -> (usize, ServeOutcome) {
    let TxBatch {
        chains,
        spans,
        timestamps,
        format,
        features,
        clock,
        queue,
        counters,
        backpressure,
    } = batch;
    let context = &port.context;
    snapshots.resize_with(snapshots.len().max(chains.len()), Snapshot::default);
    let mut trains: Vec<PositionedTrain<'_, '_>> = recycle(std::mem::take(kept_trains));
    let parsed = parse_frames(chains, spans, format, features, snapshots, &mut trains);
    counters.errors += (parsed - trains.len()) as u64;
    let capturing = context.captures().any();
    let time = if timestamps.is_empty() && !capturing {
        0
    } else {
        context.clock()
    };
    rx_batch.received = capturing.then(Vec::new);
    let resumed = backpressure.take();
    let waiting = send(port, &trains, resumed, rx_batch);
    *backpressure = waiting.as_ref().map(|waiting| waiting.backpressure);
    // A waiting train is counted when it is completed.
    let done = waiting
        .as_ref()
        .map_or(usize::MAX, |waiting| waiting.position);
    let sent = || trains.iter().filter(|(position, _)| *position < done);
    sent().for_each(|(_, train)| counters.sent(train));
    timestamps.retain(|slot| sent().any(|(position, _)| *position == slot.position));
    timestamps
        .iter()
        .for_each(|slot| slot.write(spans, clock.stamp(time)));
    if let Some(received) = rx_batch.received.take() {
        let sender = Sender { port, queue, time };
        let sent = trains.iter().map(|(position, train)| {
            let segments = sent_segments(*position, train, resumed, waiting.as_ref());
            (*position, train, segments)
        });
        let (captures, mover) = (context.captures(), GuestMover::new());
        capture::record_batch(captures, Some(sender), &[], &mover, sent, received);
    }
    *kept_trains = recycle(trains);
    match waiting {
        Some(waiting) => (
            waiting.position,
            ServeOutcome::Backpressure(waiting.backpressure.deadline),
        ),
        None => (parsed, ServeOutcome::More),
    }
}

/// Returns the chains that start at `heads`, with the length of a timestamp where one was written.
#[inline]
fn complete(ring: &mut SplitRing<'_>, heads: &[u16], timestamps: &[TimestampSlot]) {
    if timestamps.is_empty() {
        ring.complete_all(heads, 0);
    } else {
        for (position, &head) in heads.iter().enumerate() {
            let stamped = timestamps.iter().any(|slot| slot.position == position);
            ring.complete(head, if stamped { TimestampSlot::LENGTH } else { 0 });
        }
    }
}

/// Walks the chains that start at `heads`, up to the first that is not a frame. Returns how many
/// frames there are; `chains` gets one chain and `timestamps` at most one slot for each.
fn walk_frames<'m>(
    map: &'m Mapping,
    heads: &[u16],
    format: TransmitFormat,
    spans: &mut Vec<Span<'m>>,
    chains: &mut Vec<Chain>,
    timestamps: &mut Vec<TimestampSlot>,
) -> usize {
    for (position, &head) in heads.iter().enumerate() {
        if let Some(&later) = heads.get(position + PREFETCH_DISTANCE) {
            map.prefetch_table(later);
        }
        // An invalid chain is a frame of no bytes, which is refused when it is parsed.
        let chain = walk(map, head, spans).unwrap_or_default();
        if chain.has_writable() {
            match TimestampSlot::of(position, chain, spans) {
                Some(slot) if format == TransmitFormat::Zcnic => timestamps.push(slot),
                _ => return position,
            }
        }
        chains.push(chain);
    }
    heads.len()
}

/// Parses the frames of `chains` into trains, until these have [`MAX_SEGMENTS`] segments. Returns
/// how many chains it parsed; those without a train are not a valid frame.
fn parse_frames<'b, 'm>(
    chains: &[Chain],
    spans: &'b [Span<'m>],
    format: TransmitFormat,
    features: FeatureSet,
    snapshots: &'b mut [Snapshot],
    trains: &mut Vec<PositionedTrain<'b, 'm>>,
) -> usize {
    let prefetch = |chain: &Chain| {
        let mut parts = chain.readable(spans).iter();
        if let Some(headers) = parts.next() {
            headers.prefetch(PREFETCH_BYTES);
        }
        // A long payload is prefetched later, while the one before it is copied.
        if let Some(payload) = parts.next().filter(|span| span.len() < NextCopy::LONG) {
            payload.prefetch(PREFETCH_BYTES);
        }
    };
    chains.iter().take(PREFETCH_DISTANCE).for_each(prefetch);
    let mut segments = 0;
    for (position, (chain, snapshot)) in chains.iter().zip(snapshots).enumerate() {
        chains.get(position + PREFETCH_DISTANCE).map(prefetch);
        let (_, train) = trains.push_mut((position, Train::unset(chain.readable(spans))));
        if parse_into(&GuestMover::new(), format, features, snapshot, train).is_err() {
            trains.pop();
            continue;
        }
        segments += train.segments();
        if segments >= MAX_SEGMENTS {
            return position + 1;
        }
    }
    chains.len()
}
