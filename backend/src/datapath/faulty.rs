//! The transmit path of a port that has fault rules: chain by chain instead of in batches.

use std::sync::atomic::Ordering;

use zcnic_ctl::protocol::fault::Direction as ProtocolDirection;
use zcnic_device::{
    fault::{
        Armed, Direction, Effects, Lane,
        lane::OwnedFrame,
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
    batch::{RxBatch, TimestampSlot, TxBatch},
    capture,
    effects::{self, with_rx_queue},
    egress::send,
    forward::forward_frame,
    outgoing,
};
use crate::{
    index::PairIndex,
    port::{
        Egress, Port,
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

/// Sends finished frames over the cable of `port`, in order. They are not in a ring, so a frame
/// that finds no receive buffer is dropped.
pub(crate) fn send_frames(port: &Port, frames: &[OwnedFrame]) {
    if frames.is_empty() {
        return;
    }
    if port.context.captures().any() {
        for frame in frames {
            capture::record_sent(port, &frame.bytes);
        }
    }
    match port.egress() {
        Some(Egress::Port(peer, _)) => frames.iter().for_each(|frame| receive_frame(&peer, frame)),
        Some(Egress::Null) => {}
        Some(Egress::Line(line)) => outgoing::send_frames(port, line, frames),
        Some(Egress::Switch(switch, member)) => {
            for frame in frames {
                forward_frame(port, switch, member, &frame.bytes, |receiver| {
                    if receiver.context.captures().any() {
                        capture::record(&receiver.context, ProtocolDirection::Rx, &frame.bytes);
                    }
                    receive_frame(receiver, frame);
                });
            }
        }
        None => {
            port.counters
                .no_carrier
                .fetch_add(frames.len() as u64, Ordering::Relaxed);
        }
    }
}

/// Steers a finished frame on the receiving port and places it.
fn receive_frame(port: &Port, frame: &OwnedFrame) {
    let train = finished(&frame.bytes);
    let active = port.active();
    let verdict = active
        .configuration
        .steering
        .steer(train.headers(), train.header_bytes());
    match verdict {
        SteeringDecision::Queue { queue, hash } => {
            let mut delivered = Delivered::default();
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
                };
                let mut progress = Progress::default();
                delivered = faulty.deliver(&train, &mut progress, &note, false);
            });
            let flows = port.flow_counters.current();
            flows.count(train.headers(), train.header_bytes(), queue, &delivered);
        }
        SteeringDecision::Filtered => {
            port.counters.filtered.fetch_add(1, Ordering::Relaxed);
        }
        SteeringDecision::RuleDrop => {
            port.counters.rule_drop.fetch_add(1, Ordering::Relaxed);
        }
    }
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
    for (position, chain) in chains.iter().enumerate() {
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
        let sent = match decision.take() {
            Some(RuleDecision { completion }) => Sent {
                frames: None,
                completion,
            },
            None => lane.send(armed, &mover, &train, now, effects),
        };
        let timestamp = timestamps.iter().find(|slot| slot.position == position);
        let time = timestamp.map_or(0, |_| context.clock());
        let one = [(0, train)];
        match &sent.frames {
            Some(frames) => send_frames(port, frames),
            None => {
                if let Some(waiting) = send(port, &one, backpressure.take(), rx_batch) {
                    let deadline = waiting.backpressure.deadline;
                    *backpressure = Some(waiting.backpressure);
                    *decision = Some(RuleDecision {
                        completion: sent.completion,
                    });
                    return Ok(ServeOutcome::Backpressure(deadline));
                }
                if context.captures().any() {
                    capture::record_trains(port, &mover, one.iter().map(|(_, train)| train));
                }
            }
        }
        let written = timestamp.map_or(0, |slot| {
            slot.write(spans, time);
            TimestampSlot::LENGTH
        });
        match sent.completion {
            Some(fault) => {
                if fault.is_error() {
                    counters.errors += 1;
                } else {
                    counters.sent(&one[0].1);
                }
                lane.complete(ring, written, fault);
            }
            None => {
                counters.sent(&one[0].1);
                ring.complete(head, written);
            }
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
