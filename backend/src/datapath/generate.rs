//! The wire `generate`: frames that nobody sent, as fast as the port has buffers for them.
//!
//! Which frames is a matter of the seed alone. They wait for buffers as on a cable with `pause`, but for ever.

use std::time::{Duration, Instant};

use zcnic_ctl::protocol::fault::Direction;
use zcnic_device::{
    features::FeatureSet,
    train::finish_into,
    transmit::{Snapshot, TransmitFormat, parse},
};

use crate::{
    datapath::batch::{BATCH, PositionedTrain, Scratch},
    port::{
        Backpressure, Port, ServeOutcome,
        generator::{Generator, HEADERS},
    },
    ring::{mover::GuestMover, raw::Span, recycle},
    sync::lock,
};

/// When to look again whether anybody wants frames, if nobody says so.
const NEXT_LOOK: Duration = Duration::from_millis(100);

/// For ever: something else will end it.
const FOR_EVER: Duration = Duration::from_hours(24 * 365);

impl Port {
    /// Puts a bounded batch on the generator's wire, if the port is plugged into one.
    pub(crate) fn generate(&self, scratch: &mut Scratch) -> ServeOutcome {
        let mut guard = lock(&self.generator);
        let Some(generator) = &mut *guard else {
            return ServeOutcome::Idle;
        };
        let wait = |time| ServeOutcome::Backpressure(Instant::now() + time);
        if !self.link_up() || !self.is_connected() {
            return wait(FOR_EVER);
        }
        if self.active().configuration.transmit_format.is_none() {
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
        let before = scratch.rx_batch.delivered;
        let (done, state) =
            self.receive_waiting(&batch, backpressure.take(), &mut scratch.rx_batch);
        if self.hub.captures.any() {
            let mut frame = Vec::new();
            for (_, train) in batch.iter().filter(|(position, _)| *position < done) {
                finish_into(&GuestMover::new(), train, 0, &mut frame);
                self.tell(Direction::Rx, &frame);
            }
        }
        *next = (*next + done) % flows;
        *backpressure = state.map(|state| Backpressure {
            deadline: Instant::now() + FOR_EVER,
            ..state
        });
        scratch.trains = recycle(batch);
        let waits = backpressure.is_some();
        drop(guard);
        scratch.rx_batch.raise();
        if waits {
            wait(FOR_EVER)
        } else if scratch.rx_batch.delivered == before {
            wait(NEXT_LOOK)
        } else {
            ServeOutcome::More
        }
    }
}
