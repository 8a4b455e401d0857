//! Captures of the data path: frames as they cross the cable.
//!
//! Without captures a batch pays one load. With them, each frame is finished (its checksums
//! computed, its segments made) as the receiver sees it, and offered to the capturing clients
//! without waiting for any.

use zcnic_ctl::protocol::fault::Direction as ProtocolDirection;
use zcnic_device::{
    memory::Mover,
    train::{Train, finish_into},
};

use crate::port::{Egress, Port, context::PortContext};

/// Records the frames of trains that `port` sent, at both ends of its cable. Those that went over a
/// switch were recorded before.
pub(crate) fn record_trains<'t, M>(
    port: &Port,
    mover: &M,
    trains: impl Iterator<Item = &'t Train<'t, M::Source>>,
) where
    M: Mover,
    M::Source: 't,
{
    if let Some(Egress::Switch(..)) = port.egress() {
        return;
    }
    let mut frame = Vec::new();
    for train in trains {
        for index in 0..train.segments() {
            finish_into(mover, train, index, &mut frame);
            record_sent(port, &frame);
        }
    }
}

/// Records the frames of trains at one port.
pub(super) fn record_at<'t, M>(
    context: &PortContext,
    direction: ProtocolDirection,
    mover: &M,
    trains: impl Iterator<Item = &'t Train<'t, M::Source>>,
) where
    M: Mover,
    M::Source: 't,
{
    let mut frame = Vec::new();
    for train in trains {
        for index in 0..train.segments() {
            finish_into(mover, train, index, &mut frame);
            record(context, direction, &frame);
        }
    }
}

/// Records a finished frame that `port` sent, at both ends of its cable.
pub(crate) fn record_sent(port: &Port, frame: &[u8]) {
    match port.egress() {
        Some(Egress::Port(peer, _)) => {
            record(&port.context, ProtocolDirection::Tx, frame);
            record(&peer.context, ProtocolDirection::Rx, frame);
        }
        Some(Egress::Null | Egress::Line(_) | Egress::Switch(..)) => {
            record(&port.context, ProtocolDirection::Tx, frame);
        }
        None => {}
    }
}

/// Records a finished frame at one port.
pub(crate) fn record(context: &PortContext, direction: ProtocolDirection, frame: &[u8]) {
    context
        .captures()
        .record(context.number(), context.name(), direction, frame);
}
