//! The wire `generate`: frames of a generator, as fast as the port has buffers for them.
//!
//! The frames wait for buffers as on a cable with `pause`, but without a time limit.

use std::time::{Duration, Instant};

use super::{
    batch::{Scratch, WaitingTrain},
    ingress::{Arrived, FOR_EVER, FRAMES, IncomingFrame, receive_own},
};
use crate::{
    config::FlowControl,
    port::{
        Port,
        generator::{Generator, HEADERS},
        queues::{Backpressure, ServeOutcome},
    },
    ring::raw::Span,
};

/// How long to wait before looking whether the port receives frames, where no event reports it.
const NEXT_LOOK: Duration = Duration::from_millis(100);

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
    let parts: [IncomingFrame<'_>; FRAMES] = std::array::from_fn(|ahead| {
        let flow = (*next + ahead) % flows;
        let headers = headers.part(flow * HEADERS, HEADERS).unwrap_or(headers);
        [headers, payload]
    });
    let before = scratch.rx_batch.delivered;
    let resumed = backpressure.take();
    let Arrived { done, waiting, .. } =
        receive_own(port, &parts, resumed, FlowControl::Pause, scratch);
    *next = (*next + done) % flows;
    *backpressure = waiting.map(|WaitingTrain { backpressure, .. }| Backpressure {
        deadline: Instant::now() + FOR_EVER,
        ..backpressure
    });
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
