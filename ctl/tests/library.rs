//! The client against a server with scripted answers.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use zcnic_ctl::{
    Action, Client, ClientError, Event, FaultId, FaultRule, FlowMatch, Protocol,
    protocol::{CounterId, Driver, ErrorClass, FlowCount, ledger::BufferChange, port::Layout},
};

mod common;

use common::{GREETING, serve};

#[test]
fn requests_and_results_are_as_documented() {
    let counts = json!({"return": {"queues": {"2": {"delivered": 5, "split": 4, "unsplit": 1, "dropped": 0}}}});
    let (_directory, path, server) = serve(vec![json!({"return": {"id": 7}}), counts]);
    let mut client = Client::connect(&path).expect("connect");
    assert_eq!(
        client.greeting().expect("a greeting").zcnic.version,
        "9.9.9"
    );
    let pattern = FlowMatch {
        protocol: Some(Protocol::Tcp),
        destination: Some("2001:db8::1".parse().expect("address")),
        destination_port: Some(5201),
        ..FlowMatch::default()
    };
    let id = client.flow_counter_add("1", pattern).expect("added");
    assert_eq!(id, CounterId(7));
    let counts = client.flow_counter_query(id).expect("counts");
    let expected = FlowCount {
        delivered: 5,
        split: 4,
        unsplit: 1,
        dropped: 0,
    };
    assert_eq!(counts.queues.get(&2), Some(&expected));
    let requests = server.join().expect("server");
    assert_eq!(
        requests,
        [
            json!({"execute": "flow-counter-add", "arguments": {"port": "1", "match": {
                "protocol": "tcp", "destination": "2001:db8::1", "destination-port": 5201}}}),
            json!({"execute": "flow-counter-query", "arguments": {"id": 7}}),
        ]
    );
}

#[test]
fn refusals_differ_from_disconnects() {
    let refusal = json!({"error": {"class": "CommandNotFound", "desc": "No such thing"}});
    let (_directory, path, server) = serve(vec![refusal, json!("nonsense")]);
    let mut client = Client::connect(&path).expect("connect");
    match client.status() {
        Err(ClientError::Refused(failure)) => {
            assert_eq!(failure.class, ErrorClass::CommandNotFound);
            assert_eq!(failure.desc, "No such thing");
        }
        other => panic!("{other:?}"),
    }
    let nonsense = client.status();
    assert!(
        matches!(nonsense, Err(ClientError::Unexpected(_))),
        "{nonsense:?}"
    );
    server.join().expect("server");
    let end = client.status();
    assert!(
        matches!(end, Err(ClientError::Closed | ClientError::Io(_))),
        "{end:?}"
    );
}

/// The other end of a port that another program used before: sends `before`, then answers with
/// `answer`.
fn used_port(
    before: &'static str,
    answer: impl FnOnce(Value, &UnixStream) + Send + 'static,
) -> Client {
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    thread::spawn(move || {
        let mut writer = &theirs;
        write!(writer, "{before}").expect("leftovers");
        let mut lines = BufReader::new(&theirs).lines();
        let first = lines.next().expect("a line").expect("a line");
        assert_eq!(first, "", "half a line may be there already");
        let request = lines.next().expect("a line").expect("a line");
        answer(serde_json::from_str(&request).expect("JSON"), &theirs);
        while lines.next().is_some() {}
    });
    Client::over(OwnedFd::from(ours).into()).expect("the port is ours")
}

#[test]
fn leftovers_of_earlier_programs_are_discarded() {
    const BEFORE: &str = "tail of a line\"}}\n\
        {\"return\":{\"ids\":[7]}}\n\
        {\"error\":{\"class\":\"GenericError\",\"desc\":\"Line is not a request\"}}\n\
        {\"return\":{},\"id\":\"4711-1\"}\n\
        {\"event\":\"link\",\"data\":{\"port\":\"0\",\"up\":false}}\n";
    let mut client = used_port(BEFORE, |request, mut writer| {
        assert_eq!(
            (&request["execute"], &request["arguments"]),
            (&json!("subscribe"), &json!({"events": []}))
        );
        let id = &request["id"];
        writeln!(writer, "{}", json!({"return": {}, "id": id})).expect("answer");
        let event = json!({"event": "link", "data": {"port": "1", "up": true}});
        writeln!(writer, "{event}").expect("event");
    });
    let event = client.event(None).expect("an event of ours");
    assert_eq!(
        serde_json::to_value(event).expect("JSON")["data"]["port"],
        "1"
    );
}

#[test]
fn a_restarted_backend_is_asked_again() {
    let client = used_port("", |_, mut writer| {
        // The request was lost with the previous connection.
        writeln!(writer, "{GREETING}").expect("greeting");
        let mut lines = BufReader::new(writer).lines();
        let again = lines.nth(1).expect("a line").expect("a line");
        let again: Value = serde_json::from_str(&again).expect("JSON");
        writeln!(writer, "{}", json!({"return": {}, "id": again["id"]})).expect("answer");
    });
    assert_eq!(
        client.greeting().expect("a greeting").zcnic.version,
        "9.9.9"
    );
}

#[test]
fn a_rule_is_removed_with_its_guard() {
    let done = json!({"return": {}});
    let hit = json!({"return": {"id": 4, "port": "1", "seen": 3, "hits": 1, "voids-recovery": false,
        "rule": {"direction": "rx", "nth": 3, "action": "drop"}}});
    let late = json!({"error": {"class": "Timeout", "desc": "Rule 5 hit 0 of 1 times in time"}});
    let added = |id: u64| json!({"return": {"ids": [id]}});
    let answers = vec![added(4), hit, done.clone(), added(5), late, done];
    let (_directory, path, server) = serve(answers);
    let mut client = Client::connect(&path).expect("connect");
    let rule = FaultRule::rx(Action::Drop).nth(3);

    let mut fault = client.fault("1", &rule).expect("added");
    let status = fault.wait(1, Duration::from_secs(5)).expect("a hit");
    assert_eq!((status.id, status.hits), (FaultId(4), 1));
    assert_eq!(status.rule.known(), Some(&rule));
    fault.remove().expect("removed");

    let mut fault = client.fault("1", &rule).expect("added");
    let error = fault.wait(1, Duration::ZERO).expect_err("no traffic");
    assert!(error.is_timeout(), "{error:?}");
    drop(fault);

    let requests = server.join().expect("server");
    let add = json!({"execute": "fault-add", "arguments": {"port": "1", "rules": [
        {"direction": "rx", "nth": 3, "action": "drop"}]}});
    let remove = |id| json!({"execute": "fault-remove", "arguments": {"id": id}});
    let wait = |id, timeout: u64| json!({"execute": "fault-wait", "arguments": {"id": id, "hits": 1, "timeout": timeout}});
    assert_eq!(
        requests,
        [
            add.clone(),
            wait(4, 5_000_000_000),
            remove(4),
            add,
            wait(5, 0),
            remove(5)
        ]
    );
}

#[test]
fn members_and_words_of_a_newer_backend_are_no_errors() {
    let port = json!({"name": "0", "path": "/a", "connected": true, "link": true, "driver": "warp",
        "rings": [], "colour": "red"});
    let rule = json!({"direction": "sideways", "action": {"drop": {"loudly": true}}});
    let fault = json!({"id": 1, "port": "0", "seen": 0, "hits": 0, "voids-recovery": false,
        "rule": rule, "since": 5});
    let settings = json!({"port": "0", "mode": "quantum", "sanitize": false});
    let pair = json!({"queue": 0, "commands": false, "layout": {"shape": "ring", "rings": 2},
        "transmits": true, "rx": "ring!", "tx": "ring!", "xdp": false});
    let ring = json!({"size": 1, "running": true, "enabled": true, "next-available": 0,
        "next-used": 0, "held-frames": 0, "held-chains": 0, "fault-drops": 0, "packed": true});
    let pair: Value =
        serde_json::from_str(&pair.to_string().replace("\"ring!\"", &ring.to_string()))
            .expect("JSON");
    let history =
        json!({"address": 0, "length": 1, "events": [{"time": 0, "head": 0, "what": "lent"}]});
    let answers = vec![
        json!({"return": {"ports": [port], "cables": [], "switches": []}}),
        json!({"return": {"faults": [fault]}}),
        json!({"return": {"settings": settings, "queues": []}}),
        json!({"return": {"pairs": [pair]}}),
        json!({"return": history}),
        json!([
            {"event": "earthquake", "data": {"magnitude": 5}},
            {"event": "link", "data": {"port": "0", "up": true, "speed": 100}},
            {"error": {"class": "Overheated", "desc": "Too hot"}, "since": 5},
        ]),
    ];
    let (_directory, path, server) = serve(answers);
    let mut client = Client::connect(&path).expect("connect");
    assert_eq!(
        client.status().expect("status").ports[0].driver,
        Driver::Other
    );
    assert_eq!(client.fault_list().expect("rules")[0].rule.known(), None);
    assert!(
        client
            .ledger("0")
            .expect("a ledger")
            .settings
            .known()
            .is_none()
    );
    let queues = client.queues("0").expect("queues");
    assert_eq!(queues.pairs[0].layout, Some(Layout::Other));
    let history = client.ledger_history("0", 0, 0).expect("a history");
    assert_eq!(history.events[0].change, BufferChange::Other);
    let error = client.reset("0").expect_err("a refusal");
    assert_eq!(error.class(), Some(ErrorClass::Other));
    match client.event(None).expect("an event") {
        Event::Other(other) => assert_eq!(other.event, "earthquake"),
        event => panic!("{event:?}"),
    }
    let event = client.event(None).expect("an event");
    assert!(matches!(event, Event::Link(_)), "{event:?}");
    server.join().expect("server");
}

/// The error of a client whose peer writes `line` and then stays silent.
fn refused_greeting(line: &'static str) -> String {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).expect("listen");
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        stream.write_all(line.as_bytes()).expect("written");
        // Until the client gives up.
        stream.read_to_end(&mut Vec::new()).expect("closed");
    });
    let error = Client::connect(&path).expect_err("no greeting");
    server.join().expect("the client has closed the connection");
    error
        .to_string()
        .replace(path.to_str().expect("UTF-8"), "S")
}

#[test]
fn a_socket_of_something_else_is_named_in_time() {
    assert_eq!(
        refused_greeting(""),
        "S is not a control socket of zcnic: no greeting within 5 s; ports' sockets are for QEMU"
    );
    assert_eq!(
        refused_greeting("{\"QMP\": {}}\n"),
        r#"S is not a control socket of zcnic: it greets with "{\"QMP\": {}}""#
    );
    assert_eq!(
        refused_greeting("{\"error\":{\"class\":\"GenericError\",\"desc\":\"For QEMU\"}}\n"),
        "S: For QEMU"
    );
}
