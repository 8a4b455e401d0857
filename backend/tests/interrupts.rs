//! Interrupt moderation: no interrupt is lost, and none comes before its time. What may come sooner
//! because the host was busy for a while is tried several times.

mod common;

use std::time::Duration;

use common::World;
use zcnic_model::{
    Driver, Shape,
    frames::{Flow, pattern},
    vhost_user::Frontend,
};

/// The longest moderation time, in microseconds.
const LONG: u16 = u16::MAX;
const TRIALS: usize = 10;
const PATIENCE: Duration = Duration::from_secs(20);

/// Receive and transmit ring of the first queue.
const RX: usize = 0;
const TX: usize = 1;

fn up() -> (World, [Driver<Frontend>; 2]) {
    let world = World::new();
    let mut drivers = world.drivers(2);
    for driver in &mut drivers {
        driver.bring_up(Shape::linear(2048), 200);
    }
    (world, drivers)
}

fn frame() -> Vec<u8> {
    Flow::udp4().frame(&pattern(100))
}

fn is_interrupted(driver: &mut Driver<Frontend>, ring: usize) -> bool {
    driver.transport().interrupted(ring, Duration::ZERO)
}

fn interrupt(driver: &mut Driver<Frontend>, ring: usize) {
    assert!(
        driver.transport().interrupted(ring, PATIENCE),
        "an interrupt of ring {ring} was lost"
    );
}

#[test]
fn a_frame_interrupts_at_once_without_moderation() {
    let (_world, [mut a, mut b]) = up();
    for _ in 0..TRIALS {
        a.send(0, frame());
        assert!(is_interrupted(&mut b, RX));
        assert_eq!(b.receive_all().len(), 1);
    }
}

#[test]
fn a_receiver_is_interrupted_when_enough_frames_wait() {
    let (_world, [mut a, mut b]) = up();
    b.set_moderation((LONG, 4), (0, 0)).expect("COALESCE");
    let mut waited = 0;
    for _ in 0..TRIALS {
        for _ in 0..3 {
            a.send(0, frame());
        }
        waited += usize::from(!is_interrupted(&mut b, RX));
        a.send(0, frame());
        if is_interrupted(&mut b, RX) {
            assert_eq!(b.receive_all().len(), 4);
        } else {
            // The first three frames had their interrupt, and the fourth gets one of its own.
            interrupt(&mut b, RX);
            b.receive_all();
        }
    }
    assert!(waited > 0, "three frames never waited for the fourth");
}

#[test]
fn a_receiver_is_interrupted_when_the_moderation_time_has_passed() {
    let (_world, [mut a, mut b]) = up();
    b.set_moderation((LONG, 0), (0, 0)).expect("COALESCE");
    let mut waited = 0;
    for _ in 0..TRIALS {
        a.send(0, frame());
        if !is_interrupted(&mut b, RX) {
            waited += 1;
            interrupt(&mut b, RX);
        }
        assert_eq!(b.receive_all().len(), 1);
    }
    assert!(waited > 0, "no frame waited");
    b.set_moderation((0, 4), (0, 0)).expect("COALESCE");
    a.send(0, frame());
    interrupt(&mut b, RX);
}

#[test]
fn a_sender_is_interrupted_after_enough_frames_or_the_moderation_time() {
    let (_world, [mut a, mut b]) = up();
    a.set_moderation((0, 0), (LONG, 8)).expect("COALESCE");
    let mut waited = 0;
    for _ in 0..TRIALS {
        for _ in 0..7 {
            a.enqueue(0, frame());
            b.receive(0);
        }
        waited += usize::from(!is_interrupted(&mut a, TX));
        a.enqueue(0, frame());
        b.receive(0);
        // It waits for an interrupt of either cause.
        a.flush(0);
        let _ = is_interrupted(&mut a, TX);
    }
    assert!(waited > 0, "seven frames never waited for the eighth");
    a.enqueue(0, frame());
    a.flush(0);
}

#[test]
fn a_moderated_interrupt_is_raised_when_the_ring_stops() {
    let (_world, [mut a, mut b]) = up();
    b.set_moderation((LONG, 0), (0, 0)).expect("COALESCE");
    a.send(0, frame());
    b.transport().stop_ring(RX);
    interrupt(&mut b, RX);
    assert_eq!(b.receive_all().len(), 1);
}
