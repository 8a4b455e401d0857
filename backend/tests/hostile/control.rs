//! Control clients that send anything, never read, or take every connection.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestRng},
};
use serde_json::{Value, json};
use zcnic_ctl::client::Client;
use zcnic_model::vhost_user::PATIENCE;

use crate::attacked::{Target, attack, attack_to_the_end};

/// A connection to the control socket behind its greeting.
fn connection(target: &Target) -> UnixStream {
    let stream = UnixStream::connect(target.control_path()).expect("a listener");
    for set in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
        set(&stream, Some(PATIENCE)).expect("a socket has timeouts");
    }
    let mut greeting = Vec::new();
    while greeting.last() != Some(&b'\n') {
        let mut byte = [0];
        (&stream).read_exact(&mut byte).expect("a greeting");
        greeting.push(byte[0]);
    }
    stream
}

/// Sends bytes and reads until the backend has answered them all.
fn answers(target: &Target, bytes: &[u8]) -> String {
    let mut stream = connection(target);
    // The backend may end the connection before it has read everything.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    String::from_utf8(text).expect("answers are UTF-8")
}

/// A client that executes `command` and ignores the answer.
fn ask(client: &mut Client, command: &str, arguments: &Value) {
    let answer = client.execute::<Value>(command, Some(arguments));
    if let Err(error) = answer {
        assert!(error.class().is_some(), "{command}: {error}");
    }
}

/// A test for each line, with how often "error" occurs in the answers.
macro_rules! lines {
    ($($name:ident: $bytes:expr, $errors:expr;)*) => {
        $(#[test]
        fn $name() {
            attack(|target| {
                let bytes: Vec<u8> = $bytes.into();
                let text = answers(target, &bytes);
                let errors = text.lines().filter(|line| line.contains("\"error\"")).count();
                assert_eq!(errors, $errors, "{text:?}");
            });
        })*
    };
}

const QUERY: &str = "{\"execute\":\"query-status\"}\n";

fn nested(open: &str, middle: &str, close: &str, depth: usize) -> String {
    let (open, close) = (open.repeat(depth), close.repeat(depth));
    format!("{{\"execute\":\"query-status\",\"id\":{open}{middle}{close}}}\n")
}

lines! {
    a_line_of_noise: [&[0x93; 5000][..], b"\n"].concat(), 1;
    a_line_that_is_not_utf8: *b"{\"execute\":\"\xff\xfe\x80\"}\n", 1;
    a_line_of_zeroes: [&[0; 1000][..], b"\n"].concat(), 1;
    a_line_without_an_end: "{\"execute\":\"query-status\"", 1;
    arrays_sixty_thousand_deep: format!("{}\n", "[".repeat(60_000)), 1;
    objects_nine_thousand_deep: nested("{\"a\":", "1", "}", 9000), 1;
    an_id_that_is_a_hundred_arrays_deep: nested("[", "", "]", 100), 0;
    an_id_that_is_thirty_thousand_arrays_deep: nested("[", "", "]", 30_000), 1;
    a_line_of_spaces: format!("{}\n", " ".repeat(65_534)), 0;
    the_longest_line: format!("{}\n", "x".repeat(65_535)), 1;
    a_line_one_byte_too_long: format!("{}\n", "x".repeat(65_536)), 1;
    ten_megabytes_without_an_end: vec![b'A'; 10_000_000], 1;
    a_number_beyond_all: "{\"execute\":\"query-status\",\"id\":1e999999}\n", 1;
    a_surrogate_alone: "{\"execute\":\"\\ud800\"}\n", 1;
    a_member_twice: "{\"execute\":\"query-status\",\"execute\":\"disconnect\"}\n", 1;
    lines_that_end_as_on_another_system: "{\"execute\":\"query-status\"}\r\n", 0;
    a_hundred_commands_at_once: QUERY.repeat(100), 0;
    values_that_are_no_requests: "null\n1\n\"x\"\n[]\n{}\n", 5;
    a_command_with_a_long_name: format!("{{\"execute\":\"{}\"}}\n", "a".repeat(60_000)), 1;
    two_thousand_subscriptions_in_one: json!({
        "execute": "subscribe", "arguments": {"events": vec!["link"; 2000]}
    }).to_string() + "\n", 0;
}

#[test]
fn empty_lines_as_fast_as_they_are_taken() {
    attack(|target| {
        let mut stream = connection(target);
        let lines = [b'\n'; 65_536];
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) {
            stream.write_all(&lines).expect("they are read");
        }
    });
}

#[test]
fn a_thousand_mutations_of_good_requests() {
    attack(|target| {
        let good = [
            json!({"execute": "fault-add", "arguments": {"port": "0", "rules": [
                {"direction": "rx", "action": {"delay": {"nanoseconds": 5}}}]}}),
            json!({"execute": "fault-wait", "arguments": {"id": 1, "timeout": 1000}}),
            json!({"execute": "ledger-set", "arguments":
                {"port": "0", "mode": "full", "sanitize": true}}),
            json!({"execute": "flow-counter-add", "arguments":
                {"port": "0", "match": {"source": "1.2.3.4"}}}),
            json!({"execute": "features-set", "arguments": {"port": "0", "offered": ["gro"]}}),
            json!({"execute": "capture-start", "arguments": {"port": "0", "length": 5}}),
            json!({"execute": "ledger-history", "arguments":
                {"port": "0", "queue": 1, "address": 4096}}),
        ];
        let good = good.map(|request| request.to_string().into_bytes());
        let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut below = |limit: usize| rng.next_u32() as usize % limit;
        let mut reader = BufReader::new(connection(target));
        let mut answered = 0;
        for round in 0..1000 {
            let mut line = good[round % good.len()].clone();
            for _ in 0..=below(4) {
                let at = below(line.len());
                line[at] = b"0123456789{}[]\",:-eE.\\aZ\xff"[below(24)];
            }
            line.push(b'\n');
            reader.get_mut().write_all(&line).expect("they are read");
            let mut answer = String::new();
            answered += reader.read_line(&mut answer).expect("an answer").min(1);
        }
        assert_eq!(answered, 1000);
    });
}

#[test]
fn more_clients_than_are_served() {
    attack(|target| {
        // One is the neighbours'.
        let clients: Vec<_> = (0..15).map(|_| connection(target)).collect();
        let mut refused = 0;
        for _ in 0..500 {
            let mut line = String::new();
            let stream = UnixStream::connect(target.control_path()).expect("a listener");
            BufReader::new(stream).read_line(&mut line).expect("a line");
            refused += usize::from(line.contains("clients already"));
        }
        assert_eq!(refused, 500);
        drop(clients);
    });
}

#[test]
fn clients_that_connect_and_leave_at_once() {
    attack(|target| {
        for _ in 0..500 {
            UnixStream::connect(target.control_path()).expect("a listener");
        }
    });
}

#[test]
fn a_client_that_subscribes_and_never_reads() {
    attack_to_the_end(|target| {
        let mut deaf = connection(target);
        let all = json!({"execute": "subscribe", "arguments": {"events":
            ["fault-hit", "violation", "queue-stop", "link", "connection"]}});
        deaf.write_all(format!("{all}\n").as_bytes())
            .expect("it is read");
        let mut client = target.control();
        for round in 0..2000 {
            ask(
                &mut client,
                "link-set",
                &json!({"port": "0", "up": round % 2 == 1}),
            );
        }
        deaf
    });
}

#[test]
fn a_client_that_asks_and_never_reads() {
    attack(|target| {
        let mut deaf = connection(target);
        deaf.set_write_timeout(Some(Duration::from_secs(1)))
            .expect("timeouts");
        let query = "{\"execute\":\"query-stats\"}\n".repeat(100);
        // Until all queues are full, or the backend has ended the connection.
        let writes = (0..2000).take_while(|_| deaf.write_all(query.as_bytes()).is_ok());
        assert!(writes.count() < 2000, "nothing holds it up");
    });
}

#[test]
fn subscriptions_changed_ten_thousand_times() {
    attack(|target| {
        let mut client = target.control();
        for _ in 0..10_000 {
            ask(&mut client, "subscribe", &json!({"events": ["link"]}));
        }
    });
}

#[test]
fn captures_started_and_stopped_a_thousand_times() {
    attack(|target| {
        let mut client = target.control();
        for _ in 0..1000 {
            ask(&mut client, "capture-start", &json!({"port": "0"}));
            ask(&mut client, "capture-stop", &json!({"port": "0"}));
        }
    });
}

#[test]
fn ports_reset_and_disconnected_two_hundred_times() {
    attack(|target| {
        let mut client = target.control();
        for _ in 0..200 {
            for port in ["0", "1"] {
                ask(&mut client, "device-reset", &json!({"port": port}));
                ask(&mut client, "disconnect", &json!({"port": port}));
                for up in [false, true] {
                    ask(&mut client, "link-set", &json!({"port": port, "up": up}));
                }
            }
        }
    });
}

#[test]
fn flow_counters_without_end() {
    attack(|target| {
        let mut client = target.control();
        let mut ids = Vec::new();
        for _ in 0..200 {
            let arguments = json!({"port": "0", "match": {}});
            let added = client.execute::<Value>("flow-counter-add", Some(&arguments));
            ids.extend(added.ok().and_then(|added| added["id"].as_u64()));
        }
        assert_eq!(ids.len(), 64, "a port has so many");
        let mut hostile = target.guest(1, 64);
        for _ in 0..50 {
            hostile.send(0, zcnic_model::frames::broadcast(b"counted"));
        }
        for id in ids {
            ask(&mut client, "flow-counter-remove", &json!({"id": id}));
        }
    });
}

#[test]
fn waits_of_584_years_whose_clients_are_gone() {
    attack(|target| {
        let mut client = target.control();
        let rule = json!({"direction": "rx", "action": "drop"});
        let added: Value = client
            .execute("fault-add", Some(&json!({"port": "0", "rules": [rule]})))
            .expect("a rule");
        let wait = json!({"execute": "fault-wait", "arguments":
            {"id": added["ids"][0], "timeout": u64::MAX}});
        for _ in 0..12 {
            connection(target)
                .write_all(format!("{wait}\n").as_bytes())
                .expect("it is read");
        }
    });
}

#[test]
fn waits_that_last_until_the_backend_ends() {
    attack_to_the_end(|target| {
        let mut client = target.control();
        let rule = json!({"direction": "rx", "action": "drop"});
        let added: Value = client
            .execute("fault-add", Some(&json!({"port": "0", "rules": [rule]})))
            .expect("a rule");
        let wait = json!({"execute": "fault-wait", "arguments":
            {"id": added["ids"][0], "timeout": 1u64 << 60}});
        let waits = (0..12).map(|_| {
            let mut stream = connection(target);
            stream
                .write_all(format!("{wait}\n").as_bytes())
                .expect("it is read");
            stream
        });
        waits.collect::<Vec<_>>()
    });
}
