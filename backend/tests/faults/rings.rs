//! Chains that are withheld, queues that stall, interrupts that are lost.

use std::time::{Duration, Instant};

use serde_json::json;
use zcnic_model::vhost_user::PATIENCE;

use crate::lab::{Lab, QUIET, frames, order};

#[test]
fn a_descriptor_error_returns_a_buffer_unused() {
    let mut lab = Lab::new();
    lab.third("rx", json!("descriptor-error"));
    lab.send();
    assert_eq!(lab.received(4), order(&[0, 1, 3, 4]));
    assert_eq!((lab.b.take_returned(0), lab.b.posted(0)), (1, 32 - 5));

    let mut lab = Lab::new();
    lab.third("tx", json!("descriptor-error"));
    lab.send();
    assert_eq!(lab.received(4), order(&[0, 1, 3, 4]));
    assert_eq!(lab.a.stats().1[0].tx_errors.get(), 1);
}

#[test]
fn withheld_chains_come_back_before_a_stop_completes() {
    let mut lab = Lab::new();
    lab.add(
        "1",
        json!({"direction": "rx", "every": 1, "action": {"withhold-completion": {}}}),
    );
    lab.send();
    assert_eq!(lab.b.receive_all(), []);
    let queues = lab.ask("query-queues", json!({"port": "1"}));
    assert_eq!(queues["pairs"][0]["rx"]["held-chains"], 5);
    assert_eq!(lab.b.stop_receive(0), Ok(32 - 5));
    assert_eq!(lab.received(5), frames());
}

#[test]
fn withheld_chains_come_back_before_a_ring_stops() {
    let mut lab = Lab::new();
    lab.add(
        "1",
        json!({"direction": "rx", "every": 1, "action": {"withhold-completion": {}}}),
    );
    lab.send();
    let base = lab.b.transport().stop_ring(0);
    assert_eq!(base, 5);
    assert_eq!(lab.received(5), frames());
    // The ring resumes there.
    lab.ask("fault-remove", json!({"port": "1"}));
    lab.b.transport().start_ring(0, base);
    lab.b.transport().enable(0, true);
    lab.send();
    assert_eq!(lab.received(5), frames());
}

#[test]
fn a_queue_stalls() {
    let mut lab = Lab::new();
    let id = lab.third("rx", json!({"stall": {}}));
    lab.send();
    assert_eq!(lab.received(2), order(&[0, 1]));
    lab.ask("fault-remove", json!({"id": id}));
    lab.send();
    assert_eq!(lab.received(5), frames());

    // A stalled transmit queue keeps its chains.
    let id = lab.third("tx", json!({"stall": {}}));
    for frame in frames() {
        lab.a.enqueue(0, frame);
    }
    lab.wait(id, 1);
    assert_eq!(lab.received_by(3), order(&[0, 1, 2]));
    assert_eq!(lab.b.receive_all(), []);
    lab.ask("fault-remove", json!({"id": id}));
    assert_eq!(lab.received_by(2), order(&[3, 4]));
    lab.a.flush(0);

    lab.third("tx", json!({"stall": {"nanoseconds": 30_000_000}}));
    let start = Instant::now();
    for frame in frames() {
        lab.a.enqueue(0, frame);
    }
    assert_eq!(lab.received_by(5), frames());
    assert!(start.elapsed() >= Duration::from_millis(30));
    lab.a.flush(0);
}

impl Lab {
    /// The next frames, without waiting for more.
    fn received_by(&mut self, count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| self.b.receive(0).frame).collect()
    }
}

#[test]
fn interrupts_are_lost_and_raised_without_need() {
    let mut lab = Lab::new();
    lab.a.send(0, &frames()[0]);
    assert_eq!(lab.received(1), order(&[0]));
    // The interrupts of the first frame and of earlier ones.
    while lab.b.transport().interrupted(0, QUIET) {}
    lab.add(
        "1",
        json!({"direction": "rx", "nth": 1, "action": "lost-interrupt"}),
    );
    lab.a.send(0, &frames()[1]);
    let lost = lab.b.transport().interrupted(0, QUIET);
    assert!(!lost, "the interrupt is lost");
    // A driver that polls finds the frame.
    assert_eq!(
        lab.b.try_receive(0).map(|got| got.frame),
        Some(frames()[1].clone())
    );

    // An interrupt that the driver did not ask for, because it has not polled since the last one.
    lab.a.send(0, &frames()[2]);
    assert!(lab.b.transport().interrupted(0, PATIENCE));
    lab.a.send(0, &frames()[3]);
    assert!(!lab.b.transport().interrupted(0, QUIET));
    lab.add(
        "1",
        json!({"direction": "rx", "nth": 1, "action": "spurious-interrupt"}),
    );
    lab.a.send(0, &frames()[4]);
    assert!(lab.b.transport().interrupted(0, PATIENCE));
    assert_eq!(lab.received(3), order(&[2, 3, 4]));
}
