//! The throughput of an attacker's neighbours, with and without the attacker in one run.
//!
//! Neighbours exchange frames one after the other. Windows with an attacker alternate with windows
//! without, so that whatever else the host does meets both. The attacker and the threads that serve
//! it may use every processor that they get, and the neighbours then have their share of the rest: a
//! third on two processors. A neighbour that had to wait for a lock or a queue of the attacker would
//! have less than a hundredth. So the bound lies between the two.

use std::{
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use zcnic_model::{
    Driver, Packet,
    frames::{Flow, pattern},
    vhost_user::Frontend,
};

use crate::attacked::{Daemon, Target, exchange};
use crate::raw::{RawFrontend, SET_VRING_NUM, halves};

/// Windows with an attacker, and as many without, in turn.
const WINDOWS: usize = 8;

/// The length of a window.
const WINDOW: Duration = Duration::from_millis(300);

/// The least part of their throughput that neighbours keep.
const PART: f64 = 0.1;

/// Exchanges per second in a window.
fn window(drivers: &mut [Driver<Frontend>; 2]) -> f64 {
    let start = Instant::now();
    let mut exchanges = 0;
    while start.elapsed() < WINDOW {
        exchange(drivers, exchanges);
        exchanges += 1;
    }
    exchanges as f64 / start.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs `attack` again and again in every other window, and compares the neighbours' exchanges.
fn compare(name: &str, attack: impl Fn(&Target, &AtomicBool) + Sync) {
    let mut daemon = Daemon::without_neighbours();
    let target = &daemon.target;
    let mut drivers = [2, 3].map(|number| target.guest(number, 8));
    let [attacking, busy, done] = [const { AtomicBool::new(false) }; 3];
    let mut windows = [const { Vec::new() }; 2];
    thread::scope(|scope| {
        let attacker = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                if attacking.load(Ordering::Acquire) {
                    busy.store(true, Ordering::Release);
                    attack(target, &attacking);
                    busy.store(false, Ordering::Release);
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        for number in 0..2 * WINDOWS {
            let hostile = number % 2;
            attacking.store(hostile == 1, Ordering::Release);
            while busy.load(Ordering::Acquire) != (hostile == 1) {
                assert!(!attacker.is_finished(), "the attacker failed");
                thread::sleep(Duration::from_millis(1));
            }
            windows[hostile].push(window(&mut drivers));
        }
        attacking.store(false, Ordering::Release);
        done.store(true, Ordering::Release);
    });
    drop(drivers);
    daemon.stop();
    let [without, with] = windows.map(median);
    // Not by a macro, whose output the test runner would keep.
    let report = format!(
        "neighbour of {name}: {without:.0} exchanges/s without the attacker, {with:.0} with ({:.2})\n",
        with / without
    );
    std::io::stderr()
        .write_all(report.as_bytes())
        .expect("standard error");
    assert!(with > PART * without, "{report}");
}

#[test]
fn trains_past_rules_that_multiply_them_cost_the_neighbour_nothing() {
    compare("fault rules", |target, attacking| {
        let _receiver = target.guest(0, 64);
        let mut sender = target.guest(1, 0);
        let rules = vec![json!({"direction": "tx", "action": {"duplicate": {"copies": 64}}}); 64];
        let _: Value = target
            .control()
            .execute("fault-add", Some(&json!({"port": "1", "rules": rules})))
            .expect("rules");
        let train = Packet::from(Flow::tcp4().frame(&pattern(60_000))).segmented(64);
        while attacking.load(Ordering::Acquire) {
            (0..4).for_each(|_| sender.enqueue(0, train.clone()));
            sender.flush(0);
        }
        let _: Value = target
            .control()
            .execute("fault-remove", Some(&json!({"port": "1"})))
            .expect("rules");
    });
}

#[test]
fn connections_that_fail_cost_the_neighbour_nothing() {
    compare("failing connections", |target, attacking| {
        while attacking.load(Ordering::Acquire) {
            let frontend = RawFrontend::connect(&target.path(1));
            let _ = frontend.send(SET_VRING_NUM, &halves(&[1, 0]));
        }
    });
}

#[test]
fn a_flood_of_frames_costs_the_neighbour_nothing() {
    compare("a flood of frames", |target, attacking| {
        let _receiver = target.guest(0, 64);
        let mut sender = target.guest(1, 0);
        let frame = Flow::udp4().frame(&pattern(9000));
        while attacking.load(Ordering::Acquire) {
            (0..2).for_each(|queue| sender.enqueue(queue, &frame));
        }
        (0..2).for_each(|queue| sender.flush(queue));
    });
}

#[test]
fn commands_without_end_cost_the_neighbour_nothing() {
    compare("commands", |target, attacking| {
        let mut hostile = target.guest(1, 4);
        while attacking.load(Ordering::Acquire) {
            hostile.hello();
            hostile.stats();
        }
    });
}
