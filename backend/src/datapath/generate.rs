//! The wire `generate`: frames of a generator, as fast as the port has buffers for them.
//!
//! The frames wait for buffers as on a cable with `pause`, but without a time limit.

use std::time::{Duration, Instant};

use zcnic_device::{
    features::FeatureSet,
    transmit::{Snapshot, TransmitFormat, parse},
};

use super::{
    batch::{BATCH, PositionedTrain, Scratch, WaitingTrain},
    capture,
    receive::receive,
};
use crate::{
    config::FlowControl,
    port::{
        Port,
        generator::{Generator, HEADERS},
        queues::{Backpressure, ServeOutcome},
    },
    ring::{mover::GuestMover, raw::Span, recycle},
};

/// How long to wait before looking whether the port receives frames, where no event reports it.
const NEXT_LOOK: Duration = Duration::from_millis(100);

/// Without a time limit: a kick or a retry ends the wait.
const FOR_EVER: Duration = Duration::from_hours(24 * 365);

/// Puts a bounded batch on the wire of the port's generator, if it is plugged into one.
pub(crate) fn serve(port: &Port, scratch: &mut Scratch) -> ServeOutcome {
    let mut guard = port.generator();
    let Some(generator) = &mut *guard else {
        return ServeOutcome::Idle;
    };
    let wait = |time| ServeOutcome::Backpressure(Instant::now() + time);
    if !port.link_up() || !port.is_connected() {
        return wait(FOR_EVER);
    }
    if port.active().configuration.transmit_format.is_none() {
        return wait(NEXT_LOOK);
    }
    let Generator {
        headers,
        payload,
        next,
        backpressure,
    } = generator;
    let flows = headers.len() / HEADERS;
    let (headers, payload) = (Span::own(headers), Span::own(payload));
    let parts: [[Span<'_>; 2]; BATCH as usize] = std::array::from_fn(|ahead| {
        let flow = (*next + ahead) % flows;
        let headers = headers.part(flow * HEADERS, HEADERS).unwrap_or(headers);
        [headers, payload]
    });
    let snapshots = &mut scratch.snapshots;
    snapshots.resize_with(snapshots.len().max(parts.len()), Snapshot::default);
    let mut batch: Vec<PositionedTrain<'_, '_>> = recycle(std::mem::take(&mut scratch.trains));
    for (position, (source, snapshot)) in parts.iter().zip(snapshots).enumerate() {
        let (mover, format) = (GuestMover::new(), TransmitFormat::VirtioNet);
        let train = parse(&mover, &source[..], format, FeatureSet::ALL, snapshot);
        batch.extend(train.ok().map(|train| (position, train)));
    }
    let rx_batch = &mut scratch.rx_batch;
    let before = rx_batch.delivered;
    let resumed = backpressure.take();
    let captures = port.context.captures();
    rx_batch.received = captures.any().then(Vec::new);
    let waiting = receive(port, &batch, resumed, FlowControl::Pause, rx_batch);
    let done = waiting
        .as_ref()
        .map_or(batch.len(), |waiting| waiting.position);
    if let Some(received) = rx_batch.received.take() {
        let sent = batch.iter().take(done);
        let sent = sent.map(|(position, train)| (*position, train, 0..1));
        capture::record_batch(captures, None, &[], &GuestMover::new(), sent, received);
    }
    *next = (*next + done) % flows;
    *backpressure = waiting.map(|WaitingTrain { backpressure, .. }| Backpressure {
        deadline: Instant::now() + FOR_EVER,
        ..backpressure
    });
    scratch.trains = recycle(batch);
    let waits = backpressure.is_some();
    drop(guard);
    scratch.rx_batch.raise_interrupts();
    if waits {
        wait(FOR_EVER)
    } else if scratch.rx_batch.delivered == before {
        wait(NEXT_LOOK)
    } else {
        ServeOutcome::More
    }
}
