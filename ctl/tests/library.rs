//! The client against a server with scripted answers.

use std::{
    io::{BufRead, BufReader, Write},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    thread::{self, JoinHandle},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use zcnic_ctl::{
    client::{Client, ClientError},
    protocol::{
        ErrorClass, FlowCount, FlowCounterAdd, FlowCounterId, FlowCounts, FlowMatch, Protocol,
        Status, command,
    },
};

const GREETING: &str = r#"{"zcnic":{"version":"9.9.9"}}"#;

/// Greets one client and answers each request with the next line, or with several; returns the
/// requests.
fn serve(answers: Vec<Value>) -> (TempDir, PathBuf, JoinHandle<Vec<Value>>) {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("control");
    let listener = UnixListener::bind(&path).expect("listen");
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("accept");
        let mut writer: &UnixStream = &stream;
        writeln!(writer, "{GREETING}").expect("greeting");
        let mut lines = BufReader::new(&stream).lines();
        let mut requests = Vec::new();
        for answer in answers {
            let Some(line) = lines.next() else { break };
            let request = serde_json::from_str(&line.expect("a line")).expect("JSON");
            requests.push(request);
            let lines = match answer {
                Value::Array(lines) => lines,
                line => vec![line],
            };
            for line in lines {
                writeln!(writer, "{line}").expect("answer");
            }
        }
        requests
    });
    (directory, path, server)
}

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
    let add = FlowCounterAdd {
        port: "1".into(),
        pattern,
    };
    let id: FlowCounterId = client
        .execute(command::FLOW_COUNTER_ADD, Some(&add))
        .expect("added");
    assert_eq!(id.id, 7);
    let counts: FlowCounts = client
        .execute(command::FLOW_COUNTER_QUERY, Some(&id))
        .expect("counts");
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
    match client.query::<Status>(command::QUERY_STATUS) {
        Err(ClientError::Refused(failure)) => {
            assert_eq!(failure.class, ErrorClass::CommandNotFound);
            assert_eq!(failure.desc, "No such thing");
        }
        other => panic!("{other:?}"),
    }
    let nonsense = client.query::<Status>(command::QUERY_STATUS);
    assert!(
        matches!(nonsense, Err(ClientError::Unexpected(_))),
        "{nonsense:?}"
    );
    server.join().expect("server");
    let end = client.query::<Status>(command::QUERY_STATUS);
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
