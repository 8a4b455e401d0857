//! The transmit path of a port that has fault rules: chain by chain instead of in batches.

use std::sync::atomic::Ordering;

use zcnic_device::{
    fault::{
        Armed, Direction, Effects, Lane, OwnedFrame,
        receive::{FaultyQueue, Progress},
        transmit::Sent,
    },
    memory::FromDevice,
    receive::{Annotation, Delivered},
    steering::SteeringDecision,
    train::finished,
    transmit::{Snapshot, parse},
};

use super::{
    batch::{MAX_SEGMENTS, RxBatch, TimestampSlot, TxBatch, sent_segments},
    capture::{self, Received, Sender},
    effects::{self, with_rx_queue},
    egress::send,
    forward::forward_frame,
    outgoing,
};
use crate::{
    index::PairIndex,
    port::{
        Egress, Port, SteeringDrop,
        queues::{RuleDecision, ServeOutcome},
    },
    ring::{RingError, mover::GuestMover, split::SplitRing},
};

/// The fault rules of a transmit ring, and the parts of its queue that they change.
pub(crate) struct TxFaults<'b, 'm> {
    pub(crate) armed: &'b Armed,
    pub(crate) ring: &'b mut SplitRing<'m>,
    pub(crate) lane: &'b mut Lane,
    pub(crate) decision: &'b mut Option<RuleDecision>,
    pub(crate) effects: &'b mut Effects,
}

/// Sends finished frames of transmit queue `queue` over the cable of `port`, in order. They are not
/// in a ring, so a frame that finds no receive buffer is dropped.
pub(crate) fn send_frames(port: &Port, queue: u16, frames: &[OwnedFrame]) {
    if frames.is_empty() {
        return;
    }
    let Some(egress) = port.egress() else {
        port.counters
            .no_carrier
            .fetch_add(frames.len() as u64, Ordering::Relaxed);
        return;
    };
    let captures = port.context.captures();
    let capturing = captures.any();
    for frame in frames {
        let id = capturing.then(|| captures.next_id());
        if let Some(id) = id {
            let time = port.context.clock();
            let sender = Sender { port, queue, time };
            sender.record(captures, id, frame.bytes(), frame.touches());
        }
        match &egress {
            Egress::Port(peer, _) => receive_frame(peer, frame, id),
            Egress::Null => {}
            Egress::Line(line) => outgoing::send_frame(port, line, frame),
            Egress::Switch(switch, member) => {
                forward_frame(port, switch, *member, frame.bytes(), |receiver| {
                    receive_frame(receiver, frame, id);
                });
            }
        }
    }
}

/// Steers a finished frame on the receiving port and places it. Captures record it with this number.
fn receive_frame(port: &Port, frame: &OwnedFrame, id: Option<u64>) {
    let train = finished(frame.bytes());
    let active = port.active();
    let context = &port.context;
    let steering = &active.configuration.steering;
    let rule = || {
        let rule = steering.matching_rule(train.headers(), train.header_bytes());
        rule.map(|rule| rule.location)
    };
    let record = |mut received: Received, time, rule| {
        if let Some(id) = id {
            received.complete(time, rule);
            received.record(context.captures(), id, frame.bytes());
        }
    };
    let dropped = match steering.steer_train(None, &train) {
        SteeringDecision::Queue { queue, hash } => {
            let mut delivered = Delivered::default();
            let mut fates = Vec::new();
            let mut placed = None;
            with_rx_queue(port, queue, |faulty, note| {
                let note = Annotation { hash, ..*note };
                let from = FromDevice(faulty.mover);
                let mut faulty = FaultyQueue {
                    queue: &mut *faulty.queue,
                    lane: &mut *faulty.lane,
                    armed: faulty.armed,
                    mover: &from,
                    ring: &mut *faulty.ring,
                    now: faulty.now,
                    effects: &mut *faulty.effects,
                    fates: id.is_some().then_some(&mut fates),
                };
                let mut progress = Progress::default();
                delivered = faulty.deliver(&train, &mut progress, &note, false);
                placed = Some(note);
            });
            let flows = port.flow_counters.current();
            flows.count(train.headers(), train.header_bytes(), queue, &delivered);
            for (fate, note) in fates.into_iter().zip(placed) {
                let time = context.clock();
                record(Received::by_queue(context, 0, &note, &fate), time, rule());
            }
            return;
        }
        SteeringDecision::Filtered => SteeringDrop::Filtered,
        SteeringDecision::Oversize => SteeringDrop::Oversize,
        SteeringDecision::RuleDrop => SteeringDrop::Rule,
    };
    let counter = port.counters.of_drop(dropped);
    counter.fetch_add(1, Ordering::Relaxed);
    let received = Received::by_steering(context, 0, 0, dropped.fate());
    let rule = (!received.precedes_rules()).then(rule).flatten();
    record(received, context.clock(), rule);
}

/// Sends a batch chain by chain through the fault rules, and completes the chains that were sent.
///
/// # Errors
///
/// The ring is broken.
pub(crate) fn send_batch(
    port: &Port,
    batch: TxBatch<'_, '_>,
    faults: TxFaults<'_, '_>,
    rx_batch: &mut RxBatch,
) -> Result<ServeOutcome, RingError> {
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
    let TxFaults {
        armed,
        ring,
        lane,
        decision,
        effects,
    } = faults;
    let context = &port.context;
    let mut segments = 0;
    for (position, chain) in chains.iter().enumerate() {
        if segments + effects.made() >= MAX_SEGMENTS {
            break;
        }
        let now = context.now();
        if lane.is_stalled(Some(armed), now) {
            // The end of the stall, or the removal of its rule, kicks the ring.
            return Ok(ServeOutcome::Idle);
        }
        let head = ring.head(0)?;
        let mut snapshot = Snapshot::default();
        let (mover, source) = (GuestMover::new(), chain.readable(spans));
        let Ok(train) = parse(&mover, source, format, features, &mut snapshot) else {
            counters.errors += 1;
            ring.complete(head, 0);
            continue;
        };
        segments += train.segments();
        let sent = match decision.take() {
            Some(RuleDecision { completion }) => Sent {
                completion,
                ..Sent::default()
            },
            None => lane.send(armed, &mover, &train, now, effects),
        };
        let timestamp = timestamps.iter().find(|slot| slot.position == position);
        let capturing = context.captures().any();
        let time = if timestamp.is_some() || capturing {
            context.clock()
        } else {
            0
        };
        let one = [(0, train)];
        match &sent.frames {
            Some(frames) => send_frames(port, queue, frames),
            None => {
                rx_batch.received = capturing.then(Vec::new);
                let resumed = backpressure.take();
                let waiting = send(port, &one, resumed, rx_batch);
                if let Some(received) = rx_batch.received.take() {
                    let sender = Some(Sender { port, queue, time });
                    let captures = context.captures();
                    let segments = sent_segments(0, &one[0].1, resumed, waiting.as_ref());
                    let segments = std::iter::once((0, &one[0].1, segments));
                    capture::record_batch(
                        captures,
                        sender,
                        &sent.touches,
                        &mover,
                        segments,
                        received,
                    );
                }
                if let Some(waiting) = waiting {
                    let deadline = waiting.backpressure.deadline;
                    *backpressure = Some(waiting.backpressure);
                    *decision = Some(RuleDecision {
                        completion: sent.completion,
                    });
                    return Ok(ServeOutcome::Backpressure(deadline));
                }
            }
        }
        let written = timestamp.map_or(0, |slot| {
            slot.write(spans, clock.stamp(time));
            TimestampSlot::LENGTH
        });
        if sent.completion.is_some_and(|fault| fault.is_error()) {
            counters.errors += 1;
        } else {
            counters.sent(&one[0].1);
        }
        match sent.completion {
            Some(fault) => lane.complete(ring, written, fault),
            None => ring.complete(head, written),
        }
        lane.return_due(ring, Some(armed), now);
    }
    Ok(ServeOutcome::More)
}

/// Ends a batch that went through fault rules: schedules the release of what its lane holds back,
/// and applies the effects.
pub(crate) fn finish(port: &Port, pair: PairIndex, lane: &Lane, armed: &Armed, effects: Effects) {
    let due = lane.next_deadline(Some(armed));
    port.context.schedule_lane(Direction::Transmit, pair, due);
    effects::apply(port, effects);
}
