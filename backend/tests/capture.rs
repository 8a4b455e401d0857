//! Captures: a client that asks for them gets the frames that cross the cable, and delays none.

mod common;

use std::time::Duration;

use common::World;
use serde_json::{Value, json};
use zcnic_ctl::{
    client::{Client, ClientError},
    protocol::{
        command,
        event::{Event, Frame},
        fault::Direction,
    },
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
    let [mut a, mut b] = world.drivers(2);
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
