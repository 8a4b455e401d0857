//! A cable on which frames wait for receive buffers.

mod common;

use common::World;
use zcnic_backend::{FlowControl, PortMode};
use zcnic_ctl::protocol::{Stats, command};
use zcnic_model::{
    Driver, Packet, Shape,
    frames::{Flow, pattern},
    vhost_user::Frontend,
};

fn up(buffers: usize) -> (World, [Driver<Frontend>; 2]) {
    let world = World::with([PortMode::Auto; 2], FlowControl::Pause);
    let mut drivers = world.drivers(3);
    drivers[0].bring_up(Shape::SPLIT, 0);
    drivers[1].bring_up(Shape::linear(2048), buffers);
    (world, drivers)
}

fn timeouts(world: &World) -> u64 {
    let stats: Stats = world.control().query(command::QUERY_STATS).expect("stats");
    stats.ports[1].rx_pause_timeout
}

#[test]
fn frames_wait_for_buffers() {
    let (world, [mut a, mut b]) = up(0);
    let frames: Vec<_> = (0..40u16)
        .map(|n| Flow::udp4().ports(n, 1).frame(&pattern(100)))
        .collect();
    for frame in &frames {
        a.enqueue(0, frame);
    }
    for frame in &frames {
        b.post(0, Shape::linear(2048), 1);
        assert_eq!(&b.receive(0).frame, frame);
    }
    a.flush(0);
    assert_eq!(timeouts(&world), 0);
}

#[test]
fn frames_that_are_refused_behind_one_that_waits_are_counted_once() {
    const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
    let (world, [mut a, mut b]) = up(0);
    b.receive_mode(0, &[OURS]).expect("receive mode");
    for _ in 0..10 {
        for address in [OURS, [2, 0, 0, 0, 0, 2]] {
            a.enqueue(0, Flow::udp4().to(address).frame(&pattern(100)));
        }
    }
    for _ in 0..10 {
        b.post(0, Shape::linear(2048), 1);
        b.receive(0);
    }
    a.flush(0);
    let stats: Stats = world.control().query(command::QUERY_STATS).expect("stats");
    assert_eq!(stats.ports[1].rx_filtered, 10);
}

#[test]
fn a_train_resumes_at_the_segment_where_it_stopped() {
    let (world, [mut a, mut b]) = up(0);
    let payload = pattern(40_000);
    let packet = Packet::from(Flow::tcp4().frame(&payload)).segmented(1000);
    a.enqueue(0, packet);
    let mut received = Vec::new();
    for _ in 0..8 {
        b.post(0, Shape::linear(2048), 5);
        for _ in 0..5 {
            let frame = b.receive(0).frame;
            received.extend_from_slice(&frame[54..]);
        }
    }
    assert_eq!(received, payload);
    a.flush(0);
    assert_eq!(b.receive_all(), []);
    assert_eq!(timeouts(&world), 0);
}

#[test]
fn no_sender_waits_without_limit() {
    let (world, [mut a, mut b]) = up(0);
    let frame = Flow::udp4().frame(&pattern(100));
    for _ in 0..20 {
        a.enqueue(0, &frame);
    }
    a.flush(0);
    // The first frame waited in vain; the others did not wait as long again.
    assert_eq!(timeouts(&world), 1);
    let stats: Stats = world.control().query(command::QUERY_STATS).expect("stats");
    assert_eq!(stats.ports[1].queues[0].rx_no_buffer, 20);
    // New buffers end that state.
    b.post(0, Shape::linear(2048), 1);
    a.send(0, &frame);
    assert_eq!(b.receive(0).frame, frame);
    a.enqueue(0, &frame);
    b.post(0, Shape::linear(2048), 1);
    assert_eq!(b.receive(0).frame, frame);
    assert_eq!(timeouts(&world), 1);
}

#[test]
fn a_stopped_receiver_does_not_hold_its_sender() {
    let (world, [mut a, mut b]) = up(0);
    let frame = Flow::udp4().frame(&pattern(100));
    a.enqueue(0, &frame);
    b.stop_receive(0).expect("stop");
    a.flush(0);
    drop(b);
    a.send(0, &frame);
    drop(world);
}

#[test]
fn a_stopped_sender_resumes_where_it_was() {
    let (_world, [mut a, mut b]) = up(0);
    let frame = Flow::udp4().frame(&pattern(100));
    a.enqueue(0, &frame);
    let bases = a.transport().stop_all();
    a.transport().start_all(|ring| bases[ring]);
    b.post(0, Shape::linear(2048), 2);
    assert_eq!(b.receive(0).frame, frame);
    a.flush(0);
    assert_eq!(b.receive_all(), []);
}
