//! Hardware GRO over a real backend: what arrives, when, and that all of it is counted.

mod common;

use std::time::{Duration, Instant};

use common::World;
use serde_json::{Value, json};
use zcnic_device::{abi, features::Feature};
use zcnic_model::{
    Driver, Shape,
    frames::{Flow, pattern},
    receive::Received,
    transmit::Packet,
    verify,
    vhost_user::Frontend,
};

/// Large pages, which pay only if they hold more than one segment.
const LARGE: Shape = Shape::Split {
    header_size: 256,
    page_size: 32768,
    threshold: 0,
};

/// The device flushes a queue that gets no segment for so long, and a segment that it holds for so long
/// (`device/src/receive/coalesce.rs`).
const QUIET: Duration = Duration::from_millis(40);
const HOLD: Duration = Duration::from_millis(150);

/// Two ports of which the second coalesces.
struct Lab {
    a: Driver<Frontend>,
    b: Driver<Frontend>,
    world: World,
}

impl Lab {
    fn new(shape: Shape) -> Self {
        let world = World::new();
        let [mut a, mut b] = world.drivers(3);
        a.bring_up(Shape::SPLIT, 8);
        b.bring_up(shape, 128);
        b.offloads(&[Feature::RxCsum, Feature::RxHash, Feature::Gro])
            .expect("hardware GRO");
        Self { a, b, world }
    }

    /// Sends a segment of a stream, whose bytes are those of [`pattern`] from `at` on.
    fn segment(&mut self, at: u32, length: usize, push: bool) {
        let bytes = pattern(at as usize + length);
        let flow = Flow::tcp4().tcp_header(|tcp| {
            tcp.sequence_number = at;
            tcp.psh = push;
        });
        self.a.send(0, flow.frame(&bytes[at as usize..]));
    }

    fn counters(&mut self) -> abi::QueueStats {
        self.b.stats().1[0]
    }
}

fn payload(received: &Received) -> &[u8] {
    verify::l4_payload(&received.frame)
}

fn segments(received: &Received) -> u16 {
    received.header.seg_count.get()
}

#[test]
fn a_train_arrives_as_one_frame_with_several_segments_in_a_page() {
    for flow in [Flow::tcp4(), Flow::tcp6()] {
        let flow = flow.tcp_header(|tcp| tcp.psh = true);
        let mut lab = Lab::new(LARGE);
        let bytes = pattern(60_000);
        let packet = Packet::from(flow.frame(&bytes)).segmented(1448);
        lab.a.send(0, packet.scattered(&[200, 3000]));
        let received = lab.b.receive(0);
        assert_eq!(payload(&received), bytes);
        assert_eq!((segments(&received), received.chains), (42, 2));
        assert_eq!(received.header.seg_size.get(), 1448);
        assert_eq!(received.checksum(), Some(true));
        let headers = received.frame.len() - bytes.len();
        let counters = lab.counters();
        let counted = [
            counters.rx_frames,
            counters.rx_bytes,
            counters.rx_split,
            counters.rx_gro_frames,
            counters.rx_gro_bytes,
            counters.rx_gro_wire_frames,
            counters.rx_gro_wire_bytes,
        ];
        let wire = (bytes.len() + 42 * headers) as u64;
        let whole = received.frame.len() as u64;
        let counted = counted.map(zerocopy::little_endian::U64::get);
        assert_eq!(counted, [42, wire, 42, 1, whole, 42, wire]);
    }
}

#[test]
fn segments_that_are_sent_one_by_one_are_coalesced() {
    for shape in [LARGE, Shape::SPLIT, Shape::linear(2048)] {
        let mut lab = Lab::new(shape);
        let start = Instant::now();
        let mut previous = start;
        // A busy host may pause the sender for so long that the device flushes.
        let mut flushes = 0;
        for n in 0..10 {
            let before = Instant::now();
            // Returns when the device has taken the segment.
            lab.segment(1000 * n, 1000, n == 9);
            let held = start.elapsed() < HOLD && previous.elapsed() < QUIET;
            flushes += u16::from(n > 0 && !held);
            previous = before;
        }
        let (mut bytes, mut count, mut aggregates) = (Vec::new(), 0, 0);
        while count < 10 {
            let received = lab.b.receive(0);
            bytes.extend_from_slice(payload(&received));
            count += segments(&received).max(1);
            aggregates += 1;
        }
        assert_eq!((bytes, count), (pattern(10_000), 10));
        assert!(aggregates <= 1 + flushes, "{aggregates} aggregates");
        assert_eq!(lab.counters().rx_frames.get(), 10);
    }
}

#[test]
fn held_segments_are_flushed_when_the_timer_fires() {
    let mut lab = Lab::new(Shape::SPLIT);
    let start = Instant::now();
    lab.segment(0, 1000, false);
    lab.segment(1000, 1000, false);
    let received = lab.b.receive(0);
    assert!(start.elapsed() >= QUIET);
    assert_eq!(
        (payload(&received), segments(&received)),
        (&pattern(2000)[..], 2)
    );
    // A second time, with another timer job.
    lab.segment(2000, 1000, false);
    assert_eq!(segments(&lab.b.receive(0)), 0);
}

#[test]
fn a_queue_stop_drops_held_segments_and_turning_gro_off_flushes_them() {
    let mut lab = Lab::new(Shape::SPLIT);
    lab.segment(0, 1000, false);
    lab.b.stop_receive(0).expect("stop");
    assert_eq!(lab.counters().rx_stopped.get(), 1);
    lab.b.start_receive(0, Shape::SPLIT).expect("start");
    lab.b.post(0, Shape::SPLIT, 16);
    lab.segment(0, 1000, false);
    lab.b
        .offloads(&[Feature::RxCsum, Feature::RxHash])
        .expect("off");
    lab.segment(1000, 1000, false);
    let received = [lab.b.receive(0), lab.b.receive(0)];
    assert_eq!(received.each_ref().map(segments), [0, 0]);
    assert_eq!(received.each_ref().map(payload).concat(), pattern(2000));
}

#[test]
fn fault_rules_see_wire_frames_and_frames_they_hit_are_not_coalesced() {
    let sent = |lab: &mut Lab| {
        let flow = Flow::tcp4().tcp_header(|tcp| tcp.psh = true);
        let packet = Packet::from(flow.frame(&pattern(5000))).segmented(1000);
        lab.a.send(0, packet);
    };
    for (action, expected) in [
        (json!("drop"), &[(2, 0..2000), (2, 3000..5000)][..]),
        (
            json!({"duplicate": {"copies": 1}}),
            &[
                (2, 0..2000),
                (0, 2000..3000),
                (0, 2000..3000),
                (2, 3000..5000),
            ],
        ),
        (
            json!({"wrong-checksum": {"verdict": "bad"}}),
            &[(2, 0..2000), (0, 2000..3000), (2, 3000..5000)],
        ),
    ] {
        let mut lab = Lab::new(Shape::SPLIT);
        lab.b.accept_anything();
        let rule = json!({"direction": "rx", "nth": 3, "action": action});
        let mut control = lab.world.control();
        let arguments = json!({"port": "1", "rules": [rule]});
        let _: Value = control
            .execute("fault-add", Some(&arguments))
            .expect("a rule");
        sent(&mut lab);
        for (count, range) in expected {
            let received = lab.b.receive(0);
            assert_eq!(
                payload(&received),
                &pattern(5000)[range.clone()],
                "{action}"
            );
            assert_eq!(segments(&received), *count, "{action}");
        }
        let list: Value = control
            .execute("fault-list", Some(&json!({})))
            .expect("the rules");
        assert_eq!(list["faults"][0]["seen"], 5, "{list}");
    }
}

#[test]
fn flow_counters_count_held_segments() {
    let mut lab = Lab::new(Shape::SPLIT);
    let mut control = lab.world.control();
    let arguments = json!({"port": "1", "match": {"protocol": "tcp"}});
    let added: Value = control
        .execute("flow-counter-add", Some(&arguments))
        .expect("a counter");
    for n in 0..3 {
        lab.segment(1000 * n, 1000, false);
    }
    assert_eq!(segments(&lab.b.receive(0)), 3);
    let counts: Value = control
        .execute("flow-counter-query", Some(&added))
        .expect("counts");
    let text = counts.to_string();
    assert!(
        text.contains(r#""delivered":3"#) && text.contains(r#""split":3"#),
        "{text}"
    );
}
