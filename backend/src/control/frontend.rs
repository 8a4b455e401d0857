//! Messages of the frontend. The thread that serves its connection calls these functions.

use std::sync::{Arc, atomic::Ordering};

use zcnic_device::{abi, port::DriverMode};

use super::{events, faults, session};
use crate::{
    config::PortMode,
    index::RingIndex,
    memory::GuestMemory,
    notifier::SharedEventfd,
    port::{Port, control_state::ControlState},
    ring::{raw::Memory, transport::Transport},
    timer::Job,
};

/// Starts a ring that the frontend has set up.
pub(crate) fn start_ring(port: &Port, ring: RingIndex) {
    let (queues, waker) = (&port.queues, port.wakers.of(ring));
    let mut control = port.control();
    if !queues.with_transport(ring, |transport| transport.resumes()) {
        session::end(port, &mut control, "the device was reset");
    }
    let started = queues.with_transport(ring, |transport| transport.start(waker, ring));
    if let Err(error) = started {
        port.context
            .warn(format_args!("ring {ring} can't be used: {error}"));
    }
    if control.is_command_ring(ring) {
        control.suspended = false;
        port.publish(control.active());
        port.wakers.kick_tx_rings();
    }
    follow_enabled(port, &mut control);
    drop(control);
    ring_changed(port, ring);
}

/// Stops a ring.
pub(crate) fn stop_ring(port: &Port, ring: RingIndex) {
    // A command that is being executed ends first, because it holds the control lock.
    let mut control = port.control();
    faults::stop_ring(port, ring);
    if control.is_command_ring(ring) {
        control.suspended = true;
        port.publish(control.active());
    }
    drop(control);
    ring_changed(port, ring);
}

/// Enables or disables a ring, which may be running.
pub(crate) fn enable_ring(port: &Port, ring: RingIndex, enabled: bool) {
    let mut control = port.control();
    let changed = port.queues.with_transport(ring, |transport| {
        let changed = transport.is_enabled() != enabled;
        transport.set_enabled(enabled);
        changed
    });
    if changed {
        follow_enabled(port, &mut control);
        drop(control);
        ring_changed(port, ring);
    }
}

/// Replaces the guest memory of all rings. When this returns, the previous one is not used any
/// more.
pub(crate) fn set_memory(port: &Port, memory: &Arc<GuestMemory>) {
    let _control = port.control();
    let memory = Arc::new(Memory::new(Arc::clone(memory), port.wakers.alarm()));
    for ring in RingIndex::all() {
        let checked = port.queues.with_transport(ring, |transport| {
            transport.set_memory(Arc::clone(&memory));
            transport.check()
        });
        if let Err(error) = checked {
            port.context
                .warn(format_args!("ring {ring} can't be used: {error}"));
        }
    }
}

/// Sets the virtio features that the driver acknowledged.
pub(crate) fn set_features(port: &Port, features: u64) {
    let mut control = port.control();
    if control.features == features {
        return;
    }
    if control.features != 0 {
        session::end(port, &mut control, "other features were negotiated");
    }
    control.features = features;
    if !control.is_modern() {
        port.context.warn(format_args!(
            "the driver acknowledged neither VERSION_1 nor MRG_RXBUF; \
             legacy virtio-net is not served (disable-legacy=on)"
        ));
    }
    port.publish(control.active());
}

/// Replaces the kick descriptor of a ring.
pub(crate) fn set_kick(port: &Port, ring: RingIndex, kick: Option<SharedEventfd>) {
    let waker = port.wakers.of(ring);
    let set = |transport: &mut Transport| transport.set_kick(kick, waker, ring);
    if let Err(error) = port.queues.with_transport(ring, set) {
        port.context.warn(format_args!("ring {ring}: {error}"));
    }
}

/// Replaces the call descriptor of a ring; raises an interrupt that was missed without one.
pub(crate) fn set_call(port: &Port, ring: RingIndex, call: Option<SharedEventfd>) {
    let set = |transport: &mut Transport| transport.set_call(call);
    let missed = port.queues.with_transport(ring, set);
    if let Some(interrupt) = missed {
        interrupt.raise();
    }
}

/// Notes that a frontend connected.
pub(crate) fn attach(port: &Port) {
    port.counters.connections.fetch_add(1, Ordering::Relaxed);
    port.set_connected(true);
    port.context.report_connection(true);
    report_link_to_peer(port);
}

/// Stops using all rings, whether or not the frontend asked for it.
pub(crate) fn abandon_rings(port: &Port) {
    let _control = port.control();
    clear_rings(port);
}

fn clear_rings(port: &Port) {
    for ring in RingIndex::all() {
        let waker = port.wakers.of(ring);
        port.queues
            .with_transport(ring, |transport| transport.clear(waker));
    }
}

/// Notes that the frontend went away. When this returns, its memory and rings are not used any
/// more.
pub(crate) fn detach(port: &Port) {
    let mut control = port.control();
    port.set_connected(false);
    clear_rings(port);
    report_missing_memory(port);
    port.wakers.alarm().clear();
    control.features = 0;
    session::end(port, &mut control, "the frontend went away");
    drop(control);
    port.context.report_connection(false);
    report_link_to_peer(port);
}

/// Ends the session of a frontend whose memory has no page. What was replaced by zeros serves the
/// rings until they are stopped here.
pub(crate) fn memory_failed(port: &Port) {
    let _control = port.control();
    if report_missing_memory(port) {
        clear_rings(port);
        port.context.schedule(0, Job::DisconnectFailed);
    }
}

/// Logs that memory has no page, unless that was done. Returns whether it was not.
fn report_missing_memory(port: &Port) -> bool {
    let due = port.wakers.alarm().report();
    if due {
        port.context.warn(format_args!(
            "the frontend's memory lacks a page (SIGBUS), so its session ends: its file was \
             shortened or has a hole that can't be filled; QEMU fills its memory at the start \
             with prealloc=on"
        ));
    }
    due
}

fn report_link_to_peer(port: &Port) {
    if let Some((peer, _)) = port.peer() {
        events::send(&peer, abi::EVENT_LINK);
        peer.report_link();
        peer.wakers.retry();
    }
}

fn ring_changed(port: &Port, ring: RingIndex) {
    port.wakers.kick(ring);
    if ring.is_rx() && port.senders_wait() {
        port.retry_senders();
    }
}

/// Updates the number of pairs of a plain port to those that are enabled, or makes the port plain
/// if its mode asks for it.
fn follow_enabled(port: &Port, control: &mut ControlState) {
    let mode = control.device.mode();
    let becomes_plain = port.mode == PortMode::Plain && control.is_modern();
    if mode == DriverMode::Plain || (mode == DriverMode::Undecided && becomes_plain) {
        session::run_plain(port, control);
    }
}

/// Drops the kick descriptor of a ring because waiting for it failed.
pub(crate) fn kick_failed(port: &Port, ring: RingIndex) {
    let waker = port.wakers.of(ring);
    port.queues
        .with_transport(ring, |transport| transport.drop_kick(waker));
    port.context.warn(format_args!(
        "ring {ring}: its kick descriptor failed and is no longer used"
    ));
}
