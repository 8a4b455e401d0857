//! Who drives a port: the end of a session, and plain mode.

use zcnic_device::{
    port::DriverMode,
    receive::{Layout, MAX_CHAINS},
};

use super::rings::PortRings;
use crate::{
    index::{PairIndex, RingIndex},
    port::{Port, control_state::ControlState, queues::Queues},
    ring::transport::Transport,
};

/// Ends the session of whichever driver drives the port; `reason` is logged. Its chains are not
/// returned: the rings are gone, or are about to start from scratch.
pub(super) fn end(port: &Port, control: &mut ControlState, reason: &str) {
    for ring in RingIndex::all() {
        port.queues.with_transport(ring, Transport::forget_stop);
    }
    reset_queues(&port.queues);
    control.suspended = false;
    control.pending_events = 0;
    if control.device.mode() != DriverMode::Undecided {
        port.context.info(format_args!("session ended, {reason}"));
        let mut rings = PortRings::new(port, control.publish_context());
        control.device.reset(&mut rings);
    }
}

fn reset_queues(queues: &Queues) {
    for pair in PairIndex::all() {
        let mut queue = queues.rx(pair);
        queue.device.stop();
        queue.stalled = false;
        queue.lane.reset();
        queue.ledger_state.reset();
    }
    for pair in PairIndex::all() {
        let mut queue = queues.tx(pair);
        queue.running = false;
        queue.backpressure = None;
        queue.lane.reset();
        queue.commands.reset();
        queue.decision = None;
    }
}

/// Makes the port a plain virtio-net device, with as many pairs as have their receive ring enabled.
pub(super) fn run_plain(port: &Port, control: &mut ControlState) {
    if control.device.mode() != DriverMode::Plain {
        port.context
            .info(format_args!("driven as a plain virtio-net device"));
    }
    let queues = &port.queues;
    let is_usable = |pair: &PairIndex| {
        queues.with_transport(pair.rx_ring(), |transport| {
            transport.is_ready() && transport.is_enabled()
        })
    };
    let pairs = PairIndex::all().take_while(is_usable).count();
    for pair in PairIndex::all() {
        let device = &mut queues.rx(pair).device;
        if device.layout() != Some(Layout::VirtioNet) {
            device.start(Layout::VirtioNet, MAX_CHAINS);
        }
    }
    for pair in PairIndex::all() {
        queues.tx(pair).running = true;
    }
    let mut rings = PortRings::new(port, control.publish_context());
    control.device.run_plain(pairs as u16, &mut rings);
}
