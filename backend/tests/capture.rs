//! Captures: a client that asks for them gets the frames that cross the cable, and delays none.

mod common;

use std::time::Duration;

use common::World;
use serde_json::{Value, json};
use zcnic_ctl::{
    client::{Client, ClientError},
    protocol::{
        command,
        event::{Event, Frame, FrameFate},
        fault::Direction,
    },
};
use zcnic_device::{
    abi::{RssSet, Rule, RuleAction, RuleType},
    features::Feature,
    rss::{DEFAULT_FIELDS, DEFAULT_KEY},
};
use zcnic_model::{
    Driver, Packet, Shape,
    frames::{Flow, pattern},
    verify::l4_checksum_is_right,
    vhost_user::{Frontend, PATIENCE},
};

/// Long enough to see that nothing comes.
const QUIET: Duration = Duration::from_millis(200);

fn ask(client: &mut Client, name: &str, arguments: &Value) -> Result<Value, ClientError> {
    client.execute(name, Some(arguments))
}

/// Drivers of both ports, the second with `buffers` receive buffers, and a client that sends the
/// requests `captures`.
fn world(buffers: usize, captures: &[Value]) -> (World, [Driver<Frontend>; 2], Client) {
    captured(World::new(), buffers, captures)
}

fn captured(
    world: World,
    buffers: usize,
    captures: &[Value],
) -> (World, [Driver<Frontend>; 2], Client) {
    let [mut a, mut b] = world.drivers(3);
    a.bring_up(Shape::SPLIT, 0);
    b.bring_up(Shape::SPLIT, buffers);
    let mut client = world.control();
    for capture in captures {
        ask(&mut client, command::CAPTURE_START, capture).expect("a capture");
    }
    (world, [a, b], client)
}

fn frame(client: &mut Client) -> Frame {
    match client.event(Some(PATIENCE)).expect("a frame") {
        Event::Frame(frame) => frame,
        other => panic!("{other:?}"),
    }
}

fn bytes(frame: &Frame) -> Vec<u8> {
    let digits = frame.bytes.as_bytes().chunks(2);
    let digits = digits.map(|pair| std::str::from_utf8(pair).expect("digits"));
    digits
        .map(|pair| u8::from_str_radix(pair, 16).expect("digits"))
        .collect()
}

#[test]
fn frames_are_captured_at_both_ends() {
    let captures = [json!({"port": "0"}), json!({"port": "1", "length": 20})];
    for world in World::connected() {
        let (_world, [mut a, _b], mut client) = captured(world, 8, &captures);
        let sent = Flow::udp4().frame(&pattern(100));
        a.send(0, sent.clone());
        let (left, arrived) = (frame(&mut client), frame(&mut client));
        assert_eq!(
            (&*left.port, left.direction, left.length as usize),
            ("0", Direction::Tx, sent.len())
        );
        assert_eq!(bytes(&left), sent);
        assert_eq!(
            (&*arrived.port, arrived.direction, arrived.length as usize),
            ("1", Direction::Rx, sent.len())
        );
        assert_eq!(bytes(&arrived), sent[..20]);
    }
}

#[test]
fn segments_are_captured_as_they_are_on_the_wire() {
    let (_world, [mut a, _b], mut client) = world(16, &[json!({"port": "1"})]);
    let frame_sent = Flow::tcp4().frame(&pattern(5000));
    a.send(0, Packet::from(frame_sent).segmented(1000));
    let mut payload = Vec::new();
    for _ in 0..5 {
        let segment = bytes(&frame(&mut client));
        assert_eq!(l4_checksum_is_right(&segment), Some(true));
        payload.extend_from_slice(&segment[segment.len() - 1000..]);
    }
    assert_eq!(payload, pattern(5000));
}

#[test]
fn captures_show_the_senders_faults_and_not_the_receivers() {
    let (world, [mut a, _b], mut client) = world(8, &[json!({"port": "1"})]);
    let mut control = world.control();
    for rule in [
        json!({"port": "0", "rules": [{"direction": "tx", "nth": 2, "action": "drop"}]}),
        json!({"port": "1", "rules": [{"direction": "rx", "action": "drop"}]}),
    ] {
        ask(&mut control, command::FAULT_ADD, &rule).expect("a rule");
    }
    for number in 0..3 {
        a.send(0, Flow::udp4().frame(&[number; 30]));
    }
    for number in [0, 2] {
        assert!(bytes(&frame(&mut client)).ends_with(&[number; 30]));
    }
    assert!(client.event(Some(QUIET)).is_err(), "there were two");
}

#[test]
fn a_capture_ends_when_its_client_ends_it() {
    let capture = json!({"port": "1"});
    let (_world, [mut a, _b], mut client) = world(16, std::slice::from_ref(&capture));
    let sent = Flow::udp4().frame(&[1]);
    for (ends, arguments) in [
        (command::CAPTURE_STOP, capture.clone()),
        (command::SUBSCRIBE, json!({"events": []})),
    ] {
        ask(&mut client, command::CAPTURE_START, &capture).expect("it begins");
        a.send(0, sent.clone());
        frame(&mut client);
        ask(&mut client, ends, &arguments).expect("it ends");
        a.send(0, sent.clone());
        assert!(client.event(Some(QUIET)).is_err(), "{ends}");
        let again = ask(&mut client, command::CAPTURE_STOP, &capture);
        assert!(again.is_err(), "it has ended");
    }
}

#[test]
fn a_capturing_client_that_does_not_read_delays_no_frame() {
    const FRAMES: usize = 20_000;
    let (world, [mut a, _b], mut sleeper) = world(8, &[json!({"port": "1"})]);
    let sent = Flow::udp4().frame(&[0]);
    for _ in 0..FRAMES {
        a.enqueue(0, sent.clone());
    }
    a.flush(0);
    let stats: Value = world.control().query(command::QUERY_STATS).expect("stats");
    assert_eq!(stats["ports"][0]["queues"][0]["tx-frames"], FRAMES);
    let (mut seen, mut lost) = (0, 0);
    while seen + lost < FRAMES as u64 {
        match sleeper.event(Some(PATIENCE)).expect("an event") {
            Event::Frame(_) => seen += 1,
            Event::Lost(more) => lost += more.count,
            other => panic!("{other:?}"),
        }
        // Lost events are reported with the next one that there is room for.
        if lost == 0 {
            a.send(0, sent.clone());
        }
    }
    assert!(seen > 1000 && lost > 0, "{seen} seen, {lost} lost");
}

/// A flow rule for a TCP port.
fn tcp_port(location: u32, port: u16, action: RuleAction, queue: u16) -> Rule {
    let mut rule = Rule {
        location: location.into(),
        rule_type: RuleType::Tcp4.into(),
        action: action.into(),
        queue: queue.into(),
        ..Rule::default()
    };
    rule.value.l4_dst = port.into();
    rule.mask.l4_dst = u16::MAX.into();
    rule
}

#[test]
fn a_received_frame_has_queue_hash_split_point_and_flow_rule() {
    let (_world, [mut a, mut b], mut client) =
        world(16, &[json!({"port": "0"}), json!({"port": "1"})]);
    b.offloads(&[Feature::RxHash, Feature::Timestamp])
        .expect("offloads");
    let queue = 1;
    let rss = RssSet {
        fields: DEFAULT_FIELDS.map(Into::into),
        key: DEFAULT_KEY,
        ..RssSet::default()
    };
    b.set_rules(&[
        tcp_port(5, 4433, RuleAction::Queue, queue),
        tcp_port(6, 23, RuleAction::Drop, 0),
    ])
    .expect("rules");
    b.set_rss(rss, &[0]).expect("RSS");
    a.send(1, Flow::tcp4().ports(1000, 4433).frame(&pattern(300)));
    let (sent, seen) = (frame(&mut client), frame(&mut client));
    let received = b.receive(queue);
    let header = received.header;
    assert_eq!(
        (sent.direction, sent.queue, sent.fate),
        (Direction::Tx, Some(1), None)
    );
    assert_eq!(sent.id, seen.id, "both ends give it the same number");
    assert!(sent.time <= seen.time);
    assert_eq!(seen.time, header.timestamp_ns.get(), "one clock");
    assert_eq!((seen.queue, seen.rule), (Some(queue), Some(5)));
    assert_eq!(seen.fate, Some(FrameFate::Placed));
    assert_eq!(seen.split, received.split_at().map(|at| at as u32));
    assert!(seen.split.is_some());
    assert_eq!(seen.hash, Some(header.hash.get()));

    // Other ends: dropped by a rule, by the address filter, and for lack of buffers.
    a.send(0, Flow::tcp4().ports(1000, 23).frame(&[]));
    a.send(0, Flow::udp4().to([2, 0, 0, 0, 0, 9]).frame(&[]));
    b.receive_mode(0, &[]).expect("a filter");
    a.send(0, Flow::udp4().to([2, 0, 0, 0, 0, 9]).frame(&[]));
    let ends: Vec<_> = (0..6).map(|_| frame(&mut client)).collect();
    let ends = ends.iter().filter(|frame| frame.direction == Direction::Rx);
    let ends: Vec<_> = ends.map(|frame| (frame.rule, frame.fate)).collect();
    let expected = [
        (Some(6), Some(FrameFate::RuleDrop)),
        (None, Some(FrameFate::Placed)),
        (None, Some(FrameFate::Filtered)),
    ];
    assert_eq!(ends, expected);
}

#[test]
fn a_captured_frame_names_the_rules_that_hit_it_at_each_end() {
    let (world, [mut a, mut b], mut client) =
        world(16, &[json!({"port": "0"}), json!({"port": "1"})]);
    let mut control = world.control();
    let mut add = |port: &str, rule: Value| {
        let rules = json!({"port": port, "rules": [rule]});
        let ids = ask(&mut control, command::FAULT_ADD, &rules).expect("a rule");
        ids["ids"][0].as_u64().expect("a number")
    };
    let corrupt = add(
        "0",
        json!({"direction": "tx", "nth": 2, "action": {"corrupt": {"bit": 700}}}),
    );
    let drop = add("1", json!({"direction": "rx", "nth": 2, "action": "drop"}));
    let split = add(
        "1",
        json!({"direction": "rx", "nth": 3, "action": {"split-wrong": {"at": 20}}}),
    );
    let hold = add(
        "1",
        json!({"direction": "rx", "nth": 4, "action": {"reorder": {"by": 5}}}),
    );
    for number in 0..4 {
        a.send(0, Flow::udp4().frame(&[number; 300]));
    }
    let frames: Vec<_> = (0..8).map(|_| frame(&mut client)).collect();
    let about = |frame: &Frame| {
        let faults = frame.faults.iter();
        let faults: Vec<_> = faults
            .map(|fault| (fault.id, fault.action.clone()))
            .collect();
        (frame.port == "1", frame.fate, faults)
    };
    let fault = |id, action: &str| vec![(id, action.to_owned())];
    let expected = [
        (false, None, vec![]),
        (true, Some(FrameFate::Placed), vec![]),
        (false, None, fault(corrupt, "corrupt")),
        (true, Some(FrameFate::FaultDrop), fault(drop, "drop")),
        (false, None, vec![]),
        (true, Some(FrameFate::Placed), fault(split, "split-wrong")),
        (false, None, vec![]),
        (true, Some(FrameFate::Held), fault(hold, "reorder")),
    ];
    assert_eq!(frames.iter().map(about).collect::<Vec<_>>(), expected);
    assert_eq!(frames[5].split, Some(20));
    let ids: Vec<_> = frames.iter().map(|frame| frame.id - frames[0].id).collect();
    assert_eq!(ids, [0, 0, 1, 1, 2, 2, 3, 3]);
    assert_eq!(b.receive_all().len(), 2);
}

#[test]
fn a_frame_without_a_buffer_is_captured_as_dropped() {
    let (_world, [mut a, mut b], mut client) = world(2, &[json!({"port": "1"})]);
    let segments = Flow::tcp4().frame(&pattern(3000));
    a.send(0, Packet::from(segments).segmented(1000));
    let fates: Vec<_> = (0..3).map(|_| frame(&mut client).fate).collect();
    let placed = b.receive_all().len();
    assert!(placed < 3);
    let expected: Vec<_> = (0..3)
        .map(|number| match number < placed {
            true => Some(FrameFate::Placed),
            false => Some(FrameFate::NoBuffer),
        })
        .collect();
    assert_eq!(fates, expected);
}

#[test]
fn frames_for_hardware_gro_are_captured_as_they_arrive() {
    let (_world, [mut a, mut b], mut client) = world(64, &[json!({"port": "1"})]);
    b.offloads(&[Feature::RxCsum, Feature::Gro])
        .expect("offloads");
    a.send(
        0,
        Packet::from(Flow::tcp4().frame(&pattern(4000))).segmented(1000),
    );
    a.send(0, Flow::udp4().frame(&pattern(100)));
    let fates: Vec<_> = (0..5).map(|_| frame(&mut client).fate).collect();
    assert_eq!(fates[..4], [Some(FrameFate::Coalesced); 4]);
    assert_eq!(fates[4], Some(FrameFate::Placed));
}
