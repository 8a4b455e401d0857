//! The documents match the code: examples of docs/control-protocol.md are played against a backend,
//! and docs/faults.md lists every action.

mod common;

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
};

use common::World;
use serde_json::{Value, json};
use zcnic_ctl::protocol::{command, event::EventKind, fault::Action, scenario::Scenario};
use zcnic_device::fault::ACTIONS;
use zcnic_model::{Shape, vhost_user::PATIENCE};

const PROTOCOL: &str = include_str!("../../docs/control-protocol.md");
const FAULTS: &str = include_str!("../../docs/faults.md");

/// Stands for `…` in an expected line.
const ANY: &str = "(any)";

/// Whether `got` matches `expected`. Objects may not have members that are not expected.
fn agrees(expected: &Value, got: &Value) -> bool {
    match (expected, got) {
        (Value::String(any), _) if any == ANY => true,
        (Value::Object(expected), Value::Object(got)) => {
            expected.len() == got.len()
                && expected
                    .iter()
                    .all(|(name, value)| got.get(name).is_some_and(|got| agrees(value, got)))
        }
        (Value::Array(expected), Value::Array(got)) => {
            expected.len() == got.len() && expected.iter().zip(got).all(|(a, b)| agrees(a, b))
        }
        _ => expected == got,
    }
}

/// The lines of JSON in a section about a command, from its first request on.
fn transcript(section: &str) -> Vec<Value> {
    section
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| {
            let starts = ["execute", "return", "error", "event"];
            starts
                .iter()
                .any(|start| line.starts_with(&format!("{{\"{start}\":")))
        })
        .map(|line| {
            let line = line.replace('…', &format!("{ANY:?}"));
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
        })
        .skip_while(|line: &Value| line.get("execute").is_none())
        .collect()
}

/// A client of the control socket: where it writes to, and the lines that it receives.
fn connect(world: &World) -> (UnixStream, impl FnMut() -> Value) {
    let stream = UnixStream::connect(world.control_path()).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let mut lines = BufReader::new(stream.try_clone().expect("clone")).lines();
    let mut line = move || -> Value {
        let line = lines.next().expect("a line").expect("in time");
        serde_json::from_str(&line).expect("JSON")
    };
    assert!(line()["zcnic"].is_object());
    (stream, line)
}

#[test]
fn transcripts_are_real() {
    let world = World::new();
    let [mut a, mut b] = world.drivers(3);
    a.bring_up(Shape::SPLIT, 8);
    b.bring_up(Shape::SPLIT, 8);
    let (stream, mut line) = connect(&world);
    let (watcher, mut seen) = connect(&world);
    let mut played = Vec::new();
    for section in PROTOCOL.split("\n## ").skip(1) {
        let name = section.lines().next().unwrap_or_default();
        // The examples of flow counters are about frames that are not sent here.
        if name.starts_with("flow-counter") {
            continue;
        }
        if name == "disconnect" {
            let subscribe = json!({"execute": "subscribe", "arguments": {"events": ["link"]}});
            writeln!(&watcher, "{subscribe}").expect("sent");
            assert!(seen()["return"].is_object());
        }
        for expected in transcript(section) {
            if expected.get("execute").is_some() {
                writeln!(&stream, "{expected}").expect("sent");
                played.push(expected["execute"].as_str().unwrap_or_default().to_owned());
            } else {
                let got = line();
                assert!(agrees(&expected, &got), "{name}:\n{expected}\n{got}");
            }
        }
        if name == "disconnect" {
            // Its last event must not arrive among those of later sections.
            let down = json!({"event": "link", "data": {"port": "1", "up": false}});
            assert_eq!(seen(), down);
        }
    }
    for wanted in [
        "fault-add",
        "fault-list",
        "ledger-set",
        "subscribe",
        "query-queues",
    ] {
        assert!(
            played.iter().any(|name| name == wanted),
            "{wanted} is played"
        );
    }
}

#[test]
fn every_command_and_event_is_described() {
    for name in command::ALL {
        assert!(PROTOCOL.contains(&format!("\n## {name}\n")), "{name}");
    }
    for kind in EventKind::ALL {
        let name = serde_json::to_value(kind).expect("JSON");
        let row = format!("| `{}` |", name.as_str().expect("a word"));
        assert!(PROTOCOL.contains(&row), "{row}");
    }
}

/// The lines below this headline of docs/faults.md, up to the next headline.
fn section(headline: &str) -> &'static str {
    let rest = FAULTS.split(headline).nth(1).expect("a section");
    rest.split("\n#").next().expect("text")
}

#[test]
fn every_action_is_documented_with_the_drivers_reaction() {
    let table = section("### Reactions of the driver");
    for info in ACTIONS {
        let name = format!("`{}`", info.name);
        let row = |line: &str| {
            line.split('|')
                .nth(1)
                .is_some_and(|cell| cell.contains(&name))
        };
        assert!(table.lines().any(row), "{name}");
    }
}

#[test]
fn the_table_of_faults_lists_every_action() {
    let table = section("\n## Actions");
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let listed: Vec<String> = rows.iter().map(|row| row[1].replace('`', "")).collect();
    assert_eq!(listed, ACTIONS.map(|info| info.name));
    for (row, info) in rows.iter().zip(ACTIONS) {
        let directions: Vec<_> = info.directions.iter().map(|one| one.name()).collect();
        assert_eq!(row[2], directions.join(", "), "{}", info.name);
        // Parameters with a default may be left out, and there are no other optional ones.
        let parameters: Vec<&str> = row[3].split('`').skip(1).step_by(2).collect();
        let parse = |members: Value| {
            let name = info.name;
            let bare = serde_json::from_value::<Action>(json!(name));
            bare.or_else(|_| serde_json::from_value::<Action>(json!({ name: members })))
        };
        let unknown = parse(json!({"no-such-parameter": 1}));
        if let Err(error) = unknown {
            let known = error.to_string();
            for name in parameters
                .iter()
                .filter(|name| !matches!(**name, "inverted" | "invalid"))
            {
                assert!(
                    known.contains(&format!("`{name}`")),
                    "{}: {name}: {known}",
                    info.name
                );
            }
        } else {
            assert!(parameters.is_empty(), "{} has no parameters", info.name);
        }
        let voids = FAULTS
            .split("After a hit of ")
            .nth(1)
            .and_then(|text| text.split(" completions are").next())
            .expect("a sentence");
        assert_eq!(
            voids.contains(&format!("`{}`", info.name)),
            info.voids_recovery,
            "{}",
            info.name
        );
    }
}

#[test]
fn the_documented_scenario_is_valid() {
    let text = FAULTS.split("## Scenarios").nth(1).expect("a section");
    let lines = text
        .lines()
        .filter(|line| line.starts_with("    ") || line.is_empty());
    let toml: String = lines
        .map(|line| format!("{}\n", line.trim_start()))
        .collect();
    let scenario: Scenario = toml::from_str(&toml).expect("a scenario");
    let adds = scenario.requests();
    assert_eq!((adds.len(), adds[0].rules.len()), (1, 4));
    let world = World::new();
    let _: Value = world
        .control()
        .execute(command::FAULT_ADD, Some(&adds[0]))
        .expect("the rules make sense");
}
