//! docs/control-protocol.schema.json is generated, and holds for the document and for a backend.

#[path = "../../../backend/tests/common/mod.rs"]
mod common;

use std::{
    collections::BTreeSet,
    env, fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
};

use common::World;
use jsonschema::Validator;
use serde_json::{Value, json};
use zcnic_ctl::{protocol::command, schema::schema};
use zcnic_model::{Shape, frames::Flow, vhost_user::PATIENCE};

const FILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../docs/control-protocol.schema.json"
);
const PROTOCOL: &str = include_str!("../../../docs/control-protocol.md");

/// A validator of lines, or of one of the schema's definitions.
fn validator(definition: Option<&str>) -> Validator {
    let mut schema = schema();
    if let Some(name) = definition {
        let members = schema.as_object_mut().expect("an object");
        members.remove("anyOf");
        members.insert("$ref".into(), json!(format!("#/$defs/{name}")));
    }
    jsonschema::validator_for(&schema).expect("a valid schema")
}

fn assert_valid(validator: &Validator, value: &Value) {
    let errors: Vec<_> = validator
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{value}\n{errors:#?}");
}

#[test]
fn the_file_is_what_the_types_say() {
    let text = format!("{:#}\n", schema());
    if env::var_os("ZCNIC_WRITE_SCHEMA").is_some() {
        fs::write(FILE, &text).expect("written");
    }
    let file = fs::read_to_string(FILE).unwrap_or_default();
    assert!(
        file == text,
        "the types have changed: run ZCNIC_WRITE_SCHEMA=1 cargo test -p zcnicctl --test schema"
    );
}

/// The lines of JSON in the document. Where it leaves something out (…) there is none.
fn documented() -> Vec<Value> {
    let lines = PROTOCOL
        .lines()
        .filter_map(|line| line.strip_prefix("    {"));
    lines
        .filter_map(|line| serde_json::from_str(&format!("{{{line}")).ok())
        .collect()
}

#[test]
fn every_documented_line_is_valid() {
    let line = validator(None);
    let documented = documented();
    assert!(documented.len() > 50, "{} lines", documented.len());
    let is_valid = |value: &Value| line.is_valid(value);
    for value in &documented {
        // Requests that the document shows with their refusal.
        let text = value.to_string();
        if text.contains("warp") {
            continue;
        }
        assert_valid(&line, value);
    }
    for wrong in [
        json!({"execute": "make-tea"}),
        json!({"execute": "link-set", "arguments": {"port": "1"}}),
        json!({"execute": "link-set", "arguments": {"port": "1", "up": true, "speed": 1}}),
        json!({"execute": "fault-add", "arguments": {"port": "1", "rules": [
            {"direction": "rx", "action": {"delay": {}}}]}}),
        json!({"event": "link", "data": {"port": "1"}}),
        json!({"zcnic": {}}),
    ] {
        assert!(!is_valid(&wrong), "{wrong}");
    }
}

#[test]
fn what_a_backend_sends_is_valid() {
    let world = World::new();
    let [mut sender, mut receiver] = world.drivers(3);
    sender.bring_up(Shape::SPLIT, 8);
    receiver.bring_up(Shape::SPLIT, 8);
    let stream = UnixStream::connect(world.control_path()).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let mut lines = BufReader::new(stream.try_clone().expect("clone")).lines();
    let line = validator(None);
    let mut next = || -> Value {
        let text = lines.next().expect("a line").expect("in time");
        let value = serde_json::from_str(&text).expect("JSON");
        assert_valid(&line, &value);
        value
    };
    assert!(next()["zcnic"].is_object());
    let all = json!({"execute": "subscribe", "arguments": {"events": [
        "fault-hit", "violation", "queue-stop", "link", "connection"]}});
    let [first, last] = ["capture-start", "capture-stop"]
        .map(|name| json!({"execute": name, "arguments": {"port": "1"}}));
    let requests = documented()
        .into_iter()
        .filter(|value| value.get("execute").is_some());
    let (mut answered, mut events) = (BTreeSet::new(), 0);
    // The document shows these with their results only.
    let queries = ["query-status", "query-stats"].map(|name| json!({ "execute": name }));
    let requests = [all, first].into_iter().chain(requests);
    for request in requests.chain(queries).chain([last]) {
        let name = request["execute"].as_str().expect("a name");
        writeln!(&stream, "{request}").expect("sent");
        let answer = loop {
            let line = next();
            if line.get("event").is_none() {
                break line;
            }
            events += 1;
        };
        if let Some(result) = answer.get("return") {
            assert_valid(&validator(Some(&format!("result-of-{name}"))), result);
            answered.insert(name.to_owned());
        }
        if name == "fault-add" || name == "flow-counter-add" {
            sender.send(0, Flow::tcp4().frame(b"a frame that is captured and hit"));
        }
    }
    // The documented ones of these are refused.
    let refused = ["fault-wait", "ledger-history"];
    let expected = command::ALL.iter().filter(|name| !refused.contains(*name));
    let expected: BTreeSet<String> = expected.map(ToString::to_string).collect();
    assert_eq!(answered, expected);
    assert!(events > 3, "{events} events");
}
