//! Faults of commands and of the whole port: link, reset, disconnection.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zcnic_device::abi::{EVENT_LINK, EVENT_RESET, Status};
use zcnic_model::Shape;
use zcnic_model::driver::Failure;
use zcnic_model::vhost_user::{PATIENCE, used_indices};

use crate::lab::{Lab, frames, order};

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
    // The events of the link-set that allowed the carrier come first.
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
    // The timer's thread does it.
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

/// It resumes from the used index that it then finds.
#[test]
fn a_disconnected_frontend_finds_rings_that_no_longer_advance() {
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
