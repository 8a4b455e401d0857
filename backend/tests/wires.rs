//! Wires that do not lead to another port, and several workers.

mod common;

use std::collections::BTreeSet;

use common::World;
use zcnic_backend::{Generate, Wire};
use zcnic_ctl::protocol::{Stats, Status, command};
use zcnic_model::{
    Shape,
    frames::{Flow, broadcast, pattern},
};

const PAIRS: u16 = 3;

#[test]
fn loopback_brings_frames_back() {
    let world = World::wired([Wire::Loopback; 2]);
    let mut driver = world.driver(0, PAIRS);
    driver.bring_up(Shape::SPLIT, 64);
    for length in [0, 1, 46, 200, 1400] {
        let frame = broadcast(&pattern(length));
        driver.send(1, &frame);
        assert_eq!(driver.receive(0).frame, frame);
    }
    let stats: Stats = world.control().query(command::QUERY_STATS).expect("stats");
    let queues = &stats.ports[0].queues;
    let sent: u64 = queues.iter().map(|queue| queue.tx_frames).sum();
    let received: u64 = queues.iter().map(|queue| queue.rx_frames).sum();
    assert_eq!((sent, received), (5, 5));
}

#[test]
fn plain_driver_gets_back_what_it_sends() {
    let world = World::wired([Wire::Loopback; 2]);
    let mut driver = world.driver(0, 2);
    driver.act_plain(2048);
    for queue in 0..2 {
        driver.post(queue, Shape::VirtioNet { size: 2048 }, 100);
    }
    let mut sent = Vec::new();
    for port in 0..50 {
        let frame = Flow::tcp4().ports(port, 80).frame(&pattern(port.into()));
        driver.send(0, &frame);
        sent.push(frame);
    }
    let mut received: Vec<_> = driver
        .receive_all()
        .into_iter()
        .map(|(_, r)| r.frame)
        .collect();
    sent.sort();
    received.sort();
    assert_eq!(received, sent);
    let stats: Stats = world.control().query(command::QUERY_STATS).expect("stats");
    let hashed: u64 = stats.ports[0]
        .queues
        .iter()
        .map(|queue| queue.rx_hashed)
        .sum();
    assert_eq!(hashed, 50);
}

#[test]
fn null_has_a_link_and_takes_everything() {
    let world = World::wired([Wire::Null; 2]);
    let mut driver = world.driver(0, PAIRS);
    driver.bring_up(Shape::SPLIT, 16);
    let frame = broadcast(&pattern(100));
    for _ in 0..100 {
        driver.send(0, &frame);
    }
    let status: Status = world
        .control()
        .query(command::QUERY_STATUS)
        .expect("status");
    assert!(status.ports[0].link);
    let stats: Stats = world.control().query(command::QUERY_STATS).expect("stats");
    let sent: u64 = stats.ports[0]
        .queues
        .iter()
        .map(|queue| queue.tx_frames)
        .sum();
    assert_eq!((sent, stats.ports[0].tx_no_carrier), (100, 0));
    assert!(driver.receive_all().is_empty());
}

#[test]
fn generated_frames_come_as_long_as_there_are_buffers_and_are_those_of_the_seed() {
    let wire = |seed| {
        Wire::Generate(Generate {
            size: 1000,
            flows: 50,
            seed,
        })
    };
    let world = World::wired([wire(1), wire(1)]);
    let mut received = [0, 1].map(|number| {
        let mut driver = world.driver(number, 2);
        driver.bring_up(Shape::SPLIT, 64);
        // More than a batch, with buffers that are posted while the generator waits for them.
        let mut frames: Vec<_> = (0..200)
            .map(|_| {
                let received = driver.receive(0);
                driver.post(0, Shape::SPLIT, 1);
                received.frame
            })
            .collect();
        // What the port sends is discarded.
        driver.send(0, broadcast(&pattern(100)));
        frames.truncate(150);
        frames
    });
    let [ours, same] = &mut received;
    assert!(ours.iter().all(|frame| frame.len() == 1000));
    assert_eq!(ours[..50], ours[50..100], "flows alternate");
    // Which flow comes first depends on when the queue was started.
    let [flows, others] = [ours, same].map(|frames| BTreeSet::from_iter(frames.drain(..50)));
    assert_eq!(flows.len(), 50);
    assert_eq!(flows, others);
}

#[test]
fn generated_flows_are_spread_and_their_checksums_are_good() {
    let flows = Generate {
        flows: 1000,
        ..Generate::default()
    };
    let world = World::wired([Wire::Generate(flows), Wire::Null]);
    let mut driver = world.driver(0, 2);
    driver.act_plain(2048);
    for queue in 0..2 {
        driver.post(queue, Shape::VirtioNet { size: 2048 }, 100);
    }
    driver.send(0, broadcast(&pattern(100)));
    for queue in 0..2 {
        for _ in 0..50 {
            driver.receive(queue);
        }
    }
    let stats: Stats = world.control().query(command::QUERY_STATS).expect("stats");
    for queue in &stats.ports[0].queues[..2] {
        assert!(queue.rx_hashed >= 50, "{queue:?}");
        assert_eq!((queue.rx_csum_bad, queue.rx_no_buffer), (0, 0));
    }
}

#[test]
fn several_workers_share_the_pairs_of_a_port() {
    let world = World::with_workers(3);
    let [mut a, mut b] = world.drivers(6);
    a.bring_up(Shape::SPLIT, 16);
    b.bring_up(Shape::SPLIT, 300);
    let frame = broadcast(&pattern(100));
    for _ in 0..50 {
        for queue in 0..5 {
            a.send(queue, &frame);
        }
    }
    let frames = b.receive_all();
    assert_eq!(frames.len(), 250);
    assert!(frames.iter().all(|(_, received)| received.frame == frame));
}
