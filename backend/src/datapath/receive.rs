//! The receiving end of a cable: steers a batch of trains to queues and places it in their buffers.

use std::sync::atomic::Ordering;

use zcnic_device::{
    fault::{Direction, Effects},
    features::Feature,
    receive::{Annotation, ReceiveQueue},
    steering::SteeringDecision,
    train::Train,
};

use super::{
    batch::{FilteredTrain, PositionedTrain, RxBatch, SteeredTrain, WaitingTrain},
    capture::Received,
    effects, interrupts,
    rx_queue::LockedRxQueue,
};
use crate::{
    config::FlowControl,
    index::PairIndex,
    port::{
        Port, SteeringDrop,
        context::PortContext,
        control_state::ActiveConfig,
        queues::{Backpressure, RxQueue},
    },
    ring::{
        mover::{GuestMover, NextCopy},
        prefetch::{PrefetchHint, prefetch},
        raw::Span,
        receive::ReceiveChains,
    },
    timer::Job,
};

/// Frames whose flow rules are prefetched together, before the first of them is steered.
const RULES_AHEAD: usize = 16;

/// The common properties of a batch's frames on arrival.
#[derive(Clone, Copy)]
struct Arrival<'a> {
    active: &'a ActiveConfig,
    /// The receive time, in nanoseconds of the device's clock; 0: not asked for.
    device_time: u64,
    /// How far the first frame got, if it waited already.
    resumed: Option<Backpressure>,
    flow_control: FlowControl,
}

/// Receives a batch on `port`. With `pause`, returns the first train that has to wait for receive
/// buffers; those behind it were not received.
pub(crate) fn receive(
    port: &Port,
    batch: &[PositionedTrain<'_, '_>],
    resumed: Option<Backpressure>,
    flow_control: FlowControl,
    rx_batch: &mut RxBatch,
) -> Option<WaitingTrain> {
    let active = port.active();
    let mut steered = std::mem::take(&mut rx_batch.steered);
    let is_one_group = steer(&active, batch, &mut steered, &mut rx_batch.filtered);
    if flow_control == FlowControl::Drop && !is_one_group {
        // Each receive ring is locked once; within a queue the order stays as sent. Where frames
        // wait it stays across queues, because those behind a waiting one were not sent at all.
        steered.sort_unstable_by_key(|steered| (steered.queue, steered.index));
    }
    let noted = rx_batch.received.as_ref().map_or(0, Vec::len);
    let arrival = Arrival {
        active: &active,
        device_time: port.rx_time(&active),
        resumed,
        flow_control,
    };
    let waiting = if is_one_group {
        receive_group(port, batch, &steered, arrival, rx_batch)
    } else {
        steered
            .chunk_by(|a, b| a.queue == b.queue)
            .find_map(|group| receive_group(port, batch, group, arrival, rx_batch))
    };
    rx_batch.steered = steered;
    // Trains behind one that has to wait will be sent again.
    let done = waiting
        .as_ref()
        .map_or(usize::MAX, |waiting| waiting.position);
    for filtered in rx_batch
        .filtered
        .iter()
        .filter(|filtered| filtered.position < done)
    {
        let counter = port.counters.of_drop(filtered.reason);
        counter.fetch_add(filtered.frames, Ordering::Relaxed);
    }
    if let Some(received) = &mut rx_batch.received {
        let filtered = rx_batch.filtered.iter();
        let filtered = filtered.filter(|filtered| filtered.position < done);
        complete_received(port, batch, arrival, filtered, received, noted);
    }
    waiting
}

/// Completes the decisions on a batch for captures: those of its queues from number `noted` on get
/// their time and flow rule, and the segments that steering dropped are added.
#[cold]
fn complete_received<'f>(
    port: &Port,
    batch: &[PositionedTrain<'_, '_>],
    arrival: Arrival<'_>,
    filtered: impl Iterator<Item = &'f FilteredTrain>,
    received: &mut Vec<Received>,
    noted: usize,
) {
    for filtered in filtered {
        let fate = filtered.reason.fate();
        let segments = 0..filtered.frames as usize;
        received.extend(
            segments.map(|segment| {
                Received::by_steering(&port.context, filtered.position, segment, fate)
            }),
        );
    }
    let time = match arrival.device_time {
        0 => port.context.clock(),
        time => time,
    };
    let steering = &arrival.active.configuration.steering;
    for one in &mut received[noted..] {
        let position = one.position();
        let train = batch.iter().find(|(at, _)| *at == position);
        let rule = train.and_then(|(_, train)| {
            let rule = steering.matching_rule(train.headers(), train.header_bytes())?;
            Some(rule.location)
        });
        // The address filter and the MTU come before the rules.
        one.complete(time, rule.filter(|_| !one.precedes_rules()));
    }
}

/// Delivers trains of a batch to one receive queue. Returns the first that has to wait.
fn receive_group(
    port: &Port,
    batch: &[PositionedTrain<'_, '_>],
    group: &[SteeredTrain],
    arrival: Arrival<'_>,
    rx_batch: &mut RxBatch,
) -> Option<WaitingTrain> {
    let Arrival {
        active,
        device_time,
        flow_control,
        ..
    } = arrival;
    let queue = group.first()?.queue;
    let pair = PairIndex::from_queue(queue)?;
    let context = &port.context;
    let mut guard = port.queues.rx(pair);
    let RxQueue {
        transport,
        device,
        lane,
        ledger_state,
        waited_for,
        stalled,
        flush_scheduled,
    } = &mut *guard;
    let usable = transport.is_enabled() && !active.suspended;
    let (ring, mut error) = match if usable { transport.ring() } else { Ok(None) } {
        Ok(ring) => (ring, None),
        Err(error) => (None, Some(error)),
    };
    let window = std::mem::take(&mut rx_batch.window);
    let next_copy = NextCopy::default();
    let mut chains = ReceiveChains::new(ring, active.max_chains, window)
        .announce(&next_copy)
        .recorded_by(ledger_state.recorder(|| context.now()));
    chains.disable_kicks();
    let flows = port.flow_counters.current();
    let armed = port.faults.armed(Direction::Receive);
    let offloads = active.configuration.offloads;
    let coalesces = offloads.has(Feature::Gro) || device.holds();
    let mut effects = Effects::default();
    let mut locked = LockedRxQueue {
        context,
        counters: &port.counters,
        coalesces,
        plain: armed.is_none() && !coalesces && rx_batch.received.is_none(),
        received: rx_batch.received.as_mut(),
        queue: &mut *device,
        lane: &mut *lane,
        waited_for,
        stalled,
        mover: GuestMover::with(&next_copy),
        chains: &mut chains,
        flows: &flows,
        armed: armed.as_deref(),
        flow_control,
        effects: &mut effects,
        delivered: 0,
    };
    let note = Annotation {
        queue,
        hash: None,
        offloads,
        time: active.stamp(device_time),
        vlan: None,
    };
    let waiting = deliver_group(&mut locked, batch, group, note, &next_copy, arrival.resumed);
    rx_batch.delivered += locked.delivered;
    device.settled(|held| flows.count(held.headers(), held.header_bytes(), queue, &held.delivered));
    schedule_flush(context, pair, device, flush_scheduled);
    let wanted = interrupts::after_faults(chains.publish(), &mut effects);
    let delay = active.configuration.moderation.receive;
    let moderated = wanted && delay.nanoseconds > 0 && chains.moderate(delay.chains);
    error = error.or(chains.error());
    let chain_error = chains.chain_error();
    rx_batch.window = chains.into_window();
    let ring = pair.rx_ring();
    if moderated {
        interrupts::schedule_moderated(context, ring, transport, delay.nanoseconds);
    } else if wanted {
        rx_batch.interrupts.extend(transport.interrupt());
    }
    if let Some(error) = error {
        context.mark_broken(ring, transport, error);
    }
    if let Some(error) = chain_error {
        context.warn(format_args!("receive ring {ring}: {error}"));
    }
    let violations = ledger_state.violations(|| context.now());
    if armed.is_some() {
        let due = lane.next_deadline(armed.as_deref());
        context.schedule_lane(Direction::Receive, pair, due);
    }
    drop(guard);
    effects::apply(port, effects);
    context.report_violations(pair, violations);
    waiting
}

/// Delivers trains of a batch to a locked queue. Returns the first that has to wait.
#[inline]
fn deliver_group<'s>(
    locked: &mut LockedRxQueue<'_, 's, '_>,
    batch: &[PositionedTrain<'_, 's>],
    group: &[SteeredTrain],
    mut note: Annotation,
    next_copy: &NextCopy,
    resumed: Option<Backpressure>,
) -> Option<WaitingTrain> {
    for (number, steered) in group.iter().enumerate() {
        let (position, train) = &batch[steered.index as usize];
        if next_copy.is_worth()
            && let Some(next) = group.get(number + 1)
        {
            let (_, next) = &batch[next.index as usize];
            next_copy.source.set(payload_hint(next));
        }
        note.hash = steered.hash;
        let resumed = resumed.filter(|_| *position == 0);
        if let Some(backpressure) = locked.deliver(*position, train, &note, resumed) {
            return Some(WaitingTrain {
                position: *position,
                backpressure,
            });
        }
    }
    None
}

/// Schedules a flush of segments that a receive queue holds for coalescing, unless one is
/// scheduled.
pub(crate) fn schedule_flush(
    context: &PortContext,
    pair: PairIndex,
    device: &ReceiveQueue,
    scheduled: &mut bool,
) {
    if let (Some(due), false) = (device.release_at(), *scheduled) {
        *scheduled = true;
        context.schedule_retry(due, Job::FlushHeld(pair));
    }
}

/// Steers each train of a batch to a queue, or filters it. Returns whether all go to the same
/// queue.
fn steer(
    active: &ActiveConfig,
    batch: &[PositionedTrain<'_, '_>],
    steered: &mut Vec<SteeredTrain>,
    filtered: &mut Vec<FilteredTrain>,
) -> bool {
    let mut queues = [u16::MAX, 0];
    let steering = &active.configuration.steering;
    steered.clear();
    filtered.clear();
    let mut candidates = [None; RULES_AHEAD];
    for (index, (position, train)) in batch.iter().enumerate() {
        if index.is_multiple_of(RULES_AHEAD) {
            for (candidate, (_, train)) in candidates.iter_mut().zip(&batch[index..]) {
                *candidate = steering.candidate(train.headers(), train.header_bytes());
                if let Some(address) = candidate.and_then(|candidate| candidate.address()) {
                    prefetch(address);
                }
            }
        }
        let candidate = candidates[index % RULES_AHEAD];
        let reason = match steering.steer_train(candidate, train) {
            SteeringDecision::Queue { queue, hash } => {
                let index = index as u32;
                queues = [queues[0].min(queue), queues[1].max(queue)];
                steered.push(SteeredTrain { index, queue, hash });
                continue;
            }
            SteeringDecision::Filtered => SteeringDrop::Filtered,
            SteeringDecision::Oversize => SteeringDrop::Oversize,
            SteeringDecision::RuleDrop => SteeringDrop::Rule,
        };
        filtered.push(FilteredTrain {
            position: *position,
            frames: train.segments() as u64,
            reason,
        });
    }
    let [lowest, highest] = queues;
    lowest >= highest
}

/// Where the payload of a train begins, approximately: in a span of its own if there are several.
fn payload_hint(train: &Train<'_, [Span<'_>]>) -> PrefetchHint {
    let payload = train.source().iter().take(2).next_back();
    payload.map(|span| span.hint(0)).unwrap_or_default()
}
