//! Forwarding on a switch: each train goes to the ports that its destination address leads to.
//!
//! The sender delivers to one port after the other, so it holds one receive queue at a time. A port
//! without buffers drops its copy and holds up no other.

use std::{
    mem,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{
    batch::{PositionedTrain, RxBatch},
    receive::receive,
};
use crate::{
    config::FlowControl,
    port::{
        Port,
        switch::{Destination, Switch},
    },
};

/// Forwards a batch that member `member` of `switch`, the port `port`, sends.
pub(super) fn forward(
    port: &Port,
    switch: &Switch,
    member: usize,
    batch: &[PositionedTrain<'_, '_>],
    rx_batch: &mut RxBatch,
) {
    let mut destinations = mem::take(&mut rx_batch.destinations);
    let headers = batch.iter().map(|(_, train)| train.header_bytes());
    switch.destinations(port.context.now(), member, headers, &mut destinations);
    let mut rest = batch;
    for run in destinations.chunk_by(|a, b| a == b) {
        let (trains, later) = rest.split_at(run.len());
        rest = later;
        let frames = trains.iter().map(|(_, train)| train.segments()).sum();
        to_receivers(switch, member, run[0], frames, |receiver| {
            receive(receiver, trains, None, FlowControl::Drop, rx_batch);
        });
    }
    rx_batch.destinations = destinations;
}

/// Forwards one finished frame to each of its receivers by `deliver`.
pub(super) fn forward_frame(
    port: &Port,
    switch: &Switch,
    member: usize,
    frame: &[u8],
    mut deliver: impl FnMut(&Port),
) {
    let mut destinations = Vec::new();
    switch.destinations(
        port.context.now(),
        member,
        std::iter::once(frame),
        &mut destinations,
    );
    for destination in destinations {
        to_receivers(switch, member, destination, 1, &mut deliver);
    }
}

/// Calls `deliver` for each port of a destination that has a carrier, and counts the frames.
fn to_receivers(
    switch: &Switch,
    sender: usize,
    destination: Destination,
    frames: usize,
    mut deliver: impl FnMut(&Port),
) {
    let mut deliver = |port: &Port| {
        if port.is_connected() && port.link_up() {
            deliver(port);
        }
    };
    let count = |counter: &AtomicU64| counter.fetch_add(frames as u64, Ordering::Relaxed);
    match destination {
        Destination::Nowhere => {}
        Destination::Member(number) => {
            count(&switch.forwarded);
            if let Some(port) = switch.member(number) {
                deliver(&port);
            }
        }
        Destination::Flood => {
            count(&switch.flooded);
            let others = switch.members().filter(|(number, _)| *number != sender);
            others.for_each(|(_, port)| deliver(&port));
        }
    }
}
