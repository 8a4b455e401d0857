//! Transmitted frames (docs/abi.md, "Transmit").

use zcnic_device::limits::MAX_FRAME;

use super::up;
use crate::{
    driver::{Driver, Transport},
    frames::{Flow, pattern},
    receive::Shape,
    transmit::Packet,
    verify,
};

/// Descriptors of any length, in the ring or in an indirect table.
pub fn scattered_frames_are_sent_whole<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 32);
    let frame = Flow::tcp6().frame(&pattern(1300));
    let scatterings: [&[usize]; 6] = [
        &[],
        &[32, 10_000],
        &[1, 31, 14, 40, 20, 600],
        &[86, 700],
        &[63],
        &[7, 97, 210],
    ];
    for pieces in scatterings {
        for packet in [Packet::from(&frame), Packet::from(&frame).checksum()] {
            let packet = packet.scattered(pieces);
            sender.send(0, packet.clone());
            assert_eq!(receiver.receive(0).frame, frame, "in pieces of {pieces:?}");
            sender.send(1, packet.indirect());
            assert_eq!(
                receiver.receive(0).frame,
                frame,
                "in a table, pieces of {pieces:?}"
            );
        }
    }
}

/// The field holds the pseudo-header sum; the device completes it.
pub fn checksums_are_inserted<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 32);
    for flow in Flow::all() {
        for payload in [0, 1, 2, 511, 1400] {
            let frame = flow.frame(&pattern(payload));
            sender.send(0, Packet::from(&frame).checksum());
            let received = receiver.receive(0);
            assert_eq!((received.checksum(), received.frame), (Some(true), frame));
        }
    }
}

/// RFC 768: 0 would mean "no checksum".
pub fn a_udp_checksum_of_zero_goes_out_as_ones<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 4);
    let flow = Flow::udp4();
    // The payload's first word takes the value of the checksum, so that the sum of everything is 0.
    let plain = flow.frame(&[0; 4]);
    let frame = flow.frame(&[plain[40], plain[41], 0, 0]);
    sender.send(0, Packet::from(&frame).checksum());
    let received = receiver.receive(0);
    assert_eq!(received.frame[40..42], [0xff, 0xff]);
    assert_eq!((received.checksum(), received.frame), (Some(true), frame));
}

/// A stopped transmit queue keeps its chains and sends them when it starts.
pub fn frames_wait_for_their_queue_to_start<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 16);
    assert_eq!(sender.stop_transmit(3), Ok(0));
    for number in 0..5 {
        sender.enqueue(3, Flow::udp4().frame(&[number; 64]));
    }
    sender.send(2, Flow::udp4().frame(&[9; 64]));
    assert_eq!(receiver.receive(0).frame[42..], [9; 64], "others go on");
    assert_eq!((receiver.receive_all(), sender.unsent(3)), (vec![], 5));
    sender.start_transmit(3).expect("start");
    sender.flush(3);
    for number in 0..5 {
        assert_eq!(receiver.receive(0).frame[42..], [number; 64]);
    }
}

/// The number in the response is the number of chains returned unsent.
pub fn a_stop_returns_frames_unsent<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 16);
    sender.stop_transmit(1).expect("stop");
    for _ in 0..6 {
        sender.enqueue(
            1,
            Packet::from(Flow::udp4().frame(&pattern(100))).scattered(&[50]),
        );
    }
    assert_eq!(sender.stop_transmit(1), Ok(6));
    sender.start_transmit(1).expect("start");
    assert_eq!(receiver.receive_all(), []);
    let stats = sender.stats().1[1];
    assert_eq!((stats.tx_frames.get(), stats.tx_errors.get()), (0, 0));
}

/// Frames up to the limit of HELLO are sent.
pub fn the_longest_frame_passes<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 8);
    let frame = Flow::tcp4().frame(&pattern(MAX_FRAME - 54));
    sender.send(0, Packet::from(&frame).checksum().scattered(&[4096]));
    assert_eq!(receiver.receive(0).frame, frame);
    let mut longer = frame;
    longer.push(0);
    sender.send(0, longer);
    assert_eq!(receiver.receive_all(), []);
    assert_eq!(sender.stats().1[0].tx_errors.get(), 1);
}

/// Every segment counts as a frame, on both ports.
pub fn counters_count_wire_frames<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 64);
    let frame = Flow::tcp4().frame(&pattern(10_000));
    sender.send(0, Packet::from(&frame).segmented(1000));
    sender.send(0, Flow::udp4().frame(&pattern(1)));
    let (sent, received) = (sender.stats().1[0], receiver.stats().1[0]);
    assert_eq!(
        (sent.tx_frames.get(), sent.tx_bytes.get()),
        (11, 10 * 1054 + 43)
    );
    assert_eq!(
        (received.rx_frames.get(), received.rx_bytes.get()),
        (11, 10 * 1054 + 43)
    );
    assert_eq!(received.rx_split.get(), 11);
    let frames = receiver.receive_all();
    assert!(
        frames
            .iter()
            .all(|(_, received)| verify::ip_checksum_is_right(&received.frame))
    );
}
