//! Placement of frames in receive chains (docs/abi.md, "Receive").

use zcnic_device::{
    abi::QueueStats,
    features::Feature,
    receive::{MAX_CHAINS, RX_HEADER},
};

use super::up;
use crate::{
    driver::{Driver, Transport},
    frames::{Flow, RECEIVER, SENDER, pattern},
    receive::{Received, Shape},
    transmit::Packet,
    verify,
};

/// Header and frame share one descriptor.
pub fn a_linear_chain_holds_the_frame<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::linear(2048), 8);
    for flow in Flow::all() {
        let frame = flow.frame(&pattern(1400));
        sender.send(0, &frame);
        let received = receiver.receive(0);
        assert_eq!(
            (&received.frame, received.chains, received.split_at()),
            (&frame, 1, None)
        );
        assert_eq!(received.checksum(), Some(true));
    }
    assert_eq!(receiver.posted(0), 4);
}

/// Buffers need no alignment: io_uring and AF_XDP users choose their own.
pub fn chains_may_start_anywhere<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    for shape in [Shape::linear(2048), Shape::SPLIT] {
        let [mut sender, mut receiver] = up(&connect, shape, 0);
        for displacement in [1, 13, 40, 63] {
            receiver.displace_buffers(displacement);
            receiver.post(0, shape, 4);
            for flow in Flow::all() {
                let frame = flow.frame(&pattern(1400));
                sender.send(0, &frame);
                assert_eq!(receiver.receive(0).frame, frame, "{displacement} bytes off");
            }
        }
    }
}

/// Every chain has its own receive header, and only the last one has room left.
pub fn linear_chains_share_a_long_frame<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::linear(192), 128);
    for (payload, chains) in [(128 - 54, 1), (129 - 54, 2), (256 - 54, 2), (5000 - 54, 40)] {
        let frame = Flow::tcp4().frame(&pattern(payload));
        sender.send(0, &frame);
        let received = receiver.receive(0);
        assert_eq!((received.frame, received.chains), (frame, chains));
    }
}

/// TCP and UDP over both versions of IP, with and without VLAN tag, short and long.
pub fn every_flow_is_split_behind_its_deepest_header<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 64);
    for flow in Flow::all()
        .into_iter()
        .flat_map(|flow| [flow.clone(), flow.in_vlan(42)])
    {
        for payload in [2, 1000, 4096, 4097] {
            let frame = flow.frame(&pattern(payload));
            sender.send(0, &frame);
            let received = receiver.receive(0);
            let l4 = verify::dissect(&frame).l4.expect("TCP or UDP");
            assert_eq!(received.split_at(), Some(l4.end));
            assert_eq!(
                (received.frame, received.chains),
                (frame, payload.div_ceil(4096))
            );
        }
    }
    assert_eq!(receiver.stats().1[0].rx_split.get(), 32);
}

/// Even one byte goes to the page.
pub fn one_byte_of_payload_is_split<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 8);
    for flow in Flow::all() {
        sender.send(0, flow.frame(&[0xab]));
        let Received { header, .. } = receiver.receive(0);
        assert_eq!(header.payload_length.get(), 1);
    }
}

/// A frame without payload is not split.
pub fn headers_alone_are_not_split<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 8);
    for flow in Flow::all() {
        let frame = flow.frame(&[]);
        sender.send(0, &frame);
        let received = receiver.receive(0);
        assert_eq!((received.split_at(), received.frame), (None, frame));
    }
    assert_eq!(receiver.stats().1[0].rx_split.get(), 0);
}

/// The threshold is a frame's length, as the kernel documents `hds-thresh`.
pub fn frames_up_to_the_threshold_stay_whole<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let shape = Shape::SPLIT.threshold(192);
    let [mut sender, mut receiver] = up(connect, shape, 8);
    for length in [54, 55, 191, 192, 193, 1000] {
        sender.send(0, Flow::tcp4().frame(&pattern(length - 54)));
        let expected = (length > 192).then_some(54);
        assert_eq!(
            receiver.receive(0).split_at(),
            expected,
            "a frame of {length} bytes"
        );
    }
}

/// Follow-on chains hold payload only.
pub fn pages_share_a_jumbo_frame<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::split(256, 1024), 64);
    let frame = Flow::tcp6().frame(&pattern(8960));
    for queue in 0..sender.data_pairs() {
        sender.send(queue, &frame);
        let received = receiver.receive(0);
        assert_eq!((&received.frame, received.chains), (&frame, 9));
        assert_eq!(received.split_at(), Some(74));
    }
}

/// They are returned with length 0 at any position, and the frame uses the others.
pub fn chains_of_the_wrong_shape_are_returned_and_counted<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut sender, mut receiver] = up(connect, Shape::split(256, 1024), 0);
    let (right, wrong) = (
        vec![256, 1024],
        [
            vec![256],
            vec![256, 1024, 64],
            vec![1024, 256],
            vec![128, 1024],
        ],
    );
    let mut chains = vec![
        wrong[0].clone(),
        right.clone(),
        wrong[1].clone(),
        wrong[2].clone(),
    ];
    chains.extend([right.clone(), wrong[3].clone(), right]);
    let (first, rest) = chains.split_at(3);
    receiver.post_lengths(0, first);
    let frame = Flow::tcp4().frame(&pattern(2500));
    for _ in 0..3 {
        sender.send(0, &frame);
        assert_eq!(receiver.receive_all(), [], "too few chains");
        assert_eq!(receiver.posted(0), 2, "only the first one was returned");
        assert_eq!(receiver.stats().1[0].rx_bad_chain.get(), 1);
    }
    receiver.post_lengths(0, rest);
    sender.send(0, &frame);
    let received = receiver.receive(0);
    assert_eq!((received.frame, received.chains), (frame, 3));
    assert_eq!((receiver.take_returned(0), receiver.posted(0)), (4, 0));
    assert_eq!(receiver.stats().1[0].rx_bad_chain.get(), 4);
}

/// No buffer is a counted drop, and the next buffer is used.
pub fn a_ring_without_buffers_drops_and_counts<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 3);
    let frames: Vec<_> = (0..8)
        .map(|number| Flow::udp4().frame(&[number; 100]))
        .collect();
    for frame in &frames {
        sender.send(0, frame);
    }
    let received: Vec<_> = receiver
        .receive_all()
        .into_iter()
        .map(|(_, got)| got.frame)
        .collect();
    assert_eq!(received, frames[..3]);
    assert_eq!(receiver.stats().1[0].rx_no_buffer.get(), 5);
    receiver.post(0, Shape::SPLIT, 1);
    sender.send(0, &frames[7]);
    assert_eq!(receiver.receive(0).frame, frames[7]);
}

/// Buffers that are too few for a frame stay posted.
pub fn a_frame_is_taken_whole_or_not_at_all<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let shape = Shape::split(256, 1024);
    let [mut sender, mut receiver] = up(connect, shape, 2);
    let long = Flow::tcp4().frame(&pattern(3000));
    sender.send(0, &long);
    assert_eq!((receiver.receive_all(), receiver.posted(0)), (vec![], 2));
    let short = Flow::tcp4().frame(&pattern(1000));
    sender.send(0, &short);
    assert_eq!((receiver.receive(0).frame, receiver.posted(0)), (short, 1));
    receiver.post(0, shape, 2);
    sender.send(0, &long);
    assert_eq!((receiver.receive(0).frame, receiver.posted(0)), (long, 0));
    assert_eq!(receiver.stats().1[0].rx_no_buffer.get(), 1);
}

/// Small buffers bound the length of frames.
pub fn a_frame_of_too_many_chains_is_dropped<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let shape = Shape::linear(192);
    let [mut sender, mut receiver] = up(connect, shape, 100);
    let longest = MAX_CHAINS * (192 - RX_HEADER);
    sender.send(0, Flow::udp4().frame(&pattern(longest - 42 + 1)));
    assert_eq!((receiver.receive_all(), receiver.posted(0)), (vec![], 100));
    let frame = Flow::udp4().frame(&pattern(longest - 42));
    sender.send(0, &frame);
    let received = receiver.receive(0);
    assert_eq!((received.frame, received.chains), (frame, MAX_CHAINS));
    assert_eq!(receiver.stats().1[0].rx_too_long.get(), 1);
}

/// The number in the response is the number of chains returned with length 0.
pub fn a_stop_returns_every_buffer<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 20);
    for _ in 0..5 {
        sender.send(0, Flow::udp6().frame(&pattern(700)));
    }
    // The driver compares this with the ring at every stop.
    assert_eq!(receiver.stop_receive(0), Ok(15));
    assert_eq!(
        receiver.stop_receive(0),
        Ok(0),
        "a stopped queue stops again"
    );
    assert_eq!(receiver.stop_receive(1), Ok(20));
    assert_eq!(receiver.receive_all().len(), 5);
    receiver.post(1, Shape::SPLIT, 7);
    assert_eq!(receiver.stop_receive(1), Ok(7), "posted to a stopped queue");
}

/// Frames for a stopped queue are not steered to another one.
pub fn a_stopped_queue_drops_and_counts<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 8);
    receiver.stop_receive(0).expect("stop");
    receiver.post(0, Shape::SPLIT, 8);
    for _ in 0..3 {
        sender.send(0, Flow::tcp4().frame(&pattern(100)));
    }
    assert_eq!(receiver.receive_all(), []);
    assert_eq!(
        (receiver.stats().1[0].rx_stopped.get(), receiver.posted(0)),
        (3, 8)
    );
    receiver.start_receive(0, Shape::SPLIT).expect("start");
    sender.send(0, Flow::tcp4().frame(&pattern(100)));
    receiver.receive(0);
}

/// As when zcrx or XSK replaces a queue's memory: only this queue changes.
pub fn a_queue_starts_again_in_another_shape<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 8);
    let frame = Flow::tcp4().frame(&pattern(1000));
    for shape in [
        Shape::linear(4096),
        Shape::split(512, 65536),
        Shape::split(192, 256),
        Shape::SPLIT,
    ] {
        assert_eq!(receiver.stop_receive(0), Ok(8));
        receiver.post(0, shape, 12);
        receiver.start_receive(0, shape).expect("start");
        sender.send(0, &frame);
        let received = receiver.receive(0);
        assert_eq!(received.frame, frame);
        assert_eq!(
            received.split_at().is_some(),
            !matches!(shape, Shape::Linear { .. })
        );
        receiver.stop_receive(0).expect("stop");
        receiver.post(0, shape, 8);
        receiver.start_receive(0, shape).expect("start");
    }
    assert_eq!(receiver.posted(1), 8);
}

/// A NIC does not drop them: the stack does.
pub fn wrong_checksums_are_delivered_and_marked<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 32);
    for flow in Flow::all() {
        let mut frame = flow.frame(&pattern(501));
        *frame.last_mut().expect("bytes") ^= 1;
        sender.send(0, &frame);
        let received = receiver.receive(0);
        assert_eq!((received.checksum(), received.frame), (Some(false), frame));
    }
    assert_eq!(receiver.stats().1[0].rx_csum_bad.get(), 4);

    let mut unchecked = Flow::udp4().frame(&pattern(100));
    unchecked[40..42].fill(0);
    sender.send(0, unchecked);
    assert_eq!(receiver.receive(0).checksum(), None, "0 means no checksum");

    let mut padded = Flow::tcp4().frame(&[1, 2, 3]);
    padded.extend([0x99; 20]);
    sender.send(0, &padded);
    let received = receiver.receive(0);
    assert_eq!(
        (received.checksum(), received.frame),
        (Some(true), padded),
        "padding is not summed"
    );
}

/// After HELLO all offloads are off.
pub fn verdicts_and_hashes_are_given_only_when_asked_for<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 8);
    receiver
        .set_rss(super::steering::rss(0), &[0])
        .expect("RSS");
    let mut send = |receiver: &mut Driver<T>| {
        sender.send(0, Flow::tcp4().frame(&pattern(9)));
        let received = receiver.receive(0);
        (
            received.checksum().is_some(),
            received.header.hash_type != 0,
        )
    };
    for (on, expected) in [
        (vec![], (false, false)),
        (vec![Feature::RxCsum], (true, false)),
        (vec![Feature::RxHash], (false, true)),
        (vec![Feature::RxCsum, Feature::RxHash], (true, true)),
    ] {
        receiver.offloads(&on).expect("offloads");
        assert_eq!(send(&mut receiver), expected, "{on:?}");
    }
}

/// Whole frames, segments, and frames with checksum insertion; the received frame lacks the tag
/// only.
pub fn tags_are_stripped_when_asked_for<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::split(256, 1024), 64);
    let mut bytes = 0;
    for flow in Flow::all() {
        for payload in [0, 1, 200, 3000] {
            let tagged = flow.clone().in_vlan(0x123).frame(&pattern(payload));
            sender.send(0, &tagged);
            let received = receiver.receive(0);
            assert_eq!((received.tag(), received.frame), (None, tagged.clone()));

            let all = [Feature::RxCsum, Feature::Vlan];
            receiver.offloads(&all).expect("offloads");
            let untagged = flow.frame(&pattern(payload));
            for packet in [Packet::from(&tagged), Packet::from(&tagged).checksum()] {
                sender.send(0, packet);
                let received = receiver.receive(0);
                assert_eq!(received.split_at().is_some(), payload > 0);
                let seen = (received.tag(), received.checksum(), &received.frame);
                assert_eq!(seen, (Some(0x123), Some(true), &untagged));
            }
            receiver.offloads(&[Feature::RxCsum]).expect("offloads");
            bytes += 3 * tagged.len() as u64;
            receiver.post(0, Shape::split(256, 1024), 9);
        }
    }
    let all = [Feature::RxCsum, Feature::Vlan];
    receiver.offloads(&all).expect("offloads");
    let tagged = Packet::from(Flow::tcp6().in_vlan(7).frame(&pattern(2500)));
    sender.send(0, tagged.segmented(1000));
    for (number, size) in [1000, 1000, 500].into_iter().enumerate() {
        let received = receiver.receive(0);
        let payload = &pattern(2500)[1000 * number..][..size];
        assert_eq!(verify::l4_payload(&received.frame), payload);
        assert_eq!((received.tag(), received.checksum()), (Some(7), Some(true)));
        assert_eq!(received.frame[12..14], [0x86, 0xdd]);
        bytes += (14 + 4 + 40 + 20 + size) as u64;
    }
    let counted = receiver.stats().1[0].rx_bytes.get();
    assert_eq!(counted, bytes, "the wire had the tags");
}

/// No tag, a service tag, and a tag that a checksum covers. Of two tags the outer one is stripped.
pub fn only_802_1q_tags_are_stripped<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::linear(2048), 16);
    receiver.offloads(&[Feature::Vlan]).expect("offloads");
    let plain = Flow::udp4().frame(&pattern(100));
    let mut service = Flow::udp4().in_vlan(9).frame(&pattern(100));
    service[12..14].copy_from_slice(&[0x88, 0xa8]);
    let truncated = service[..14].to_vec();
    let mut tagged_nothing = truncated.clone();
    tagged_nothing[12..14].copy_from_slice(&[0x81, 0]);
    for frame in [plain, service.clone(), truncated, tagged_nothing] {
        sender.send(0, &frame);
        let received = receiver.receive(0);
        assert_eq!((received.tag(), received.frame), (None, frame));
    }

    let mut covered = Packet::from(Flow::udp4().in_vlan(9).frame(&pattern(100))).checksum();
    covered.header.csum_offset = (40 - 14).into();
    covered.header.csum_start = 14.into();
    sender.send(0, covered.clone());
    let received = receiver.receive(0);
    assert_eq!(
        (received.tag(), &received.frame[..18]),
        (None, &covered.frame[..18])
    );

    let mut two = service;
    two.splice(12..12, [0x81, 0, 0x60, 5]);
    sender.send(0, &two);
    let received = receiver.receive(0);
    assert_eq!(received.tag(), Some(0x6005));
    two.drain(12..16);
    assert_eq!(received.frame, two);
}

/// Within a flow, frames of all sizes stay in order.
pub fn frames_keep_their_order<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::split(256, 1024), 250);
    let frames: Vec<_> = (0..100)
        .map(|number| Flow::tcp4().frame(&pattern(1 + number * 613 % 2048)))
        .collect();
    for frame in &frames {
        sender.enqueue(2, frame);
    }
    sender.flush(2);
    for frame in &frames {
        let received = receiver.receive(0);
        assert_eq!(&received.frame, frame);
        assert_eq!(
            (&received.frame[..6], &received.frame[6..12]),
            (&RECEIVER[..], &SENDER[..])
        );
    }
    let QueueStats {
        rx_frames,
        rx_bytes,
        ..
    } = receiver.stats().1[0];
    let bytes: usize = frames.iter().map(Vec::len).sum();
    assert_eq!((rx_frames.get(), rx_bytes.get()), (100, bytes as u64));
}

/// A driver that polls its ring never sees a part of a frame.
pub fn frames_become_visible_whole<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let shape = Shape::split(192, 256);
    let [mut sender, mut receiver] = up(connect, shape, 216);
    let frame = Flow::udp6().frame(&pattern(9000));
    for _ in 0..20 {
        for _ in 0..6 {
            sender.enqueue(1, &frame);
        }
        for _ in 0..6 {
            // The driver checks at every look that whole frames are visible.
            let seen = (0..1000).find_map(|_| receiver.try_receive(0));
            let received = seen.unwrap_or_else(|| receiver.receive(0));
            assert_eq!((&received.frame, received.chains), (&frame, 36));
        }
        receiver.post(0, shape, 216);
    }
    sender.flush(1);
}
