//! The client and `zcnicctl` against a server that says what the test tells it.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::Command,
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

/// Greets one client and answers each request with the next line; returns the requests.
fn serve(answers: Vec<Value>) -> (TempDir, PathBuf, JoinHandle<Vec<Value>>) {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("control");
    let listener = UnixListener::bind(&path).expect("listen");
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("accept");
        let mut say: &UnixStream = &stream;
        writeln!(say, "{GREETING}").expect("greeting");
        let mut lines = BufReader::new(&stream).lines();
        let mut requests = Vec::new();
        for answer in answers {
            let Some(line) = lines.next() else { break };
            let request = serde_json::from_str(&line.expect("a line")).expect("JSON");
            requests.push(request);
            writeln!(say, "{answer}").expect("answer");
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
    assert_eq!(client.greeting().zcnic.version, "9.9.9");
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
fn refusals_and_ends_are_told_apart() {
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

fn zcnicctl(socket: &Path, arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_zcnicctl"))
        .arg("--socket")
        .arg(socket)
        .args(arguments)
        .output()
        .expect("zcnicctl runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (
        output.status.success(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn zcnicctl_prints_the_result() {
    let (_directory, path, server) = serve(vec![json!({"return": {"id": 3}})]);
    let (good, printed, _) = zcnicctl(
        &path,
        &[
            "flow",
            "add",
            "--port",
            "1",
            "--protocol",
            "udp",
            "--source-port",
            "53",
        ],
    );
    assert!(good);
    assert_eq!(
        serde_json::from_str::<Value>(&printed).expect("JSON"),
        json!({"id": 3})
    );
    let requests = server.join().expect("server");
    let arguments = json!({"port": "1", "match": {"protocol": "udp", "source-port": 53}});
    assert_eq!(requests[0]["arguments"], arguments);
}

#[test]
fn zcnicctl_says_what_is_wrong_in_one_line() {
    let refusal = json!({"error": {"class": "NotFound", "desc": "No flow counter 9"}});
    let (_directory, path, server) = serve(vec![refusal]);
    let (good, _, said) = zcnicctl(&path, &["flow", "query", "9"]);
    assert!(!good);
    assert_eq!(said, "zcnicctl: No flow counter 9\n");
    server.join().expect("server");
    let (good, _, said) = zcnicctl(Path::new("/no/such/socket"), &["status"]);
    assert!(!good);
    assert!(
        said.starts_with("zcnicctl: Can't connect to /no/such/socket: "),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1);
}
