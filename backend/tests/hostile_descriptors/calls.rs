//! Call descriptors that block: the frontend shares the open file, fills the counter and clears
//! O_NONBLOCK.

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use vhost::VhostBackend;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use zcnic_ctl::protocol::{event::EventKind, fault::FaultRule};
use zcnic_model::{
    Driver, Shape,
    frames::{broadcast, pattern},
    vhost_user::Frontend,
};

use super::daemon::{ATTACKER, Daemon, PEER, borrow};

/// Receive rings of the first data pair and of the command pair.
const RX: usize = 0;
const EVENTS: usize = 2;

/// Fills the counter and makes a write to it block.
fn jam(call: &EventFd) {
    let _ = call.read();
    call.write(u64::MAX - 1).expect("room");
    let flags = fcntl_getfl(borrow(call)).expect("flags");
    fcntl_setfl(borrow(call), flags - OFlags::NONBLOCK).expect("flags");
}

/// Gives a ring a call descriptor that blocks; returns the frontend's end of it.
fn jam_ring(driver: &mut Driver<Frontend>, ring: usize) -> EventFd {
    let call = EventFd::new(EFD_NONBLOCK).expect("eventfd");
    let protocol = &mut driver.transport().protocol;
    protocol.set_vring_call(ring, &call).expect("call");
    jam(&call);
    call
}

/// Sends frames to an attacker; each must be completed.
fn send(peer: &mut Driver<Frontend>, count: usize) {
    for _ in 0..count {
        peer.send(0, broadcast(&pattern(100)));
    }
}

#[test]
fn the_worker_of_the_peer_goes_on() {
    let mut daemon = Daemon::start();
    let (mut attacker, mut peer) = (daemon.driver(ATTACKER), daemon.driver(PEER));
    let _call = jam_ring(&mut attacker, RX);
    send(&mut peer, 8);
    assert_eq!(attacker.receive_all().len(), 8);
    daemon.assert_unharmed();
    drop((attacker, peer));
    daemon.assert_unharmed_to_the_end();
}

#[test]
fn the_attackers_own_worker_ends() {
    let daemon = Daemon::start();
    let (mut attacker, mut peer) = (daemon.driver(ATTACKER), daemon.driver(PEER));
    // Transmit completions of its own frames; the attacker stays connected at the end.
    let _call = jam_ring(&mut attacker, 1);
    for _ in 0..8 {
        attacker.enqueue(0, broadcast(&pattern(100)));
        peer.receive(0);
    }
    daemon.assert_unharmed_to_the_end();
}

#[test]
fn the_timer_of_all_ports_goes_on() {
    let mut daemon = Daemon::start();
    let (mut attacker, mut peer) = (daemon.driver(ATTACKER), daemon.driver(PEER));
    attacker.set_moderation((50, 0), (50, 0)).expect("COALESCE");
    let _call = jam_ring(&mut attacker, RX);
    send(&mut peer, 8);
    // A frame that the timer releases on an honest port.
    let mut control = daemon.control();
    let rule = serde_json::json!({
        "direction": "rx",
        "action": {"delay": {"nanoseconds": 1_000_000}},
    });
    let rule: FaultRule = serde_json::from_value(rule).expect("a rule");
    let id = control.fault_add("1", &rule).expect("added");
    let [a, b] = daemon.honest();
    let frame = broadcast(&pattern(77));
    a.send(0, &frame);
    assert_eq!(b.receive(0).frame, frame);
    b.post(0, Shape::linear(2048), 1);
    control.fault_remove(id).expect("removed");
    daemon.assert_unharmed_to_the_end();
}

#[test]
fn the_control_socket_and_the_next_frontend_of_the_peer_go_on() {
    let mut daemon = Daemon::start();
    let (mut attacker, peer) = (daemon.driver(ATTACKER), daemon.driver(PEER));
    attacker.post_events(4);
    let _call = jam_ring(&mut attacker, EVENTS);
    let mut control = daemon.control();
    control.subscribe(&[EventKind::Link]).expect("subscribed");
    // LINK is reported under the attacker's control lock, to a call descriptor that blocks.
    drop(peer);
    daemon.assert_unharmed();
    drop(daemon.driver(PEER));
    control.reset(&ATTACKER.to_string()).expect("reset");
    control
        .disconnect(&ATTACKER.to_string())
        .expect("disconnected");
    drop(daemon.driver(ATTACKER));
    daemon.assert_unharmed_to_the_end();
}

#[test]
fn an_interrupt_that_was_missed_is_raised_without_waiting() {
    let daemon = Daemon::start();
    let (mut attacker, mut peer) = (daemon.driver(ATTACKER), daemon.driver(PEER));
    for _ in 0..4 {
        send(&mut peer, 2);
        let jammed = EventFd::new(0).expect("eventfd");
        jammed.write(u64::MAX - 1).expect("room");
        let protocol = &mut attacker.transport().protocol;
        protocol.set_vring_call(RX, &jammed).expect("call");
    }
    send(&mut peer, 2);
    daemon.assert_unharmed_to_the_end();
}

#[test]
fn flags_that_change_while_frames_flow_delay_nothing() {
    let daemon = Daemon::start();
    let (mut attacker, mut peer) = (daemon.driver(ATTACKER), daemon.driver(PEER));
    let call = jam_ring(&mut attacker, RX);
    let shared = call.try_clone().expect("copy");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let flipping = std::thread::spawn(move || {
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            for flags in [OFlags::NONBLOCK, OFlags::empty()] {
                fcntl_setfl(borrow(&shared), OFlags::RDWR | flags).expect("flags");
                // Another process may drain and fill it at any time, too.
                let flags = fcntl_getfl(borrow(&shared)).expect("flags");
                if flags.contains(OFlags::NONBLOCK) {
                    let _ = shared.read();
                    let _ = shared.write(u64::MAX - 1);
                }
            }
        }
    });
    for _ in 0..50 {
        send(&mut peer, 4);
        let received = attacker.receive_all().len();
        attacker.post(0, Shape::linear(2048), received);
    }
    drop(stop);
    flipping.join().expect("it stops");
    daemon.assert_unharmed_to_the_end();
}
