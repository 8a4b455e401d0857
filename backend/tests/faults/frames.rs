//! Frames that are dropped, duplicated, corrupted, misplaced or delayed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::{Value, json};
use zcnic_ctl::protocol::fault::Action;
use zcnic_device::fault::ACTIONS;
use zcnic_model::Shape;
use zcnic_model::frames::{Flow, pattern};
use zcnic_model::transmit::Packet;
use zcnic_model::vhost_user::PATIENCE;

use crate::{
    common::World,
    lab::{Lab, frames, order},
};

#[test]
fn hits_of_rules_are_published_and_listed() {
    let mut lab = Lab::new();
    let id = lab.third("rx", json!("drop"));
    lab.send();
    assert_eq!(lab.received(4), order(&[0, 1, 3, 4]));
    let status = lab.wait(id, 1);
    assert_eq!((&status["seen"], &status["hits"]), (&json!(5), &json!(1)));
    let mut event = lab.event();
    let data = event["data"].as_object_mut().expect("an object");
    let time = data.remove("time").expect("a time");
    assert!(time.as_u64().is_some_and(|time| time > 0));
    assert_eq!(
        event,
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
fn frames_are_dropped_duplicated_and_reordered_in_both_directions() {
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
            for world in World::connected() {
                let mut lab = Lab::over(world);
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
}

#[test]
fn frames_are_corrupted_in_both_directions() {
    for direction in ["rx", "tx"] {
        let mut lab = Lab::new();
        lab.third(direction, json!({"corrupt": {"bit": 800}}));
        lab.send();
        let mut expected = frames();
        expected[2][100] ^= 0x80;
        // The driver verifies the checksum verdict.
        assert_eq!(lab.received(5), expected);

        let mut lab = Lab::new();
        lab.b.accept_anything();
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
    lab.b.accept_anything();
    lab.third("rx", json!({"wrong-checksum": {}}));
    lab.send();
    let verdicts: Vec<_> = (0..5).map(|_| lab.b.receive(0).checksum()).collect();
    assert_eq!(verdicts, [true, true, false, true, true].map(Some));
}

#[test]
fn a_wrong_split_is_the_one_that_the_rule_names() {
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

/// Violations that a strict driver reports.
#[test]
fn violations_of_the_abi_are_noticed_by_a_strict_driver() {
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

/// Two runs with the same seed, in two backends, have the same hits.
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
        lab.b.accept_anything();
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
        let log: Vec<_> = (0..hits)
            .map(|_| {
                let mut event = lab.event();
                event["data"]["time"].take();
                event
            })
            .collect();
        (log, received)
    };
    let first = run(5);
    assert!(first.0.len() > 10);
    assert!(first == run(5));
    assert!(first.0 != run(6).0);
}

/// A fault on frames that wait for buffers, and on trains of many segments.
#[test]
fn a_rule_hits_one_segment_of_a_train() {
    let mut lab = Lab::new();
    let id = lab.add("1", json!({"direction": "rx", "nth": 4, "action": "drop"}));
    let packet = Packet::from(Flow::tcp4().frame(&pattern(5000)));
    lab.a.send(0, packet.segmented(1000));
    let received: Vec<_> = (0..4).map(|_| lab.b.receive(0).frame.len()).collect();
    assert_eq!(received, [1054; 4]);
    assert_eq!(lab.wait(id, 1)["seen"], 5);
}

#[test]
fn fault_wait_ends_at_its_timeout_or_with_the_rule() {
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
