//! Wires that do not lead to another port, and several workers.

mod common;

use std::{
    collections::BTreeSet,
    num::NonZeroU64,
    time::{Duration, Instant},
};

use common::{World, cable};
use pcap_file::{
    DataLink,
    pcap::{PcapPacket, PcapWriter},
    pcapng::{
        PcapNgWriter,
        blocks::{
            enhanced_packet::EnhancedPacketBlock,
            interface_description::{
                InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
            },
        },
    },
};
use tempfile::NamedTempFile;
use zcnic_backend::{CableConfig, CableShape, FlowControl, Generate, Pace, ReplayConfig, Wire};
use zcnic_ctl::protocol::{Stats, Status, command};
use zcnic_model::{
    Driver, Shape,
    frames::{Flow, broadcast, pattern},
    vhost_user::Frontend,
};

const PAIRS: u16 = 3;

#[test]
fn loopback_brings_frames_back() {
    let world = World::wired([Wire::Loopback, Wire::Loopback]);
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
    let world = World::wired([Wire::Loopback, Wire::Loopback]);
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
    let world = World::wired([Wire::Null, Wire::Null]);
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

fn address(port: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, port]
}

/// A frame from one address to another.
fn between(from: u8, to: [u8; 6]) -> Vec<u8> {
    [&to[..], &address(from), &[0x88, 0xb5], &pattern(60)].concat()
}

#[test]
fn a_switch_floods_at_first_and_then_forwards() {
    let world = World::switched(3);
    let mut drivers = [0, 1, 2].map(|number| {
        let mut driver = world.driver(number, PAIRS);
        driver.bring_up(Shape::SPLIT, 16);
        driver
    });
    let unknown = between(0, address(2));
    drivers[0].send(0, &unknown);
    for receiver in [1, 2] {
        assert_eq!(drivers[receiver].receive(0).frame, unknown);
    }
    // Both addresses are known from here on.
    let answer = between(2, address(0));
    drivers[2].send(1, &answer);
    assert_eq!(drivers[0].receive(0).frame, answer);
    drivers[0].send(0, &unknown);
    assert_eq!(drivers[2].receive(0).frame, unknown);
    let to_all = between(1, [0xff; 6]);
    drivers[1].send(0, &to_all);
    for receiver in [0, 2] {
        assert_eq!(drivers[receiver].receive(0).frame, to_all);
    }
    // Not back to the port that it came from.
    drivers[0].send(0, between(7, address(0)));
    for driver in &mut drivers {
        assert_eq!(driver.receive_all(), []);
    }
    let status: Status = world
        .control()
        .query(command::QUERY_STATUS)
        .expect("status");
    let [switch] = &status.switches[..] else {
        panic!("{status:?}");
    };
    assert_eq!(switch.ports, ["0", "1", "2"]);
    assert_eq!(
        (switch.addresses, switch.forwarded, switch.flooded),
        (4, 2, 2)
    );
    assert!(status.ports.iter().all(|port| port.link));
}

#[test]
fn a_port_of_a_switch_without_buffers_holds_up_no_other() {
    let world = World::switched(3);
    let mut drivers = [0, 1, 2].map(|number| world.driver(number, 2));
    for (driver, buffers) in drivers.iter_mut().zip([0, 0, 200]) {
        driver.bring_up(Shape::SPLIT, buffers);
    }
    let frame = between(0, [0xff; 6]);
    for _ in 0..100 {
        drivers[0].enqueue(0, &frame);
    }
    drivers[0].flush(0);
    for _ in 0..100 {
        assert_eq!(drivers[2].receive(0).frame, frame);
    }
    let stats: Stats = world.control().query(command::QUERY_STATS).expect("stats");
    assert_eq!(stats.ports[1].queues[0].rx_no_buffer, 100);
}

#[test]
fn ports_of_a_switch_send_to_each_other_at_once() {
    let mut world = World::switched(4);
    let drivers = [0, 1, 2, 3].map(|number| {
        let mut driver = world.driver(number, 2);
        driver.bring_up(Shape::SPLIT, 256);
        driver
    });
    std::thread::scope(|scope| {
        for (number, mut driver) in (0..).zip(drivers) {
            scope.spawn(move || {
                for round in 0..2000_u16 {
                    let to = address((round % 5) as u8);
                    driver.enqueue(0, between(number, to));
                    let received = driver.receive_all().len();
                    driver.post(0, Shape::SPLIT, received);
                }
                driver.flush(0);
            });
        }
    });
    world.stop();
}

/// Ends of a cable with `shape`, the second with `buffers` buffers.
fn shaped(shape: CableShape, buffers: usize) -> (World, [Driver<Frontend>; 2]) {
    let world = World::configured(|config| {
        config.cables = vec![CableConfig {
            shape: Some(shape),
            ..cable(FlowControl::Drop)
        }];
    });
    let mut drivers = world.drivers(2);
    drivers[0].bring_up(Shape::linear(2048), 0);
    drivers[1].bring_up(Shape::linear(2048), buffers);
    (world, drivers)
}

/// Lateness is the host's, so only an early frame is wrong here; the shaper's own tests are exact.
#[test]
fn a_shaped_cable_is_never_faster_than_its_rate_and_delay() {
    let shape = CableShape {
        rate: NonZeroU64::new(1_000_000),
        delay: Duration::from_millis(30),
        ..CableShape::default()
    };
    let (world, [mut a, mut b]) = shaped(shape, 32);
    let frames: Vec<_> = (0..20u16)
        .map(|n| Flow::udp4().ports(n, 1).frame(&pattern(958)))
        .collect();
    let start = Instant::now();
    for frame in &frames {
        a.enqueue(0, frame);
    }
    a.flush(0);
    for (number, frame) in (1..).zip(&frames) {
        assert_eq!(&b.receive(0).frame, frame);
        // 1000 bytes take 8 ms.
        let earliest = number * Duration::from_millis(8) + shape.delay;
        assert!(start.elapsed() >= earliest, "frame {number} is early");
    }
    let status: Status = world
        .control()
        .query(command::QUERY_STATUS)
        .expect("status");
    let [there, back] = &status.cables[0].lines[..] else {
        panic!("{status:?}");
    };
    assert_eq!((there.tx_frames, back.tx_frames), (20, 0));
    assert_eq!(
        status.cables[0].shape.as_ref().expect("a shape").rate,
        Some(1_000_000)
    );
}

#[test]
fn losses_of_a_cable_are_those_of_its_seed() {
    let received = |seed| {
        let shape = CableShape {
            loss: 300_000,
            seed,
            ..CableShape::default()
        };
        let (world, [mut a, mut b]) = shaped(shape, 200);
        for n in 0..200u16 {
            a.enqueue(0, Flow::udp4().ports(n, 1).frame(&pattern(10)));
        }
        a.flush(0);
        let status: Status = world
            .control()
            .query(command::QUERY_STATUS)
            .expect("status");
        let lost = status.cables[0].lines[0].lost;
        let frames: Vec<_> = (lost..200).map(|_| b.receive(0).frame).collect();
        assert!((30..90).contains(&lost), "{lost} of 200");
        frames
    };
    let first = received(1);
    assert_eq!(first, received(1));
    assert_ne!(first, received(2));
}

#[test]
fn frames_wait_on_a_shaped_cable_with_pause() {
    let world = World::configured(|config| {
        config.cables = vec![CableConfig {
            shape: Some(CableShape {
                rate: NonZeroU64::new(200_000_000),
                ..CableShape::default()
            }),
            ..cable(FlowControl::Pause)
        }];
    });
    let mut drivers = world.drivers(2);
    drivers[0].bring_up(Shape::linear(2048), 0);
    drivers[1].bring_up(Shape::linear(2048), 0);
    let [mut a, mut b] = drivers;
    // Four times the queue of the cable.
    let count = 800u16;
    let frame = |n| Flow::udp4().ports(n, 1).frame(&pattern(1400));
    let sending = std::thread::spawn(move || {
        for n in 0..count {
            a.enqueue(0, frame(n));
        }
        a.flush(0);
        // Connected until the last frame has arrived.
        a
    });
    for n in 0..count {
        b.post(0, Shape::linear(2048), 1);
        assert_eq!(b.receive(0).frame, frame(n));
    }
    sending.join().expect("all frames are sent");
}

/// A file with these frames, some time apart.
fn capture(frames: &[Vec<u8>], distance: Duration, nanoseconds: bool) -> NamedTempFile {
    let file = NamedTempFile::new().expect("a file");
    let times = (0u32..).map(|number| Duration::from_secs(1_700_000_000) + number * distance);
    if nanoseconds {
        let mut writer = PcapNgWriter::new(file.as_file()).expect("a section");
        let mut interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, 65_535);
        interface.options = vec![InterfaceDescriptionOption::IfTsResol(
            InterfaceTsResolution::NANO,
        )];
        writer.write_pcapng_block(interface).expect("an interface");
        for (frame, time) in frames.iter().zip(times) {
            let packet = EnhancedPacketBlock {
                interface_id: 0,
                timestamp: time,
                original_len: frame.len() as u32,
                data: frame.into(),
                options: Vec::new(),
            };
            writer.write_pcapng_block(packet).expect("a frame");
        }
    } else {
        let mut writer = PcapWriter::new(file.as_file()).expect("a header");
        for (frame, time) in frames.iter().zip(times) {
            let packet = PcapPacket::new(time, frame.len() as u32, frame).expect("a packet");
            writer.write_packet(&packet).expect("a frame");
        }
    }
    file
}

fn replayed(file: &NamedTempFile, pace: Pace, repeats: bool) -> (World, Driver<Frontend>) {
    let replay = Wire::Replay(ReplayConfig {
        file: file.path().to_owned(),
        pace,
        repeats,
    });
    let world = World::wired([replay, Wire::Null]);
    let driver = world.driver(0, 2);
    (world, driver)
}

fn recorded_frames(count: u16) -> Vec<Vec<u8>> {
    let lengths = [10, 1400, 200];
    (0..count)
        .map(|n| {
            Flow::udp4()
                .ports(n, 1)
                .frame(&pattern(lengths[usize::from(n) % 3]))
        })
        .collect()
}

#[test]
fn a_capture_is_replayed_not_faster_than_it_was_recorded() {
    let frames = recorded_frames(20);
    for nanoseconds in [false, true] {
        let file = capture(&frames, Duration::from_millis(5), nanoseconds);
        let start = Instant::now();
        let (_world, mut driver) = replayed(&file, Pace::Recorded, false);
        driver.bring_up(Shape::linear(2048), 64);
        for frame in &frames {
            assert_eq!(&driver.receive(0).frame, frame);
        }
        assert!(start.elapsed() >= Duration::from_millis(95));
        assert_eq!(driver.receive_all(), []);
    }
}

#[test]
fn a_capture_at_a_rate_takes_its_time() {
    let frames = recorded_frames(20);
    let file = capture(&frames, Duration::ZERO, false);
    let bits = 8 * frames.iter().map(Vec::len).sum::<usize>() as u64;
    let rate = |value| NonZeroU64::new(value).expect("not zero");
    // Both take 100 ms, but for the last frame.
    for pace in [Pace::Frames(rate(200)), Pace::Bits(rate(10 * bits))] {
        let (_world, mut driver) = replayed(&file, pace, false);
        let start = Instant::now();
        driver.bring_up(Shape::linear(2048), 64);
        for frame in &frames {
            assert_eq!(&driver.receive(0).frame, frame);
        }
        assert!(start.elapsed() >= Duration::from_millis(90));
    }
}

#[test]
fn a_capture_at_line_rate_waits_for_buffers_and_begins_again() {
    let frames = recorded_frames(70);
    let file = capture(&frames, Duration::from_secs(3600), false);
    let (_world, mut driver) = replayed(&file, Pace::Line, true);
    driver.bring_up(Shape::linear(2048), 1);
    for number in 0..300 {
        assert_eq!(driver.receive(0).frame, frames[number % frames.len()]);
        driver.post(0, Shape::linear(2048), 1);
    }
    // What the port sends is discarded.
    driver.send(0, broadcast(&pattern(100)));
}
