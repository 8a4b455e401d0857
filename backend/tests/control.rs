//! The control socket: its answers, and that no client can upset it.

mod common;

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    time::{Duration, Instant},
};

use common::World;
use serde_json::{Value, json};
use zcnic_ctl::{
    client::{Client, ClientError},
    protocol::{
        ErrorClass, FlowCount, FlowCounterAdd, FlowCounterId, FlowCounts, FlowMatch, MAX_LINE,
        Protocol, Stats, Status, command,
    },
};
use zcnic_device::features::{Feature, FeatureSet};
use zcnic_model::{
    Driver, Shape,
    frames::{Flow, pattern},
    vhost_user::PATIENCE,
};

/// A client that may send anything.
struct Raw(BufReader<UnixStream>);

impl Raw {
    fn connect(world: &World) -> Self {
        let stream = UnixStream::connect(world.control_path()).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let mut raw = Self(BufReader::new(stream));
        assert!(raw.line().expect("greeting")["zcnic"]["version"].is_string());
        raw
    }

    fn say(&mut self, line: &[u8]) {
        self.0.get_mut().write_all(line).expect("write");
    }

    fn line(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            // The backend closed a connection before it had read everything.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
            read => read.expect("an answer in time"),
        };
        serde_json::from_str(&line).ok()
    }

    fn ask(&mut self, line: &str) -> Value {
        self.say(format!("{line}\n").as_bytes());
        self.line().expect("an answer")
    }
}

#[test]
fn answers_have_the_shape_of_qmp() {
    let world = World::new();
    let mut raw = Raw::connect(&world);
    let answer = raw.ask(r#"{"execute":"query-status","id":[1,"x"]}"#);
    assert_eq!(answer["id"], json!([1, "x"]));
    assert_eq!(answer["return"]["ports"][0]["name"], "0");
    assert_eq!(answer["return"]["ports"][0]["driver"], "undecided");
    assert_eq!(
        answer["return"]["cables"],
        json!([{"ports": ["0", "1"], "pause": false}])
    );
    assert_eq!(
        raw.ask(r#"{"execute":"query-stats","arguments":{}}"#)["return"]["ports"][1]["name"],
        "1"
    );
    for (line, class) in [
        ("rubbish", "GenericError"),
        ("[]", "GenericError"),
        (r#"{"arguments":{}}"#, "GenericError"),
        (
            r#"{"execute":"query-status","arguments":{"x":1}}"#,
            "GenericError",
        ),
        (r#"{"execute":"query-status","extra":1}"#, "GenericError"),
        (r#"{"execute":"make-tea"}"#, "CommandNotFound"),
        (r#"{"execute":"flow-counter-query"}"#, "GenericError"),
        (
            r#"{"execute":"flow-counter-query","arguments":{"id":7}}"#,
            "NotFound",
        ),
        (
            r#"{"execute":"flow-counter-remove","arguments":{"id":7}}"#,
            "NotFound",
        ),
        (
            r#"{"execute":"flow-counter-add","arguments":{"port":"9","match":{}}}"#,
            "NotFound",
        ),
        (
            r#"{"execute":"flow-counter-add","arguments":{"port":"0","match":{"source":"x"}}}"#,
            "GenericError",
        ),
        (
            r#"{"execute":"flow-counter-add","arguments":{"port":"0","match":{"colour":1}}}"#,
            "GenericError",
        ),
    ] {
        let answer = raw.ask(line);
        assert_eq!(answer["error"]["class"], class, "{line}: {answer}");
        assert!(
            answer["error"]["desc"]
                .as_str()
                .is_some_and(|desc| !desc.is_empty())
        );
    }
}

#[test]
fn garbage_and_long_lines_hurt_no_other_client() {
    let world = World::new();
    let mut other = world.control();
    let mut raw = Raw::connect(&world);
    raw.say(&[0xff, 0, b'{', b'\n', b'\n', b' ', b'\n']);
    assert_eq!(
        raw.line().expect("an answer")["error"]["class"],
        "GenericError"
    );
    raw.say(&vec![b'x'; MAX_LINE + 10]);
    assert_eq!(
        raw.line().expect("an answer")["error"]["class"],
        "GenericError"
    );
    assert!(
        raw.line().is_none(),
        "the connection ends, because the start of the next line is unknown"
    );
    other
        .query::<Status>(command::QUERY_STATUS)
        .expect("the others go on");
    // Half a line, then the client is gone.
    let mut raw = Raw::connect(&world);
    raw.say(b"{\"execute\":");
    drop(raw);
    world
        .control()
        .query::<Stats>(command::QUERY_STATS)
        .expect("and so do new ones");
}

#[test]
fn ten_megabytes_without_an_end_are_refused() {
    let world = World::new();
    let stream = UnixStream::connect(world.control_path()).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let mut raw = Raw(BufReader::new(stream.try_clone().expect("handle")));
    assert!(raw.line().is_some(), "a greeting");
    let writer = std::thread::spawn(move || {
        // The backend stops reading long before the end.
        let _ = (&stream).write_all(&vec![b'x'; 10 << 20]);
    });
    let answer = raw.line().expect("an answer");
    assert_eq!(answer["error"]["class"], "GenericError", "{answer}");
    writer.join().expect("no panic");
    assert!(raw.line().is_none());
    world
        .control()
        .query::<Status>(command::QUERY_STATUS)
        .expect("the others go on");
}

/// Events for a client that does not read delay nothing: it gets some, and the number of those that
/// it lost.
#[test]
fn a_client_that_does_not_read_stalls_no_port_and_no_client() {
    const FRAMES: u64 = 20_000;
    let world = World::new();
    let [mut a, mut b] = world.drivers(2);
    a.bring_up(Shape::SPLIT, 0);
    b.bring_up(Shape::SPLIT, 8);
    let mut sleeper = Raw::connect(&world);
    sleeper.ask(r#"{"execute":"subscribe","arguments":{"events":["fault-hit"]}}"#);
    let mut control = world.control();
    let rule = json!({"port": "1", "rules": [{"direction": "rx", "action": "drop"}]});
    let ids: Value = control
        .execute(command::FAULT_ADD, Some(&rule))
        .expect("a rule");
    let frame = Flow::udp4().frame(&[0]);
    for _ in 0..FRAMES {
        a.enqueue(0, &frame);
    }
    a.flush(0);
    let wait = json!({"id": ids["ids"][0], "hits": FRAMES, "timeout": PATIENCE.as_nanos() as u64});
    let fault: Value = control
        .execute(command::FAULT_WAIT, Some(&wait))
        .expect("all were hit");
    assert_eq!(fault["hits"], FRAMES);
    // It reads again, and one more event reports how many it lost.
    let mut got = 0;
    let mut lost = 0;
    while got + lost < FRAMES {
        let event = sleeper.line().expect("an event");
        match event["event"].as_str() {
            Some("fault-hit") => got += 1,
            Some("lost") => lost += event["data"]["count"].as_u64().expect("a number"),
            other => panic!("{other:?}"),
        }
        // Reported with the next event that there is room for.
        if lost == 0 {
            a.send(0, &frame);
        }
    }
    assert!(got > 1000 && lost > 0, "{got} events, {lost} lost");
}

#[test]
fn many_clients_one_after_the_other_and_some_at_once() {
    let world = World::new();
    for _ in 0..50 {
        world
            .control()
            .query::<Status>(command::QUERY_STATUS)
            .expect("status");
    }
    let mut clients: Vec<_> = (0..10).map(|_| Raw::connect(&world)).collect();
    for client in &mut clients {
        client.say(b"{\"execute\":\"query-status\"}\n");
    }
    for client in &mut clients {
        assert!(client.line().expect("an answer")["return"].is_object());
    }
}

#[test]
fn only_the_owner_may_connect() {
    let world = World::new();
    let mode = std::fs::metadata(world.control_path())
        .expect("socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn flows_are_counted_where_they_arrive() {
    let world = World::new();
    let mut control = world.control();
    let [mut a, mut b] = world.drivers(3);
    a.bring_up(Shape::SPLIT, 0);
    b.bring_up(Shape::SPLIT, 8);
    let flow = FlowMatch {
        protocol: Some(Protocol::Tcp),
        destination_port: Some(2000),
        ..FlowMatch::default()
    };
    let add = FlowCounterAdd {
        port: "1".into(),
        pattern: flow,
    };
    let id: FlowCounterId = control
        .execute(command::FLOW_COUNTER_ADD, Some(&add))
        .expect("counter");
    let counts = |control: &mut zcnic_ctl::client::Client| -> FlowCounts {
        control
            .execute(command::FLOW_COUNTER_QUERY, Some(&id))
            .expect("counts")
    };
    assert_eq!(counts(&mut control), FlowCounts::default());

    let tcp = Flow::tcp4();
    for payload in [0, 1, 1000] {
        a.send(0, tcp.frame(&pattern(payload)));
    }
    a.send(0, tcp.clone().ports(1, 2).frame(&pattern(10)));
    a.send(0, Flow::udp4().frame(&pattern(10)));
    // Three frames find no buffer.
    for _ in 0..6 {
        a.send(0, tcp.frame(&pattern(100)));
    }
    // A frame without payload is neither split nor unsplit.
    let expected = FlowCount {
        delivered: 6,
        split: 5,
        unsplit: 0,
        dropped: 3,
    };
    assert_eq!(
        counts(&mut control).queues.into_iter().collect::<Vec<_>>(),
        [(0, expected)]
    );

    let gone: Result<Value, ClientError> = {
        let _: Value = control
            .execute(command::FLOW_COUNTER_REMOVE, Some(&id))
            .expect("remove");
        control.execute(command::FLOW_COUNTER_QUERY, Some(&id))
    };
    match gone {
        Err(ClientError::Refused(failure)) => assert_eq!(failure.class, ErrorClass::NotFound),
        other => panic!("{other:?}"),
    }
}

#[test]
fn segments_of_a_flow_that_is_not_split_count_each() {
    let world = World::new();
    let mut control = world.control();
    let [mut a, mut b] = world.drivers(3);
    a.bring_up(Shape::SPLIT, 0);
    b.bring_up(Shape::linear(2048), 16);
    let add = FlowCounterAdd {
        port: "1".into(),
        pattern: FlowMatch::default(),
    };
    let id: FlowCounterId = control
        .execute(command::FLOW_COUNTER_ADD, Some(&add))
        .expect("counter");
    let frame = Flow::tcp4().frame(&pattern(5000));
    a.send(0, zcnic_model::Packet::from(frame).segmented(1000));
    let counts: FlowCounts = control
        .execute(command::FLOW_COUNTER_QUERY, Some(&id))
        .expect("counts");
    let expected = FlowCount {
        delivered: 5,
        split: 0,
        unsplit: 5,
        dropped: 0,
    };
    assert_eq!(
        counts.queues.into_iter().collect::<Vec<_>>(),
        [(0, expected)]
    );
    let stats: Stats = control.query(command::QUERY_STATS).expect("stats");
    assert_eq!(stats.ports[1].queues[0].rx_frames, 5);
    assert_eq!(stats.ports[0].queues[0].tx_frames, 5);
}

/// A virtio-serial port: one connection, however often programs in the guest open and close their
/// end.
#[test]
fn a_client_discards_what_others_left_on_a_serial_port() {
    let world = World::new();
    let line = UnixStream::connect(world.control_path()).expect("connect");
    let port = || {
        File::from(OwnedFd::from(
            line.try_clone().expect("the other end stays"),
        ))
    };
    let mut first = Client::over(port()).expect("the first to use it");
    assert!(first.greeting().is_some());
    let all = json!({"events": ["link"]});
    let _: Value = first.execute("subscribe", Some(&all)).expect("subscribed");
    let rule = json!({"port": "0", "rules": [{"direction": "rx", "action": "drop"}]});
    let added: Value = first.execute("fault-add", Some(&rule)).expect("a rule");
    drop(first);

    // An event, an answer that was not read, and half a request.
    world
        .control()
        .execute::<Value>("link-set", Some(&json!({"port": "0", "up": false})))
        .expect("no link");
    let request = "{\"execute\":\"query-status\"}\n{\"execute\":\"device-reset\",\"argum";
    (&line).write_all(request.as_bytes()).expect("a request");
    let mut second = Client::over(port()).expect("the second");
    assert!(second.greeting().is_none());
    let list: Value = second.query("fault-list").expect("an answer of its own");
    assert_eq!(list["faults"][0]["id"], added["ids"][0]);
    let quiet = second.event(Some(Duration::from_millis(100)));
    assert!(quiet.is_err(), "no client subscribed: {quiet:?}");
    drop(second);

    // A client that is killed while it waits for hits that never happen.
    let wait = json!({"execute": "fault-wait",
        "arguments": {"id": added["ids"][0], "timeout": 3_600_000_000_000_u64}});
    writeln!(&line, "{wait}").expect("a request");
    let start = Instant::now();
    let mut third = Client::over(port()).expect("the third");
    let _: Value = third.query("query-status").expect("an answer");
    assert!(start.elapsed() < Duration::from_secs(10), "it waited");
}

/// Offered features apply from the next session on, also after a reset of the device; a running
/// session keeps its features.
#[test]
fn a_driver_gets_the_features_that_are_offered() {
    let world = World::new();
    let [mut driver, _] = world.drivers(3);
    let mut raw = Raw::connect(&world);
    let agreed = |driver: &mut Driver<_>| FeatureSet::from_words(driver.hello().features);
    assert_eq!(agreed(&mut driver), FeatureSet::ALL);
    let answer = raw.ask(
        r#"{"execute":"features-set","arguments":{"port":"0","offered":["split","rx-csum"]}}"#,
    );
    assert_eq!(answer, json!({"return": {}}));
    let query = r#"{"execute":"query-features","arguments":{"port":"0"}}"#;
    let known = &raw.ask(query)["return"];
    assert_eq!(known["offered"], json!(["rx-csum", "split"]));
    assert_eq!(known["negotiated"], known["supported"]);
    raw.ask(r#"{"execute":"device-reset","arguments":{"port":"0"}}"#);
    let few = FeatureSet::from_iter([Feature::RxCsum, Feature::Split]);
    assert_eq!(agreed(&mut driver), few);
    raw.ask(r#"{"execute":"features-set","arguments":{"port":"0"}}"#);
    assert_eq!(agreed(&mut driver), FeatureSet::ALL);
}
