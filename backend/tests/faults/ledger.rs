//! The ledger: which side owns which buffer.

use serde_json::{Value, json};
use zcnic_model::Shape;

use crate::lab::{Lab, frames};

#[test]
fn the_ledger_sees_every_buffer() {
    let mut lab = Lab::new();
    for (mode, buffers) in [("counting", 0), ("full", 2)] {
        lab.b.stop_receive(0).expect("stop");
        lab.ask("ledger-set", json!({"port": "1", "mode": mode}));
        lab.b.post(0, Shape::SPLIT, 8);
        lab.b.start_receive(0, Shape::SPLIT).expect("start");
        lab.send();
        assert_eq!(lab.received(5), frames());
        let out = 5 * buffers;
        assert_eq!(numbers(&mut lab), [8, 5, 0, 3, out, 0], "{mode}");
        lab.b.post(0, Shape::SPLIT, 8);
        assert_eq!(numbers(&mut lab)[..4], [16, 5, 0, 11], "{mode}, no frame");
        lab.send();
        assert_eq!(lab.received(5), frames());
        assert_eq!(numbers(&mut lab)[..4], [16, 10, 0, 6], "{mode}, frames");
        lab.b.stop_receive(0).expect("stop");
        let event = lab.event()["data"].clone();
        let report = ["clean", "posted", "returned", "violations"].map(|name| event[name].clone());
        assert_eq!(
            report,
            [json!(true), json!(16), json!(16), json!(0)],
            "{mode}"
        );
    }
}

/// The counts of queue 0: posted, filled, unused, with the device, out, violations.
fn numbers(lab: &mut Lab) -> [u64; 6] {
    let ledger = lab.ask("query-ledger", json!({"port": "1"}));
    let queues = ledger["queues"].as_array().into_iter().flatten();
    let mut queues = queues.filter(|known| known["queue"] == 0);
    let queue = queues.next().expect("a ledger of queue 0");
    [
        "posted",
        "filled",
        "unused",
        "with-device",
        "out",
        "violations",
    ]
    .map(|name| queue[name].as_u64().expect("a number"))
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
    // The query records what was posted meanwhile.
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
    // The event and later answers have the buffer's life.
    let buffer = &event["data"]["buffers"][0];
    assert_eq!(buffer["address"], next.address.0, "{event}");
    assert_eq!(buffer["events"][0]["what"], "posted", "{event}");
    let found = event["data"]["time"].as_u64().expect("a time");
    assert!(
        buffer["events"][0]["time"]
            .as_u64()
            .is_some_and(|posted| posted <= found)
    );
    let page = |lab: &mut Lab, from: u64| {
        let asked = json!({"port": "1", "queue": 0, "from": from});
        lab.ask("ledger-buffers", asked)
    };
    let all = page(&mut lab, 0);
    assert_eq!(all["violations"], json!([event["data"]]));
    let addresses = |page: &Value| -> Vec<u64> {
        let buffers = page["buffers"].as_array().into_iter().flatten();
        buffers
            .filter_map(|buffer| buffer["address"].as_u64())
            .collect()
    };
    let known = addresses(&all);
    assert!(known.is_sorted() && known.contains(&next.address.0));
    let rest = page(&mut lab, next.address.0);
    assert_eq!(addresses(&rest)[0], next.address.0);
    assert!(rest.get("next").is_none());
}

/// A fault of the device itself is a violation, too.
#[test]
fn the_ledger_reports_what_faults_do() {
    let mut lab = Lab::new();
    lab.ask("ledger-set", json!({"port": "1", "mode": "full"}));
    lab.third("rx", json!("duplicate-completion"));
    lab.send();
    let event = lab.event();
    assert_eq!(event["event"], "fault-hit");
    let event = lab.event();
    assert_eq!(event["data"]["kind"], "not-posted", "{event}");
}
