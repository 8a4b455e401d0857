//! The device's clock, and what is stamped with it (docs/abi.md, "Time").

use zcnic_device::{
    abi::{self, Status},
    features::{Feature, FeatureSet},
};

use super::{PAIRS, up};
use crate::{
    driver::{Driver, Failure, Transport},
    frames::{Flow, pattern},
    receive::Shape,
};

/// Every frame, whole or split, and between two readings of the clock.
pub fn frames_tell_when_they_arrived<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::split(256, 1024), 32);
    let frame = |payload| Flow::udp4().frame(&pattern(payload));
    sender.send(0, frame(100));
    let quiet = receiver.receive(0).header;
    assert_eq!(quiet.flags.get() & abi::RX_TIMESTAMP, 0, "not yet");
    receiver.offloads(&[Feature::Timestamp]).expect("offloads");
    let mut before = receiver.clock().expect("a reading");
    for payload in [0, 1, 700, 5000] {
        sender.send(0, frame(payload));
        // That all its chains say the same is checked when it is received.
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
