//! `zcnicctl` against a server with scripted answers.

use std::{path::Path, process::Command, thread};

use pcap_file::pcapng::{Block, PcapNgReader};
use serde_json::{Value, json};
use zcnic_ctl::protocol::command;

#[path = "../../tests/common/mod.rs"]
mod common;

use common::serve;

/// Runs `zcnicctl` without --json and returns its exit status and output.
fn by_hand(socket: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_zcnicctl"))
        .arg("--socket")
        .arg(socket)
        .args(arguments)
        .output()
        .expect("zcnicctl runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("text"))
}

#[test]
fn people_get_tables() {
    let fault = json!({"id": 4, "port": "1", "seen": 9, "hits": 1, "voids-recovery": false,
        "rule": {"direction": "rx", "queue": 2, "nth": 3, "seed": 0, "stream": 0, "action": "drop"}});
    let (_directory, path, server) = serve(vec![json!({"return": {"faults": [fault]}})]);
    let (status, text) = by_hand(&path, &["fault", "list"]);
    assert_eq!(status, Some(0));
    assert_eq!(
        text,
        "id  port  rule.direction  rule.queue  rule.action  rule.nth  rule.every  rule.probability  seen  hits\n \
         4     1  rx                       2  drop                3  -           -                    9     1\n"
    );
    server.join().expect("server");
}

#[test]
fn the_first_port_is_the_default() {
    let status = json!({"return": {"ports": [{"name": "left"}], "cables": []}});
    let (_directory, path, server) = serve(vec![status, json!({"return": {"ids": [12]}})]);
    let (code, text) = by_hand(&path, &["fault", "add", "rx", "drop", "--nth", "3"]);
    assert_eq!((code, text.as_str()), (Some(0), "12\n"));
    let requests = server.join().expect("server");
    assert_eq!(
        requests[1]["arguments"],
        json!({"port": "left", "rules": [{"direction": "rx", "nth": 3, "action": "drop"}]})
    );
}

#[test]
fn scripts_get_an_exit_status() {
    let late = json!({"error": {"class": "Timeout", "desc": "Rule 1 hit 0 of 2 times in time"}});
    let (_directory, path, server) = serve(vec![late]);
    let wait = ["fault", "wait", "1", "--hits", "2", "--timeout", "5s"];
    assert_eq!(by_hand(&path, &wait).0, Some(4));
    let requests = server.join().expect("server");
    let arguments = json!({"id": 1, "hits": 2, "timeout": 5_000_000_000_u64});
    assert_eq!(requests[0]["arguments"], arguments);

    let ledger = json!({"return": {"settings": {}, "queues": [{"queue": 0, "violations": 2}]}});
    let (_directory, path, server) = serve(vec![ledger]);
    assert_eq!(
        by_hand(&path, &["--port", "0", "ledger", "--check"]).0,
        Some(5)
    );
    server.join().expect("server");

    let refused = json!({"error": {"class": "NotFound", "desc": "No port"}});
    let (_directory, path, server) = serve(vec![refused]);
    assert_eq!(by_hand(&path, &["--port", "0", "queues"]).0, Some(1));
    server.join().expect("server");

    assert_eq!(
        by_hand(Path::new("/no/such/socket"), &["status"]).0,
        Some(3)
    );
    assert_eq!(by_hand(&path, &["make-tea"]).0, Some(2));

    let delay = ["--port", "0", "fault", "add", "rx", "delay"];
    let (code, text) = by_hand(Path::new("/no/such/socket"), &delay);
    assert!(
        code == Some(2) && text.contains("delay needs --time"),
        "{text}"
    );
}

#[test]
fn scenarios_are_loaded_from_files() {
    let directory = tempfile::tempdir().expect("directory");
    let toml = directory.path().join("a.toml");
    let text = r#"
        description = "Every tenth frame is lost, and one command fails"
        seed = 7
        [[port]]
        name = "1"
        [[port.rule]]
        direction = "rx"
        probability = 0.1
        action = "drop"
        [[port.rule]]
        direction = "command"
        opcode = "rule-set"
        nth = 2
        action.command-error = { status = "no-space" }
    "#;
    std::fs::write(&toml, text).expect("file");
    let (_directory, path, server) = serve(vec![json!({"return": {"ids": [1, 2]}})]);
    let file = toml.to_str().expect("UTF-8");
    assert_eq!(
        by_hand(&path, &["fault", "load", file]),
        (Some(0), "1\n2\n".into())
    );
    let requests = server.join().expect("server");
    let rules = json!([
        {"direction": "rx", "probability": 0.1, "seed": 7, "action": "drop"},
        {"direction": "command", "opcode": "rule-set", "nth": 2, "seed": 7,
            "action": {"command-error": {"status": "no-space", "detail": 0}}},
    ]);
    assert_eq!(
        requests[0]["arguments"],
        json!({"port": "1", "rules": rules})
    );

    // Added rules are removed if another port refuses its rules.
    let json = directory.path().join("b.json");
    let two = json!({"port": [
        {"name": "0", "rule": [{"direction": "rx", "action": "drop"}]},
        {"name": "1", "rule": [{"direction": "rx", "action": "drop"}]},
    ]});
    std::fs::write(&json, two.to_string()).expect("file");
    let refused = json!({"error": {"class": "NotFound", "desc": "No port"}});
    let answers = vec![
        json!({"return": {"ids": [5]}}),
        refused,
        json!({"return": {}}),
    ];
    let (_directory, path, server) = serve(answers);
    let (code, _) = by_hand(&path, &["fault", "load", json.to_str().expect("UTF-8")]);
    assert_eq!(code, Some(1));
    let requests = server.join().expect("server");
    assert_eq!(
        requests[2],
        json!({"execute": "fault-remove", "arguments": {"id": 5}})
    );
}

#[test]
fn help_lists_the_actions_with_their_options() {
    let (code, help) = by_hand(Path::new("/no/such/socket"), &["fault", "add", "--help"]);
    assert_eq!(code, Some(0));
    for line in [
        "- drop:                 The frame is lost and uses no buffer (rx, tx)",
        "- command-error:        The command is refused (command; --status, --detail)",
        "- link-flap:            The carrier is off for a time (rx, tx, command; --time)",
    ] {
        assert!(help.contains(line), "{help}");
    }
}

#[test]
fn completions_and_manual_come_from_the_same_definitions() {
    let nowhere = Path::new("/no/such/socket");
    for shell in ["bash", "zsh", "fish"] {
        let (code, script) = by_hand(nowhere, &["completions", shell]);
        assert!(code == Some(0), "{shell}");
        // An option, an action and a status.
        for word in ["probability", "withhold-completion", "no-space"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let (code, page) = by_hand(nowhere, &["man"]);
    assert!(code == Some(0) && page.contains(".TH zcnicctl"), "{page}");
}

fn zcnicctl(socket: &Path, arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_zcnicctl"))
        .arg("--json")
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
fn a_capture_is_written_to_a_file() {
    let frame = |bytes: &str| {
        json!({"event": "frame", "data": {"port": "1", "direction": "rx", "time": 1_000_000_007_u64,
            "length": 60, "bytes": bytes}})
    };
    let lost = json!({"event": "lost", "data": {"count": 4}});
    let lines = json!([{"return": {}}, frame("0102"), lost, frame("ff")]);
    let (directory, path, server) = serve(vec![lines]);
    let file = directory.path().join("file");
    let name = file.to_str().expect("a path");
    let words = ["capture", "--port=1", "--length=2", "--count=2", name];
    assert!(zcnicctl(&path, &words).0);
    let requests = server.join().expect("server");
    assert_eq!(requests[0]["execute"], command::CAPTURE_START);
    assert_eq!(requests[0]["arguments"], json!({"port": "1", "length": 2}));
    let content = std::fs::read(file).expect("a file");
    let mut reader = PcapNgReader::new(&content[..]).expect("of this format");
    let mut frames = Vec::new();
    while let Some(block) = reader.next_block() {
        if let (Block::EnhancedPacket(packet), _) = block.expect("a block") {
            frames.push((packet.data.into_owned(), packet.original_len));
        }
    }
    assert_eq!(frames, [(vec![1, 2], 60), (vec![0xff], 60)]);
}

/// The numbers of interfaces, frames and final statistics of a capture file.
fn blocks(file: &Path) -> [usize; 3] {
    let content = std::fs::read(file).expect("a file");
    let mut reader = PcapNgReader::new(&content[..]).expect("of this format");
    let mut count = [0; 3];
    while let Some(block) = reader.next_block() {
        match block.expect("a block").0 {
            Block::InterfaceDescription(_) => count[0] += 1,
            Block::EnhancedPacket(_) => count[1] += 1,
            Block::InterfaceStatistics(_) => count[2] += 1,
            _ => {}
        }
    }
    count
}

#[test]
fn a_capture_of_all_ports_ends_with_the_backend() {
    let port = |name: &str| {
        json!({"name": name, "path": "/p", "connected": true, "link": true, "driver": "zcnic",
            "rings": []})
    };
    let status = json!({"return": {"ports": [port("0"), port("1")], "cables": []}});
    let frame = json!({"event": "frame", "data": {"port": "1", "direction": "rx", "time": 7,
        "length": 1, "bytes": "ff"}});
    let answers = vec![
        status,
        json!({"return": {}}),
        json!([{"return": {}}, frame.clone(), frame]),
    ];
    let (directory, path, server) = serve(answers);
    let file = directory.path().join("file");
    let (good, _, error) = zcnicctl(&path, &["capture", "--all", file.to_str().expect("a path")]);
    assert!(good, "{error}");
    assert_eq!(error, "2 frames captured, 0 lost\n");
    let (good, _, error) = zcnicctl(&path, &["--port=1", "capture", "--all", "/no/such/file"]);
    assert!(
        !good && error.contains("leave out --port or --all"),
        "{error}"
    );
    let requests = server.join().expect("server");
    assert_eq!(requests[1]["arguments"]["port"], "0");
    assert_eq!(requests[2]["arguments"]["port"], "1");
    assert_eq!(blocks(&file), [2, 2, 2]);
}

#[test]
fn a_capture_ends_with_a_signal_and_a_complete_file() {
    for signal in ["-INT", "-TERM"] {
        let frame = |bytes: &str| {
            json!({"event": "frame", "data": {"port": "1", "direction": "rx", "time": 7,
                "length": 1, "bytes": bytes}})
        };
        let answers = vec![
            json!([{"return": {}}, frame("01")]),
            // Frames that were on their way, and the number of those that were dropped.
            json!([frame("02"), {"event": "lost", "data": {"count": 4}}, {"return": {}}]),
        ];
        let (directory, path, server) = serve(answers);
        let file = directory.path().join("file");
        let mut zcnicctl = Command::new(env!("CARGO_BIN_EXE_zcnicctl"))
            .arg("--socket")
            .arg(&path)
            .args(["capture", "--port=1"])
            .arg(&file)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("zcnicctl");
        let written = || std::fs::metadata(&file).is_ok_and(|file| file.len() > 0);
        while !written() || blocks(&file)[1] == 0 {
            thread::sleep(std::time::Duration::from_millis(10));
        }
        let id = zcnicctl.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status();
        assert!(sent.expect("kill").success());
        let mut error = String::new();
        let stderr = zcnicctl.stderr.as_mut().expect("a pipe");
        std::io::Read::read_to_string(stderr, &mut error).expect("text");
        assert!(zcnicctl.wait().expect("an end").success(), "{error}");
        assert_eq!(error, "2 frames captured, 4 lost\n");
        assert_eq!(server.join().expect("server").len(), 2);
        assert_eq!(blocks(&file), [1, 2, 1]);
    }
}

#[test]
fn zcnicctl_reports_errors_in_one_line() {
    let refusal = json!({"error": {"class": "NotFound", "desc": "No flow counter 9"}});
    let (_directory, path, server) = serve(vec![refusal]);
    let (good, _, error) = zcnicctl(&path, &["flow", "query", "9"]);
    assert!(!good);
    assert_eq!(error, "zcnicctl: No flow counter 9\n");
    server.join().expect("server");
    let (good, _, error) = zcnicctl(Path::new("/no/such/socket"), &["status"]);
    assert!(!good);
    assert!(
        error.starts_with("zcnicctl: Can't connect to /no/such/socket: "),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1);
}
