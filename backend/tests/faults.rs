//! Faults on demand and the ledger, over a real backend: the control socket on one side, a strict driver on
//! the other.

mod common;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use common::World;
use serde_json::{Value, json};
use zcnic_ctl::{client::Client, protocol::fault::Action};
use zcnic_device::{
    abi::{EVENT_LINK, EVENT_RESET, Status},
    fault::ACTIONS,
};
use zcnic_model::{
    Driver, Shape,
    driver::Failure,
    frames::{Flow, pattern},
    transmit::Packet,
    vhost_user::{Frontend, PATIENCE, used_indices},
};

/// How long nothing has to happen to be sure that it does not.
const QUIET: Duration = Duration::from_millis(200);

/// Two ports, a client of the control socket, and drivers with 2 data pairs.
struct Lab {
    world: World,
    control: Client,
    a: Driver<Frontend>,
    b: Driver<Frontend>,
}

#[expect(clippy::needless_pass_by_value, reason = "made on the spot")]
impl Lab {
    fn new() -> Self {
        let world = World::new();
        let mut control = world.control();
        let all = json!({"events": ["fault-hit", "violation", "queue-stop", "link", "connection"]});
        let [mut a, mut b] = world.drivers(3);
        a.bring_up(Shape::SPLIT, 8);
        b.bring_up(Shape::SPLIT, 32);
        let _: Value = control
            .execute("subscribe", Some(&all))
            .expect("subscribed");
        Self {
            world,
            control,
            a,
            b,
        }
    }

    fn ask(&mut self, command: &str, arguments: Value) -> Value {
        self.control
            .execute(command, Some(&arguments))
            .unwrap_or_else(|error| panic!("{command} {arguments}: {error}"))
    }

    fn add(&mut self, port: &str, rule: Value) -> u64 {
        let added = self.ask("fault-add", json!({"port": port, "rules": [rule]}));
        added["ids"][0].as_u64().expect("a number")
    }

    /// A rule for the third frame that port 1 receives, or that port 0 sends.
    fn third(&mut self, direction: &str, action: Value) -> u64 {
        let port = if direction == "rx" { "1" } else { "0" };
        self.add(
            port,
            json!({"direction": direction, "nth": 3, "action": action}),
        )
    }

    fn wait(&mut self, id: u64, hits: u64) -> Value {
        let timeout = PATIENCE.as_nanos() as u64;
        self.ask(
            "fault-wait",
            json!({"id": id, "hits": hits, "timeout": timeout}),
        )
    }

    /// Sends five frames that can be told apart.
    fn send(&mut self) {
        for frame in frames() {
            self.a.send(0, frame);
        }
    }

    /// What arrives of them, which are `count`.
    fn received(&mut self, count: usize) -> Vec<Vec<u8>> {
        let received = (0..count).map(|_| self.b.receive(0).frame).collect();
        // All that there is has been put there when the sender's chains were returned.
        assert_eq!(self.b.receive_all(), [], "there are more");
        received
    }

    fn event(&mut self) -> Value {
        let event = self.control.event(Some(PATIENCE)).expect("an event");
        serde_json::to_value(event).expect("JSON")
    }
}

fn frames() -> Vec<Vec<u8>> {
    (0..5)
        .map(|number| Flow::tcp4().frame(&pattern(1000 + 10 * number)))
        .collect()
}

fn order(numbers: &[usize]) -> Vec<Vec<u8>> {
    numbers
        .iter()
        .map(|&number| frames()[number].clone())
        .collect()
}

#[test]
fn rules_hit_are_told_of_and_listed() {
    let mut lab = Lab::new();
    let id = lab.third("rx", json!("drop"));
    lab.send();
    assert_eq!(lab.received(4), order(&[0, 1, 3, 4]));
    let status = lab.wait(id, 1);
    assert_eq!((&status["seen"], &status["hits"]), (&json!(5), &json!(1)));
    assert_eq!(
        lab.event(),
        json!({"event": "fault-hit", "data": {"port": "1", "id": id, "action": "drop",
            "direction": "rx", "queue": 0, "count": 3, "hit": 1}})
    );
    let list = lab.ask("fault-list", json!({}));
    assert_eq!(list["faults"][0]["rule"]["nth"], 3);
    lab.ask("fault-remove", json!({"id": id}));
    assert_eq!(lab.ask("fault-list", json!({})), json!({"faults": []}));
    lab.send();
    assert_eq!(lab.received(5), frames());
}

#[test]
fn frames_are_lost_doubled_and_disordered_on_both_sides() {
    for direction in ["rx", "tx"] {
        for (action, arrive) in [
            (json!("drop"), vec![0, 1, 3, 4]),
            (
                json!({"duplicate": {"copies": 2}}),
                vec![0, 1, 2, 2, 2, 3, 4],
            ),
            (json!({"reorder": {"by": 1}}), vec![0, 1, 3, 2, 4]),
            (
                json!({"delay": {"nanoseconds": 20_000_000}}),
                vec![0, 1, 3, 4, 2],
            ),
        ] {
            let mut lab = Lab::new();
            lab.third(direction, action.clone());
            lab.send();
            assert_eq!(
                lab.received(arrive.len()),
                order(&arrive),
                "{direction} {action}"
            );
        }
    }
}

#[test]
fn frames_are_damaged_on_both_sides() {
    for direction in ["rx", "tx"] {
        let mut lab = Lab::new();
        lab.third(direction, json!({"corrupt": {"bit": 800}}));
        lab.send();
        let mut expected = frames();
        expected[2][100] ^= 0x80;
        // The driver checks that the verdict is right.
        assert_eq!(lab.received(5), expected);

        let mut lab = Lab::new();
        lab.b.accept_any_verdict();
        lab.third(direction, json!({"truncate": {"length": 60}}));
        lab.send();
        let mut expected = frames();
        expected[2].truncate(60);
        assert_eq!(lab.received(5), expected);
    }
}

#[test]
fn frames_go_to_the_wrong_queue() {
    let mut lab = Lab::new();
    lab.third("rx", json!({"wrong-queue": {"queue": 1}}));
    lab.send();
    assert_eq!(lab.b.receive(1).frame, frames()[2]);
    assert_eq!(lab.received(4), order(&[0, 1, 3, 4]));
}

#[test]
fn metadata_is_wrong() {
    let mut lab = Lab::new();
    lab.third("rx", json!({"wrong-hash": {"value": 77}}));
    lab.send();
    let hashes: Vec<_> = (0..5).map(|_| lab.b.receive(0).header.hash.get()).collect();
    assert_eq!(hashes[2], 77);
    assert!(hashes.iter().filter(|hash| **hash == 77).count() == 1);

    let mut lab = Lab::new();
    lab.b.accept_any_verdict();
    lab.third("rx", json!({"wrong-checksum": {}}));
    lab.send();
    let verdicts: Vec<_> = (0..5).map(|_| lab.b.receive(0).checksum()).collect();
    assert_eq!(verdicts, [true, true, false, true, true].map(Some));
}

#[test]
fn a_wrong_split_is_what_was_asked_for() {
    for (action, header_length) in [
        (json!({"split-wrong": {"at": 20}}), 20),
        (json!("payload-in-header"), 192),
    ] {
        let mut lab = Lab::new();
        lab.third("rx", action);
        lab.send();
        let lengths: Vec<_> = (0..5)
            .map(|_| lab.b.receive(0).header.header_length.get())
            .collect();
        assert_eq!(lengths, [54, 54, header_length, 54, 54]);
    }
}

/// What a strict driver objects to.
#[test]
fn what_breaks_the_abi_is_noticed() {
    for (action, objection) in [
        (json!({"short-buffer": {"bytes": 5}}), "used length of"),
        (json!("split-missed"), "SPLIT in"),
        (json!({"bad-used-id": {}}), "available order"),
        (json!("duplicate-completion"), "available order"),
        (
            json!({"withhold-completion": {"frames": 1}}),
            "available order",
        ),
    ] {
        let mut lab = Lab::new();
        lab.third("rx", action.clone());
        lab.send();
        let end = catch_unwind(AssertUnwindSafe(|| lab.received(5)));
        let message = end.expect_err("the driver objects");
        let message = message.downcast_ref::<String>().map_or("", String::as_str);
        assert!(message.contains(objection), "{action}: {message}");
    }
}

#[test]
fn a_descriptor_error_returns_a_buffer_unused() {
    let mut lab = Lab::new();
    lab.third("rx", json!("descriptor-error"));
    lab.send();
    assert_eq!(lab.received(4), order(&[0, 1, 3, 4]));
    assert_eq!((lab.b.take_returned(0), lab.b.posted(0)), (1, 32 - 5));

    let mut lab = Lab::new();
    lab.third("tx", json!("descriptor-error"));
    lab.send();
    assert_eq!(lab.received(4), order(&[0, 1, 3, 4]));
    assert_eq!(lab.a.stats().1[0].tx_errors.get(), 1);
}

#[test]
fn withheld_chains_come_back_before_a_stop_completes() {
    let mut lab = Lab::new();
    lab.add(
        "1",
        json!({"direction": "rx", "every": 1, "action": {"withhold-completion": {}}}),
    );
    lab.send();
    assert_eq!(lab.b.receive_all(), []);
    let queues = lab.ask("query-queues", json!({"port": "1"}));
    assert_eq!(queues["pairs"][0]["rx"]["held-chains"], 5);
    assert_eq!(lab.b.stop_receive(0), Ok(32 - 5));
    assert_eq!(lab.received(5), frames());
}

#[test]
fn withheld_chains_come_back_before_a_ring_stops() {
    let mut lab = Lab::new();
    lab.add(
        "1",
        json!({"direction": "rx", "every": 1, "action": {"withhold-completion": {}}}),
    );
    lab.send();
    let base = lab.b.transport().stop_ring(0);
    assert_eq!(base, 5);
    assert_eq!(lab.received(5), frames());
    // The ring goes on there.
    lab.ask("fault-remove", json!({"port": "1"}));
    lab.b.transport().start_ring(0, base);
    lab.b.transport().enable(0, true);
    lab.send();
    assert_eq!(lab.received(5), frames());
}

#[test]
fn a_queue_stalls() {
    let mut lab = Lab::new();
    let id = lab.third("rx", json!({"stall": {}}));
    lab.send();
    assert_eq!(lab.received(2), order(&[0, 1]));
    lab.ask("fault-remove", json!({"id": id}));
    lab.send();
    assert_eq!(lab.received(5), frames());

    // A transmit queue keeps what it does not send.
    let id = lab.third("tx", json!({"stall": {}}));
    for frame in frames() {
        lab.a.enqueue(0, frame);
    }
    lab.wait(id, 1);
    assert_eq!(lab.received_by(3), order(&[0, 1, 2]));
    assert_eq!(lab.b.receive_all(), []);
    lab.ask("fault-remove", json!({"id": id}));
    assert_eq!(lab.received_by(2), order(&[3, 4]));
    lab.a.flush(0);

    lab.third("tx", json!({"stall": {"nanoseconds": 30_000_000}}));
    let start = Instant::now();
    for frame in frames() {
        lab.a.enqueue(0, frame);
    }
    assert_eq!(lab.received_by(5), frames());
    assert!(start.elapsed() >= Duration::from_millis(30));
    lab.a.flush(0);
}

impl Lab {
    /// The next frames, without saying that there are no more.
    fn received_by(&mut self, count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| self.b.receive(0).frame).collect()
    }
}

#[test]
fn interrupts_are_lost_and_made_up() {
    let mut lab = Lab::new();
    lab.a.send(0, &frames()[0]);
    assert_eq!(lab.received(1), order(&[0]));
    // That of the first frame, and of what came before.
    while lab.b.transport().interrupted(0, QUIET) {}
    lab.add(
        "1",
        json!({"direction": "rx", "nth": 1, "action": "lost-interrupt"}),
    );
    lab.a.send(0, &frames()[1]);
    let lost = lab.b.transport().interrupted(0, QUIET);
    assert!(!lost, "the interrupt is lost");
    // Who looks finds the frame.
    assert_eq!(
        lab.b.try_receive(0).map(|got| got.frame),
        Some(frames()[1].clone())
    );

    // One for which the driver did not ask, because it has not looked since the last one.
    lab.a.send(0, &frames()[2]);
    assert!(lab.b.transport().interrupted(0, PATIENCE));
    lab.a.send(0, &frames()[3]);
    assert!(!lab.b.transport().interrupted(0, QUIET));
    lab.add(
        "1",
        json!({"direction": "rx", "nth": 1, "action": "spurious-interrupt"}),
    );
    lab.a.send(0, &frames()[4]);
    assert!(lab.b.transport().interrupted(0, PATIENCE));
    assert_eq!(lab.received(3), order(&[2, 3, 4]));
}

#[test]
fn commands_fail() {
    let mut lab = Lab::new();
    let error = json!({"command-error": {"status": "busy", "detail": 42}});
    lab.add(
        "1",
        json!({"direction": "command", "opcode": "rx-mode", "nth": 2, "action": error}),
    );
    let all = |lab: &mut Lab| lab.b.receive_mode(1, &[]);
    assert_eq!(all(&mut lab), Ok(()));
    assert_eq!(all(&mut lab), Err(Failure::refused(Status::Busy, 42)));
    assert_eq!(all(&mut lab), Ok(()));
    assert_eq!(lab.b.stats().0.commands_refused.get(), 1);
}

#[test]
fn commands_are_answered_late_and_not_executed() {
    let mut lab = Lab::new();
    for (executed, outcome) in [(true, Ok(())), (false, Err(Failure::NotExecuted))] {
        let late = json!({"command-timeout": {"executed": executed, "nanoseconds": 40_000_000}});
        let id = lab.add(
            "1",
            json!({"direction": "command", "nth": 1, "action": late}),
        );
        let start = Instant::now();
        assert_eq!(lab.b.receive_mode(1, &[]), outcome);
        assert!(start.elapsed() >= Duration::from_millis(40));
        lab.ask("fault-remove", json!({"id": id}));
    }
}

#[test]
fn the_link_goes_and_comes() {
    let mut lab = Lab::new();
    lab.a.post_events(4);
    lab.b.post_events(4);
    lab.ask("link-set", json!({"port": "0", "up": false}));
    for driver in [&mut lab.a, &mut lab.b] {
        assert_eq!(driver.event().pending.get(), EVENT_LINK);
        assert_eq!(driver.status().flags.get(), 0, "no link");
    }
    for port in ["0", "1"] {
        assert_eq!(
            lab.event(),
            json!({"event": "link", "data": {"port": port, "up": false}})
        );
    }
    lab.send();
    assert_eq!(lab.b.receive_all(), []);
    lab.ask("link-set", json!({"port": "0", "up": true}));
    lab.send();
    assert_eq!(lab.received(5), frames());

    lab.third("rx", json!({"link-flap": {"nanoseconds": 1_000_000}}));
    lab.send();
    let mut states = Vec::new();
    while states.len() < 6 {
        let event = lab.event();
        if event["event"] == "link" {
            states.push((event["data"]["port"].clone(), event["data"]["up"].clone()));
        }
    }
    // Those of link-set to up come first.
    let up: Vec<_> = states.iter().map(|(_, up)| up == &json!(true)).collect();
    assert_eq!(up, [true, true, false, false, true, true]);
}

#[test]
fn the_device_resets() {
    let mut lab = Lab::new();
    lab.b.post_events(1);
    let id = lab.third("rx", json!("device-reset"));
    lab.send();
    lab.wait(id, 1);
    assert_eq!(lab.b.event().pending.get(), EVENT_RESET);
    let deadline = Instant::now() + PATIENCE;
    // It is done by another thread.
    let stale = Failure::refused(Status::Stale, 0);
    while lab.b.receive_mode(1, &[]) != Err(stale) {
        assert!(Instant::now() < deadline, "the session goes on");
    }
    lab.b.receive_all();
    lab.b.hello();
}

#[test]
fn the_frontend_is_disconnected() {
    let mut lab = Lab::new();
    lab.ask("disconnect", json!({"port": "0"}));
    loop {
        let event = lab.event();
        if event["event"] == "connection" {
            assert_eq!(event["data"], json!({"port": "0", "connected": false}));
            break;
        }
    }
    let mut again = lab.world.driver(0, 3);
    again.bring_up(Shape::SPLIT, 8);
    again.send(0, &frames()[0]);
    assert_eq!(lab.received(1), order(&[0]));
    let id = lab.add(
        "0",
        json!({"direction": "tx", "nth": 1, "action": "disconnect"}),
    );
    again.send(0, &frames()[1]);
    lab.wait(id, 1);
    loop {
        if lab.event()["event"] == "connection" {
            continue;
        }
        break;
    }
}

/// It goes on where the used rings are when it notices.
#[test]
fn a_frontend_that_is_disconnected_finds_rings_that_stand_still() {
    let mut lab = Lab::new();
    lab.b.post(0, Shape::SPLIT, 400);
    let Lab { control, a, b, .. } = &mut lab;
    let mut send = || a.send(0, frames().remove(0));
    std::thread::scope(|scope| {
        let port = json!({"port": "1"});
        let done = scope.spawn(move || control.execute::<Value>("disconnect", Some(&port)));
        while !done.is_finished() {
            send();
        }
        done.join().expect("no panic").expect("an answer");
    });
    let then = used_indices(b.parts().1);
    (0..100).for_each(|_| send());
    assert_eq!(used_indices(b.parts().1), then);
}

/// Two runs with the same seed, in two backends.
#[test]
fn a_run_replays_from_its_seed() {
    let run = |seed: u64| {
        let mut lab = Lab::new();
        let chance = |action: Value| json!({"direction": "rx", "probability": 0.2, "seed": seed, "action": action});
        let rules = json!([
            chance(json!("drop")),
            chance(json!({"corrupt": {}})),
            chance(json!({"wrong-hash": {}}))
        ]);
        lab.ask("fault-add", json!({"port": "1", "rules": rules}));
        lab.b.accept_any_verdict();
        let mut received = Vec::new();
        for _ in 0..10 {
            lab.b.post(0, Shape::SPLIT, 5);
            lab.send();
            received.extend(
                lab.b
                    .receive_all()
                    .into_iter()
                    .map(|(_, got)| (got.frame, got.header.hash.get())),
            );
        }
        let list = lab.ask("fault-list", json!({}));
        let hits: u64 = list["faults"]
            .as_array()
            .expect("rules")
            .iter()
            .filter_map(|rule| rule["hits"].as_u64())
            .sum();
        let log: Vec<_> = (0..hits).map(|_| lab.event()).collect();
        (log, received)
    };
    let first = run(5);
    assert!(first.0.len() > 10);
    assert!(first == run(5));
    assert!(first.0 != run(6).0);
}

/// A fault on frames that wait for buffers, and trains of many segments.
#[test]
fn trains_are_hit_in_one_segment() {
    let mut lab = Lab::new();
    let id = lab.add("1", json!({"direction": "rx", "nth": 4, "action": "drop"}));
    let packet = Packet::from(Flow::tcp4().frame(&pattern(5000)));
    lab.a.send(0, packet.segmented(1000));
    let received: Vec<_> = (0..4).map(|_| lab.b.receive(0).frame.len()).collect();
    assert_eq!(received, [1054; 4]);
    assert_eq!(lab.wait(id, 1)["seen"], 5);
}

#[test]
fn waiting_ends_in_time_or_with_the_rule() {
    let mut lab = Lab::new();
    let id = lab.third("rx", json!("drop"));
    let wait = json!({"id": id, "timeout": 10_000_000});
    let late = lab
        .control
        .execute::<Value>("fault-wait", Some(&wait))
        .expect_err("nothing hit");
    assert!(late.to_string().contains("0 of 1"), "{late}");
    let mut other = lab.world.control();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let wait = json!({"id": id, "timeout": PATIENCE.as_nanos() as u64});
            lab.control.execute::<Value>("fault-wait", Some(&wait))
        });
        let _: Value = other
            .execute("fault-remove", Some(&json!({"id": id})))
            .expect("removed");
        let gone = waiting
            .join()
            .expect("no panic")
            .expect_err("the rule is gone");
        assert_eq!(gone.to_string(), format!("No fault rule {id}"));
    });
}

#[test]
fn the_ledger_sees_every_buffer() {
    let mut lab = Lab::new();
    for (mode, out) in [("counting", 0), ("full", 10)] {
        lab.b.stop_receive(0).expect("stop");
        lab.ask("ledger-set", json!({"port": "1", "mode": mode}));
        lab.b.post(0, Shape::SPLIT, 8);
        lab.b.start_receive(0, Shape::SPLIT).expect("start");
        lab.send();
        assert_eq!(lab.received(5), frames());
        let ledger = lab.ask("query-ledger", json!({"port": "1"}));
        let queue = &ledger["queues"][0];
        let numbers = [
            "posted",
            "filled",
            "unused",
            "with-device",
            "out",
            "violations",
        ];
        let numbers = numbers.map(|name| queue[name].as_u64().expect("a number"));
        assert_eq!(numbers, [8, 5, 0, 3, out, 0], "{mode}");
        lab.b.stop_receive(0).expect("stop");
        let event = lab.event();
        assert_eq!(
            event,
            json!({"event": "queue-stop", "data": {"port": "1", "queue": 0, "clean": true,
                "posted": 8, "returned": 8, "violations": 0, "out": out}})
        );
    }
}

#[test]
fn the_ledger_knows_a_buffers_history() {
    let mut lab = Lab::new();
    lab.ask("ledger-set", json!({"port": "1", "mode": "full"}));
    lab.send();
    let (_, pairs, _) = lab.b.parts();
    let address = pairs[0].receive.ring().tokens().next().expect("posted")[1]
        .address
        .0;
    let history = lab.ask(
        "ledger-history",
        json!({"port": "1", "queue": 0, "address": address + 5}),
    );
    assert_eq!(
        (&history["address"], &history["events"][0]["what"]),
        (&json!(address), &json!("posted"))
    );
}

#[test]
fn buffers_posted_twice_and_written_to_are_found() {
    let mut lab = Lab::new();
    lab.ask(
        "ledger-set",
        json!({"port": "1", "mode": "full", "sanitize": true}),
    );
    // The ledger is told of what is posted now.
    lab.a.send(0, &frames()[0]);
    let (guest, pairs, _) = lab.b.parts();
    let next = pairs[0].receive.ring().tokens().nth(2).expect("posted")[1];
    guest.write(next, b"the driver writes to what is not its own");
    for frame in &frames()[1..] {
        lab.a.send(0, frame);
    }
    let event = lab.event();
    assert_eq!(event["data"]["kind"], "written", "{event}");
    assert!(
        event["data"]["desc"]
            .as_str()
            .is_some_and(|desc| desc.contains(&format!("{:#x}", next.address.0))),
        "{event}"
    );
}

/// A fault of the device itself is a violation, too.
#[test]
fn the_ledger_sees_what_faults_do() {
    let mut lab = Lab::new();
    lab.ask("ledger-set", json!({"port": "1", "mode": "full"}));
    lab.third("rx", json!("duplicate-completion"));
    lab.send();
    let event = lab.event();
    assert_eq!(event["event"], "fault-hit");
    let event = lab.event();
    assert_eq!(event["data"]["kind"], "not-posted", "{event}");
}

#[test]
fn the_protocol_names_the_devices_actions() {
    for info in ACTIONS {
        let with = |parameters: Value| {
            let mut action = serde_json::Map::new();
            action.insert(info.name.into(), parameters);
            serde_json::from_value::<Action>(Value::Object(action))
        };
        let known = serde_json::from_value::<Action>(json!(info.name)).is_ok()
            || with(json!({})).is_ok()
            || with(json!({"wrong": 1})).is_err_and(|error| !error.to_string().contains("variant"));
        assert!(known, "{}", info.name);
    }
}
