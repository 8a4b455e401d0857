//! Where a port's trains go.

use std::sync::atomic::Ordering;

use super::{
    batch::{PositionedTrain, RxBatch, WaitingTrain},
    forward::forward,
    outgoing,
    receive::receive,
};
use crate::port::{Egress, Port, queues::Backpressure};

/// Sends a batch over the cable or wire of `port`. On one with `pause`, returns the first train that
/// has to wait for room; those behind it were not sent.
pub(super) fn send(
    port: &Port,
    batch: &[PositionedTrain<'_, '_>],
    resumed: Option<Backpressure>,
    rx_batch: &mut RxBatch,
) -> Option<WaitingTrain> {
    match port.egress() {
        Some(Egress::Port(peer, flow_control)) => {
            receive(&peer, batch, resumed, flow_control, rx_batch)
        }
        Some(Egress::Null) => None,
        Some(Egress::Line(line)) => outgoing::send(port, line, batch, resumed),
        Some(Egress::Switch(switch, member)) => {
            forward(port, switch, member, batch, rx_batch);
            None
        }
        None => {
            let frames: usize = batch.iter().map(|(_, train)| train.segments()).sum();
            port.counters
                .no_carrier
                .fetch_add(frames as u64, Ordering::Relaxed);
            None
        }
    }
}
