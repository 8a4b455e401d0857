//! Properties of a port with arbitrary driver behaviour, in process.

use proptest::{collection::vec, prelude::*};
use zcnic_device::{
    abi,
    features::Feature,
    rss::{DEFAULT_FIELDS, DEFAULT_KEY},
};
use zcnic_model::{
    Packet, Shape,
    driver::Failure,
    frames::pattern,
    in_process::cabled,
    steps::{PAIRS, any_flow, any_shape, any_step, assert_nothing_is_lost},
    suite::segmentation::assert_segmented,
};

const QUEUES: u16 = PAIRS - 1;

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Every buffer and every frame is accounted for.
    #[test]
    fn nothing_is_lost(steps in vec((0..2usize, any_step()), 1..60)) {
        assert_nothing_is_lost(cabled(PAIRS), &steps);
    }

    /// Segments are exact for any payload and segment size.
    #[test]
    fn segmentation_is_exact(
        flow in any_flow(),
        payload in 1..20_000usize,
        size in 100..9000u16,
        small in any::<bool>(),
    ) {
        let [mut sender, mut receiver] = cabled(PAIRS);
        sender.bring_up(Shape::SPLIT, 0);
        receiver.bring_up(Shape::SPLIT, 0);
        let (payload, size) = if small { (payload % 250 + 1, size % 20 + 1) } else { (payload, size) };
        // At least 80 one-byte segments fit the buffers.
        let size = size.max(payload.div_ceil(80) as u16);
        assert_segmented(&mut sender, &mut receiver, &flow, payload, size);
    }

    /// A train means its segments: a receiver and its counters can't distinguish them from frames
    /// that were sent one by one.
    #[test]
    fn trains_mean_their_segments(
        flow in any_flow(),
        payload in 1..9000usize,
        size in 100..3000u16,
        shape in any_shape(),
        buffers in 0..60usize,
    ) {
        let train = Packet::from(flow.frame(&pattern(payload))).segmented(size);
        let segments: Vec<Vec<u8>> = {
            let [mut sender, mut receiver] = cabled(PAIRS);
            sender.bring_up(Shape::SPLIT, 0);
            receiver.bring_up(Shape::linear(16_384), 100);
            sender.send(0, train.clone());
            receiver.receive_all().into_iter().map(|(_, received)| received.frame).collect()
        };
        let outcome = |packets: Vec<Packet>| {
            let [mut sender, mut receiver] = cabled(PAIRS);
            sender.bring_up(Shape::SPLIT, 0);
            receiver.bring_up(shape, buffers);
            let set = abi::RssSet {
                fields: DEFAULT_FIELDS.map(Into::into),
                key: DEFAULT_KEY,
                ..Default::default()
            };
            receiver.set_rss(set, &[0, 1, 2, 1]).expect("RSS");
            for packet in packets {
                sender.send(0, packet);
            }
            let frames = receiver.receive_all();
            let posted: Vec<usize> = (0..QUEUES).map(|queue| receiver.posted(queue)).collect();
            let sent = sender.stats().1[0];
            (frames, posted, receiver.stats().1, sent.tx_frames.get(), sent.tx_bytes.get())
        };
        let one_by_one = segments.into_iter().map(Packet::from).collect();
        let (together, one_by_one) = (outcome(vec![train]), outcome(one_by_one));
        prop_assert!(together.0 == one_by_one.0, "frames differ");
        prop_assert_eq!(&together.1, &one_by_one.1, "buffers left");
        prop_assert!(together.2 == one_by_one.2, "counters differ");
        prop_assert_eq!((together.3, together.4), (one_by_one.3, one_by_one.4));
    }

    /// Stripping removes the tag and changes nothing else.
    #[test]
    fn only_the_tag_is_stripped(
        flow in any_flow(),
        payload in 0..5000usize,
        size in prop::option::of(100..3000u16),
        damage in prop::option::weighted(0.3, 12..100usize),
        insert in any::<bool>(),
        shape in any_shape(),
    ) {
        let flow = flow.in_vlan(0x321);
        let mut packet = Packet::from(flow.frame(&pattern(payload)));
        match size {
            Some(size) if payload > 0 => packet = packet.segmented(size),
            _ if insert => packet = packet.checksum(),
            _ => {}
        }
        if let Some(at) = damage.filter(|at| *at < packet.frame.len()) {
            packet.frame[at] ^= 0x40;
        }
        let outcome = |on: &[Feature]| {
            let [mut sender, mut receiver] = cabled(PAIRS);
            sender.bring_up(Shape::SPLIT, 0);
            receiver.bring_up(shape, 100);
            receiver.offloads(on).expect("offloads");
            receiver.accept_anything();
            sender.send(0, packet.clone());
            let bytes: u64 = receiver.stats().1.iter().map(|queue| queue.rx_bytes.get()).sum();
            (receiver.receive_all(), bytes)
        };
        let (left_in, stripped) = (outcome(&[Feature::RxCsum]), outcome(&[Feature::RxCsum, Feature::Vlan]));
        prop_assert_eq!(left_in.1, stripped.1);
        prop_assert_eq!(left_in.0.len(), stripped.0.len());
        for ((_, left_in), (_, stripped)) in left_in.0.into_iter().zip(stripped.0) {
            let mut frame = stripped.frame.clone();
            if let Some(tag) = stripped.tag() {
                let [high, low] = tag.to_be_bytes();
                frame.splice(12..12, [0x81, 0, high, low]);
            } else {
                prop_assert!(damage.is_some_and(|at| at < 14), "a tag was left");
            }
            prop_assert_eq!(frame, left_in.frame.clone());
            prop_assert_eq!(left_in.checksum(), stripped.checksum());
        }
    }

    /// Verdicts are about the frame on the wire, no matter which end computed its checksum and
    /// which padding follows.
    #[test]
    fn verdicts_are_about_the_frame_on_the_wire(
        flow in any_flow(),
        payload in 0..600usize,
        padding in prop_oneof![Just(0), 1..40usize],
        damage in prop::option::weighted(0.3, 0..64usize),
        insert in any::<bool>(),
    ) {
        let [mut sender, mut receiver] = cabled(PAIRS);
        sender.bring_up(Shape::SPLIT, 0);
        receiver.bring_up(Shape::SPLIT, 4);
        let mut packet = Packet::from(flow.frame(&pattern(payload)));
        if insert {
            packet = packet.checksum();
        }
        packet.frame.resize(packet.frame.len() + padding, 0x77);
        if let (Some(at), Some(l4)) = (damage, zcnic_model::verify::dissect(&packet.frame).l4) {
            // Not the lengths and ports, which determine the payload's end and the flow.
            let field = l4.start + l4.checksum;
            let at = if at < 2 { field + at } else { (l4.end + at).min(packet.frame.len() - 1) };
            packet.frame[at] ^= 0x10;
        }
        sender.send(0, packet);
        // The driver verifies each verdict itself.
        receiver.receive(0);
    }
}

/// Invalid commands never end a session.
#[test]
fn noise_on_the_command_pair_is_answered() {
    let [mut driver, _other] = cabled(PAIRS);
    driver.hello();
    for length in 0..200 {
        let noise: Vec<u8> = (0..length).map(|at| (at * 37 + length) as u8).collect();
        match driver.exchange_on(usize::from(QUEUES), &[&noise, b"x"], 64) {
            Err(Failure::NotExecuted) => {}
            other => panic!("{other:?}"),
        }
    }
    driver.status();
}
