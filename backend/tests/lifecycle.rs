//! Ports during the life of their frontends: stops, resets, reconnections, a restarted backend.

mod common;

use common::World;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use zcnic_backend::{FlowControl, PortMode};
use zcnic_ctl::protocol::{Driver as DriverKind, Status, command};
use zcnic_device::abi;
use zcnic_model::{
    Driver, Failure, Shape,
    frames::{Flow, broadcast, pattern},
    vhost_user::{Frontend, PATIENCE, connect, used_indices},
};
use zerocopy::{FromBytes, IntoBytes};

const PAIRS: u16 = 3;

fn status(world: &World) -> Status {
    world
        .control()
        .query(command::QUERY_STATUS)
        .expect("status")
}

fn kinds(world: &World) -> [DriverKind; 2] {
    let ports = status(world).ports;
    [ports[0].driver, ports[1].driver]
}

/// Checks that a frame arrives on queue 0, to which a fresh port steers everything.
fn assert_passes(from: &mut Driver<Frontend>, to: &mut Driver<Frontend>) {
    let frame = broadcast(&pattern(100));
    from.send(0, &frame);
    assert_eq!(to.receive(0).frame, frame);
}

fn up(world: &World) -> [Driver<Frontend>; 2] {
    let mut drivers = world.drivers(PAIRS);
    for driver in &mut drivers {
        driver.bring_up(Shape::SPLIT, 16);
    }
    drivers
}

#[test]
fn plain_driver_receives_before_it_speaks_if_the_port_is_plain() {
    let world = World::with([PortMode::Auto, PortMode::Plain], FlowControl::Drop);
    let [mut a, mut b] = world.drivers(PAIRS);
    a.bring_up(Shape::SPLIT, 0);
    b.act_plain(2048);
    for queue in 0..PAIRS {
        b.post(queue, Shape::VirtioNet { size: 2048 }, 16);
    }
    let frame = broadcast(&pattern(60));
    a.send(0, &frame);
    assert_eq!(b.receive(0).frame, frame);
    assert_eq!(kinds(&world), [DriverKind::Zcnic, DriverKind::Plain]);
}

#[test]
fn flows_stay_on_enabled_pairs() {
    let world = World::with([PortMode::Auto, PortMode::Plain], FlowControl::Drop);
    let [mut a, mut b] = world.drivers(PAIRS);
    a.bring_up(Shape::SPLIT, 0);
    b.act_plain(2048);
    for queue in 0..PAIRS {
        b.post(queue, Shape::VirtioNet { size: 2048 }, 64);
    }
    let spread = |a: &mut Driver<Frontend>, b: &mut Driver<Frontend>| {
        for port in 0..40 {
            a.send(0, Flow::udp4().ports(port, 1).frame(&pattern(10)));
        }
        let frames = b.receive_all();
        assert_eq!(frames.len(), 40);
        let mut queues: Vec<u16> = frames.iter().map(|(queue, _)| *queue).collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    };
    assert_eq!(spread(&mut a, &mut b), [0, 1, 2]);
    for ring in [4, 5] {
        b.transport().enable(ring, false);
    }
    assert_eq!(spread(&mut a, &mut b), [0, 1]);
    for ring in [4, 5] {
        b.transport().enable(ring, true);
    }
    assert_eq!(spread(&mut a, &mut b), [0, 1, 2]);
}

#[test]
fn session_survives_stop_and_resume() {
    let world = World::new();
    let [mut a, mut b] = up(&world);
    assert_passes(&mut a, &mut b);
    for _ in 0..3 {
        let bases = b.transport().stop_all();
        b.transport().start_all(|ring| bases[ring]);
        assert_passes(&mut a, &mut b);
        assert_passes(&mut b, &mut a);
        b.status();
    }
    assert_eq!(status(&world).ports[1].data_pairs, Some(PAIRS - 1));
}

#[test]
fn stopped_ring_is_not_touched() {
    let world = World::new();
    let [mut a, mut b] = up(&world);
    assert_passes(&mut a, &mut b);
    let base = b.transport().stop_ring(0);
    let used = b.pairs()[0].receive.ring().used_index();
    assert_eq!(base, used);
    for _ in 0..100 {
        a.send(0, Flow::udp4().frame(&pattern(500)));
    }
    assert_eq!(b.pairs()[0].receive.ring().used_index(), used);
    b.parts().0.audit();
    b.transport().start_ring(0, base);
    assert_passes(&mut a, &mut b);
}

#[test]
fn device_reset_ends_the_session() {
    let world = World::new();
    let [a, mut b] = up(&world);
    assert_eq!(kinds(&world), [DriverKind::Zcnic; 2]);
    b.transport().reset();
    assert_eq!(kinds(&world), [DriverKind::Zcnic, DriverKind::Undecided]);
    drop(a);
}

#[test]
fn reset_without_traffic_ends_the_session() {
    let world = World::new();
    let [mut a, mut b] = world.drivers(PAIRS);
    a.bring_up(Shape::SPLIT, 0);
    b.hello();
    // Only the ring that carried HELLO moved.
    let bases = b.transport().stop_all();
    assert!(bases.iter().all(|&base| base <= 1), "{bases:?}");
    b.transport().start_all(|ring| bases[ring]);
    assert_eq!(kinds(&world)[1], DriverKind::Zcnic);
    b.transport().reset();
    assert_eq!(kinds(&world)[1], DriverKind::Undecided);
}

#[test]
fn other_driver_may_follow() {
    let world = World::new();
    let [mut a, b] = up(&world);
    drop(b);
    let mut b = world.driver(1, PAIRS);
    b.act_plain(2048);
    for queue in 0..PAIRS {
        b.post(queue, Shape::VirtioNet { size: 2048 }, 16);
    }
    b.send(0, broadcast(&[1]));
    assert_passes(&mut a, &mut b);
    drop(b);
    let mut b = world.driver(1, PAIRS);
    b.bring_up(Shape::linear(2048), 16);
    assert_passes(&mut a, &mut b);
}

#[test]
fn link_follows_the_peers_connection() {
    let world = World::new();
    let [a, mut b] = up(&world);
    b.post_events(4);
    assert_eq!(
        b.status().flags.get() & abi::STATUS_LINK_UP,
        abi::STATUS_LINK_UP
    );
    drop(a);
    assert_eq!(b.event().pending.get(), abi::EVENT_LINK);
    assert_eq!(b.status().flags.get() & abi::STATUS_LINK_UP, 0);
    let mut a = world.driver(0, PAIRS);
    assert_eq!(b.event().pending.get(), abi::EVENT_LINK);
    assert_eq!(
        b.status().flags.get() & abi::STATUS_LINK_UP,
        abi::STATUS_LINK_UP
    );
    a.bring_up(Shape::SPLIT, 16);
    assert_passes(&mut b, &mut a);
}

#[test]
fn event_waits_for_a_buffer() {
    let world = World::new();
    let [a, mut b] = up(&world);
    drop(a);
    let a = world.driver(0, PAIRS);
    b.post_events(1);
    assert_eq!(b.event().pending.get(), abi::EVENT_LINK);
    drop(a);
}

#[test]
fn restarted_backend_knows_no_session() {
    let mut world = World::new();
    let [mut a, mut b] = up(&world);
    assert_passes(&mut a, &mut b);
    let old = b.session();
    for _ in 0..3 {
        world.restart();
        for (number, driver) in [(0, &mut a), (1, &mut b)] {
            let used = used_indices(driver.pairs());
            let path = world.path(number);
            driver.transport().reconnect(&path, |ring| used[ring]);
        }
        let stale = Failure::refused(abi::Status::Stale, 0);
        assert_eq!(b.start_transmit(0), Err(stale));
        assert_eq!(b.stop_receive(0), Err(stale));
        for driver in [&mut a, &mut b] {
            driver.bring_up(Shape::SPLIT, 16);
        }
        assert_ne!(b.session(), old);
        assert_passes(&mut a, &mut b);
        assert_passes(&mut b, &mut a);
    }
}

#[test]
fn second_frontend_is_refused_while_one_is_connected() {
    let world = World::new();
    let [mut a, mut b] = up(&world);
    let intruder = std::os::unix::net::UnixStream::connect(world.path(1)).expect("connect");
    intruder.set_read_timeout(Some(PATIENCE)).expect("timeout");
    assert_eq!(
        std::io::Read::read(&mut &intruder, &mut [0]).expect("closed"),
        0
    );
    assert_passes(&mut a, &mut b);
}

#[test]
fn frames_on_the_command_ring_come_back() {
    let world = World::new();
    let [mut a, mut b] = up(&world);
    // The last pair is for commands. A frame sent there is returned unsent, and the ring stays
    // usable.
    a.send(PAIRS - 1, broadcast(&pattern(100)));
    a.status();
    assert_passes(&mut a, &mut b);
}

#[test]
fn hello_is_answered_on_the_ring_of_a_stopped_queue() {
    let world = World::new();
    let mut driver = world.driver(0, PAIRS);
    driver.hello();
    let hello = |driver: &Driver<Frontend>, pairs: u16, sequence: u32| {
        let mut hello = driver.hello_request();
        hello.queue_pairs = pairs.into();
        hello.request = abi::Request {
            magic: abi::MAGIC.into(),
            opcode: u16::from(abi::Opcode::Hello).into(),
            sequence: sequence.into(),
            length: (size_of::<abi::Hello>() as u32).into(),
            ..Default::default()
        };
        hello
    };
    // No transmit queue was started. The driver now wants fewer pairs, and one that is not there.
    for (pair, pairs, status) in [
        (0, 2, abi::Status::Invalid),
        (1, 2, abi::Status::Ok),
        (0, 3, abi::Status::Invalid),
    ] {
        let request = hello(&driver, pairs, 7);
        let answer = driver.exchange_on(pair, &[request.as_bytes()], 4096);
        let answer = answer.expect("an answer");
        let (response, _) = abi::Response::read_from_prefix(&answer).expect("a response");
        assert_eq!(
            response.status.get(),
            u16::from(status),
            "HELLO on pair {pair}"
        );
    }
    assert_eq!(status(&world).ports[0].data_pairs, Some(1));
}

#[test]
fn every_pair_that_can_be_named_works() {
    // SET_VRING_KICK has 8 bits for a ring's number.
    let pairs = 128;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    )
    .expect("limit");
    let world = World::new();
    let mut a = connect(&world.path(0), pairs, 16);
    let mut b = world.driver(1, PAIRS);
    for driver in [&mut a, &mut b] {
        driver.bring_up(Shape::linear(2048), 2);
    }
    for queue in 0..pairs - 1 {
        let frame = broadcast(&queue.to_le_bytes());
        a.send(queue, &frame);
        assert_eq!(b.receive(0).frame, frame);
        b.post(0, Shape::linear(2048), 1);
    }
    let table: Vec<u16> = (0..128).map(|entry| entry % (pairs - 1)).collect();
    let mut set = abi::RssSet {
        key: [0x5a; abi::RSS_KEY_SIZE],
        ..Default::default()
    };
    set.fields[usize::from(u8::from(abi::FlowType::Udp4))] = 0xf.into();
    a.set_rss(set, &table).expect("a table over all queues");
    for port in 0..200 {
        b.send(0, Flow::udp4().ports(port, 1).frame(&pattern(10)));
    }
    let received = a.receive_all();
    assert!(
        received.iter().any(|(queue, _)| *queue > 100),
        "{} frames",
        received.len()
    );
}

#[test]
fn stops_while_frames_flow() {
    let world = World::new();
    let [mut a, mut b] = up(&world);
    let frame = Flow::udp4().frame(&pattern(1000));
    for round in 0..200 {
        a.enqueue(0, &frame);
        a.enqueue(0, &frame);
        let ring = usize::from(round % 2 == 0);
        let base = b.transport().stop_ring(ring);
        let used = b.parts().1[0].receive.ring().used_index();
        if ring == 0 {
            assert_eq!(base, used, "nothing happens behind the answer");
        }
        b.transport().set_memory();
        b.transport().start_ring(ring, base);
        while b.try_receive(0).is_some() {}
        let posted = b.posted(0);
        b.post(0, Shape::SPLIT, 16 - posted);
    }
    a.flush(0);
    b.parts().0.audit();
    while b.try_receive(0).is_some() {}
    // A sender that lagged behind may have used all buffers in the end.
    let posted = b.posted(0);
    b.post(0, Shape::SPLIT, 16 - posted);
    assert_passes(&mut a, &mut b);
}
