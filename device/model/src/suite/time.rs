//! The device's clock and timestamps (docs/abi.md, "Time").

use zcnic_device::{
    abi::{self, Status},
    features::{Feature, FeatureSet},
};

use super::{PAIRS, up};
use crate::{
    driver::{Driver, Failure, Transport},
    frames::{Flow, pattern},
    receive::Shape,
    transmit::Packet,
};

/// Every frame, whole or split, has a timestamp between two readings of the clock.
pub fn received_frames_are_timestamped<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::split(256, 1024), 32);
    let frame = |payload| Flow::udp4().frame(&pattern(payload));
    sender.send(0, frame(100));
    let quiet = receiver.receive(0).header;
    assert_eq!(quiet.flags.get() & abi::RX_TIMESTAMP, 0, "not yet");
    receiver.offloads(&[Feature::Timestamp]).expect("offloads");
    let mut before = receiver.clock().expect("a reading");
    for payload in [0, 1, 700, 5000] {
        sender.send(0, frame(payload));
        // The driver checks that all chains have the same timestamp.
        let stamp = receiver.receive(0).header.timestamp_ns.get();
        let after = receiver.clock().expect("a reading");
        assert!(
            before < stamp && stamp < after,
            "{before}, {stamp}, {after}"
        );
        before = after;
    }
    receiver.offloads(&[]).expect("offloads");
    sender.send(0, frame(100));
    assert_eq!(receiver.receive(0).header.timestamp_ns.get(), 0);
}

/// Frames that ask get a timestamp, of a clock that both ports share, and not later than they
/// arrive.
pub fn sent_frames_are_timestamped<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 64);
    let packet = |payload| Packet::from(Flow::tcp4().frame(&pattern(payload)));
    let packets = [
        packet(100).timestamped(),
        packet(200),
        packet(5000).segmented(1000).timestamped(),
        packet(300).scattered(&[5, 40, 9]).timestamped(),
        packet(300).scattered(&[5, 40, 9]).indirect().timestamped(),
    ];
    receiver.offloads(&[Feature::Timestamp]).expect("offloads");
    let before = sender.clock().expect("a reading");
    for packet in &packets {
        sender.enqueue(1, packet.clone());
    }
    sender.flush(1);
    let after = receiver.clock().expect("both ports have the same clock");
    let mut last = before;
    for packet in packets.iter().filter(|packet| packet.room.is_some()) {
        let time = sender.take_time(1).expect("it was sent");
        assert!(
            (last..=after).contains(&time),
            "{last}, {time}, {after}: {packet:?}"
        );
        last = time;
    }
    let arrived = receiver.receive_all();
    assert_eq!(arrived.len(), 4 + 5);
    let (_, newest) = arrived.last().expect("the last one");
    assert!(last <= newest.header.timestamp_ns.get());
    assert_eq!(sender.stats().1[1].tx_frames.get(), 4 + 5);
}

/// A frame that can't be sent has no timestamp. A writable descriptor of another size is an error,
/// and without one no timestamp is written.
pub fn only_valid_requests_get_a_transmit_timestamp<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 8);
    let good = Packet::from(Flow::udp4().frame(&pattern(100))).timestamped();
    let mut errors = 0;
    let mut refused = |sender: &mut Driver<T>, change: fn(&mut Packet)| {
        let mut packet = good.clone();
        change(&mut packet);
        sender.send(0, packet);
        errors += 1;
        assert_eq!(sender.take_time(0), None);
        assert_eq!(sender.stats().1[0].tx_errors.get(), errors);
    };
    refused(&mut sender, |packet| packet.room = Some(15));
    refused(&mut sender, |packet| packet.room = Some(32));
    refused(&mut sender, |packet| packet.header.flags = 0.into());
    refused(&mut sender, |packet| packet.header.flags |= 0x8000);
    refused(&mut sender, |packet| packet.header.reserved1[3] = 1);
    refused(&mut sender, |packet| packet.frame.truncate(10));
    assert_eq!(receiver.receive_all(), []);

    let mut nowhere = good.clone();
    nowhere.room = None;
    sender.send(0, nowhere);
    assert_eq!(receiver.receive(0).frame, good.frame);
    assert_eq!(sender.stop_transmit(0), Ok(0));
    sender.enqueue(0, good.clone());
    assert_eq!(sender.stop_transmit(0), Ok(1));
    assert_eq!(sender.take_time(0), None, "it was not sent");

    let mut hello = sender.hello_request();
    hello.features = FeatureSet::PLAIN.to_words();
    sender.try_hello(hello).expect("a session");
    sender.start_transmit(0).expect("start");
    sender.send(0, good);
    assert_eq!(sender.take_time(0), None, "it was not negotiated");
    assert_eq!(receiver.receive_all(), []);
}

/// TIMESTAMP was not negotiated.
pub fn the_clock_needs_its_feature<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut driver, _] = connect(PAIRS);
    let mut hello = driver.hello_request();
    hello.features = FeatureSet::PLAIN.to_words();
    driver.try_hello(hello).expect("a session");
    let refused = Err(Failure::refused(
        Status::Unsupported,
        Feature::Timestamp as u32,
    ));
    assert_eq!(driver.clock(), refused);
    let on = driver.offloads(&[Feature::Timestamp]).map(|()| 0);
    assert_eq!(on, refused);
}

/// A step and a frequency change the clock of one port, and its timestamps with it.
pub fn a_port_adjusts_its_own_clock<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    const DAY: i64 = 86_400_000_000_000;
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 32);
    receiver.offloads(&[Feature::Timestamp]).expect("offloads");
    let (time, device) = receiver.clocks().expect("a reading");
    assert_eq!(time, device, "nothing was adjusted");

    let (time, device) = receiver.adjust_clock(DAY, 0).expect("a step");
    assert_eq!(time, device + DAY as u64);
    let before = time;
    sender.send(0, Flow::udp4().frame(&pattern(100)));
    let stamp = receiver.receive(0).header.timestamp_ns.get();
    let (after, _) = receiver.clocks().expect("a reading");
    assert!(
        before < stamp && stamp < after,
        "{before}, {stamp}, {after}"
    );
    receiver.send(0, Packet::from(Flow::udp4().frame(&[1])).timestamped());
    let stamp = receiver.take_time(0).expect("it was sent");
    assert!(after < stamp, "{after}, {stamp}");
    let (time, device) = sender.clocks().expect("a reading");
    assert_eq!(time, device, "the other port's clock is as it was");

    // One tenth faster.
    let (start, from) = receiver.adjust_clock(-DAY, 6_553_600_000).expect("a step");
    assert!(start - from < DAY as u64 / 2, "the step was taken back");
    let (end, to) = receiver.clocks().expect("a reading");
    let (elapsed, real) = (end - start, to - from);
    assert!(
        elapsed.abs_diff(real + real / 10) <= 2,
        "{elapsed} in {real} nanoseconds"
    );
}

/// A new session begins with the device's clock.
pub fn hello_ends_an_adjustment<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut driver, _] = connect(PAIRS);
    driver.hello();
    driver.adjust_clock(1_000_000, 1 << 20).expect("a step");
    driver.hello();
    let (time, device) = driver.clocks().expect("a reading");
    assert_eq!(time, device);
}
