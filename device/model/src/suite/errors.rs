//! Transmit chains that are invalid, or use features that were not negotiated.

use zcnic_device::{
    abi::{self, GsoType},
    features::{Feature, FeatureSet},
};
use zerocopy::little_endian::U64;

use super::{PAIRS, up};
use crate::{
    driver::{Driver, Transport},
    frames::{Flow, pattern},
    receive::Shape,
    transmit::Packet,
};

/// They are completed in order, counted, and not sent.
pub fn chains_that_can_not_be_sent_are_counted<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 16);
    let good = Packet::from(Flow::tcp4().frame(&pattern(3000))).segmented(1000);
    let changed = |change: fn(&mut abi::TxHeader)| {
        let mut packet = good.clone();
        change(&mut packet.header);
        packet
    };
    let bad = [
        Packet::from(vec![0; 13]),
        Packet::from(vec![]),
        changed(|header| header.flags = 0x8001.into()),
        changed(|header| header.flags = 0.into()),
        changed(|header| header.reserved0 = 1),
        changed(|header| header.reserved1[17] = 1),
        changed(|header| header.gso_type = 4),
        changed(|header| header.gso_type = GsoType::Tcp6.into()),
        changed(|header| header.gso_type = GsoType::Udp.into()),
        changed(|header| header.gso_size = 0.into()),
        changed(|header| header.gso_size = 9500.into()),
        changed(|header| header.header_length = 53.into()),
        changed(|header| header.l3_offset = 18.into()),
        changed(|header| header.csum_start = 30.into()),
        changed(|header| header.csum_offset = 6.into()),
        changed(|header| {
            header.gso_type = 0;
            header.csum_offset = 300.into();
        }),
        changed(|header| {
            header.gso_type = 0;
            header.csum_start = u16::MAX.into();
            header.csum_offset = u16::MAX.into();
        }),
        Packet::from(Flow::tcp4().frame(&pattern(60_000))).segmented(7),
        Packet::from(Flow::tcp4().frame(&[])).segmented(1000),
    ];
    for (number, packet) in bad.iter().enumerate() {
        sender.send(0, packet.clone());
        assert_eq!(receiver.receive_all(), [], "packet {number}");
        assert_eq!(
            sender.stats().1[0].tx_errors.get(),
            number as u64 + 1,
            "packet {number}"
        );
    }
    assert_eq!(sender.stats().1[0].tx_frames.get(), 0);
    sender.send(0, good);
    assert_eq!(receiver.receive_all().len(), 3);
}

/// A driver without a feature can't use it by accident.
pub fn offloads_that_were_not_negotiated_are_refused<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut sender, mut receiver] = connect(PAIRS);
    receiver.bring_up(Shape::SPLIT, 16);
    let packets = [
        (
            Feature::TxCsum,
            Packet::from(Flow::udp4().frame(&pattern(100))).checksum(),
        ),
        (
            Feature::Tso4,
            Packet::from(Flow::tcp4().frame(&pattern(100))).segmented(60),
        ),
        (
            Feature::Tso6,
            Packet::from(Flow::tcp6().frame(&pattern(100))).segmented(60),
        ),
        (
            Feature::Uso,
            Packet::from(Flow::udp6().frame(&pattern(100))).segmented(60),
        ),
    ];
    for (feature, packet) in packets {
        let [low, high] = FeatureSet::ALL.to_words();
        let low = U64::new(low.get() & !(1 << feature as u32));
        let request = abi::Hello {
            features: [low, high],
            ..sender.hello_request()
        };
        sender.try_hello(request).expect("HELLO");
        sender.start_transmit(0).expect("start");
        sender.send(0, packet.clone());
        assert_eq!(receiver.receive_all(), [], "without {feature:?}");
        sender.hello();
        sender.start_transmit(0).expect("start");
        sender.send(0, packet);
        assert!(!receiver.receive_all().is_empty(), "with {feature:?}");
    }
    assert_eq!(
        sender.stats().1[0].tx_errors.get(),
        4,
        "counters outlive sessions"
    );
}
