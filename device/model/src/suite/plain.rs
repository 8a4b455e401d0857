//! A port whose driver is an ordinary virtio-net driver (virtio 1.3, 5.1; docs/abi.md, "Two
//! modes").

use zcnic_device::receive::RX_HEADER;

use super::PAIRS;
use crate::{
    driver::{Driver, Transport},
    frames::{Flow, broadcast, pattern},
    receive::Shape,
    transmit::Packet,
    verify,
};

/// Two plain drivers with `buffers` buffers of `size` bytes on each queue. Both have sent a frame.
fn plain<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
    size: u32,
    buffers: usize,
) -> [Driver<T>; 2] {
    let [mut one, mut other] = connect(PAIRS);
    for driver in [&mut one, &mut other] {
        driver.act_plain(size);
    }
    one.send(0, broadcast(&pattern(1)));
    other.send(0, broadcast(&pattern(1)));
    for driver in [&mut one, &mut other] {
        assert_eq!(driver.receive_all(), []);
        for queue in 0..PAIRS {
            driver.post(queue, Shape::VirtioNet { size }, buffers);
        }
    }
    [one, other]
}

/// All received frames of all queues.
fn frames<T: Transport>(driver: &mut Driver<T>) -> Vec<Vec<u8>> {
    driver
        .receive_all()
        .into_iter()
        .map(|(_, received)| received.frame)
        .collect()
}

/// The format of a silent driver's buffers is unknown until its first frame.
pub fn the_first_frame_makes_a_port_plain<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut one, mut other] = connect(PAIRS);
    for driver in [&mut one, &mut other] {
        driver.act_plain(2048);
        (0..PAIRS).for_each(|queue| driver.post(queue, Shape::VirtioNet { size: 2048 }, 8));
    }
    let frame = broadcast(&pattern(100));
    one.send(0, &frame);
    assert_eq!(
        frames(&mut other),
        Vec::<Vec<u8>>::new(),
        "it has not spoken"
    );
    other.send(1, &frame);
    assert_eq!(frames(&mut one), [&frame[..]]);
    one.send(2, &frame);
    assert_eq!(frames(&mut other), [&frame[..]]);
}

/// A restarted backend finds frames that a zcnic driver sent before it noticed. They are returned,
/// and no buffer is written before HELLO.
pub fn frames_of_a_zcnic_driver_make_no_port_plain<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut one, mut other] = connect(PAIRS);
    for driver in [&mut one, &mut other] {
        (0..PAIRS).for_each(|queue| driver.post(queue, Shape::SPLIT, 8));
    }
    let segmented = Packet::from(Flow::tcp4().frame(&pattern(3000))).segmented(1000);
    for packet in [broadcast(&pattern(100)).into(), segmented] {
        one.send(0, packet.clone());
        other.send(1, packet);
    }
    assert_eq!((one.receive_all(), other.receive_all()), (vec![], vec![]));
    one.bring_up(Shape::SPLIT, 8);
    other.bring_up(Shape::SPLIT, 8);
    one.send(0, broadcast(&pattern(100)));
    other.receive(0);
}

/// `VIRTIO_NET_F_MRG_RXBUF`.
pub fn frames_take_as_many_buffers_as_they_need<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut one, mut other] = plain(connect, 512, 64);
    for (length, chains) in [
        (62, 1),
        (500, 1),
        (501, 2),
        (500 + 512, 2),
        (500 + 513, 3),
        (9000, 18),
    ] {
        let frame = Flow::udp6().frame(&pattern(length - 62));
        one.send(3, &frame);
        let received = other.receive_all();
        assert_eq!(received.len(), 1);
        let (_, received) = &received[0];
        assert_eq!((&received.frame, received.chains), (&frame, chains));
        assert_eq!(received.checksum(), Some(true));
    }
}

/// Checksum insertion and segmentation by virtio-net's own header.
pub fn offloads_work_without_zcnic<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut one, mut other] = plain(connect, 2048, 64);
    for flow in Flow::all() {
        let frame = flow.frame(&pattern(900));
        one.send(0, Packet::from(&frame).checksum().scattered(&[12, 66, 300]));
        assert_eq!(frames(&mut other), [&frame[..]]);
        one.send(0, Packet::from(&frame).segmented(400).indirect());
        let segments = frames(&mut other);
        let payloads: Vec<u8> = segments
            .iter()
            .flat_map(|frame| verify::l4_payload(frame).to_vec())
            .collect();
        assert_eq!((segments.len(), payloads), (3, pattern(900)));
        for segment in &segments {
            assert_eq!(verify::l4_checksum_is_right(segment), Some(true));
        }
    }
}

/// Over all pairs: a plain port has no command pair.
pub fn flows_are_spread<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut one, mut other] = plain(connect, 2048, 64);
    for port in 0..64 {
        one.send(0, Flow::tcp4().ports(port, 80).frame(&pattern(10)));
    }
    let mut used = [0; PAIRS as usize];
    for (queue, _) in other.receive_all() {
        used[usize::from(queue)] += 1;
    }
    assert_eq!(used.iter().sum::<u32>(), 64);
    assert!(
        used.iter().all(|count| *count > 0),
        "all queues were used: {used:?}"
    );
}

/// As when the zcnic driver takes over from virtio_net: no buffer of the plain driver is written
/// any more.
pub fn hello_turns_a_plain_port_into_a_zcnic_port<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut one, mut other] = plain(connect, 2048, 16);
    one.send(0, broadcast(&pattern(60)));
    assert_eq!(frames(&mut other).len(), 1);
    other.bring_up(Shape::linear(512), 8);
    let frame = broadcast(&pattern(500));
    one.send(0, &frame);
    let received = other.receive(0);
    assert_eq!(
        (received.frame, received.chains),
        (frame, 514usize.div_ceil(512 - RX_HEADER))
    );
}
