//! Control clients whose fault rules multiply what a guest sends.

use serde_json::{Value, json};
use zcnic_ctl::client::Client;
use zcnic_model::{
    Driver, Packet,
    frames::{Flow, broadcast, pattern},
    vhost_user::Frontend,
};

use crate::attacked::{Target, attack, attack_to_the_end};

/// The longest delay, in nanoseconds.
const HOUR: u64 = 3_600_000_000_000;

/// Bytes that the rules of a port may take, and some that a batch takes meanwhile.
const MEMORY: u64 = (64 << 20) + (64 << 20);

/// Adds rules with these actions to a port.
fn arm(client: &mut Client, port: &str, direction: &str, actions: &[Value]) {
    let rule = |action: &Value| json!({"direction": direction, "action": action});
    let rules: Vec<_> = actions.iter().map(rule).collect();
    let added: Value = client
        .execute("fault-add", Some(&json!({"port": port, "rules": rules})))
        .expect("valid rules");
    assert_eq!(added["ids"].as_array().map(Vec::len), Some(actions.len()));
}

/// A chain of 938 segments.
fn train() -> Packet {
    Packet::from(Flow::tcp4().frame(&pattern(60_000))).segmented(64)
}

/// Sends frames on the first queue of port 1 past these rules for what it sends or port 0 receives.
fn past(
    target: &Target,
    direction: &str,
    actions: &[Value],
    packets: impl IntoIterator<Item = Packet>,
) -> [Driver<Frontend>; 2] {
    let receiver = target.guest(0, 64);
    let mut sender = target.guest(1, 0);
    let port = if direction == "rx" { "0" } else { "1" };
    arm(&mut target.control(), port, direction, actions);
    let before = target.usage();
    for packet in packets {
        sender.enqueue(0, packet);
    }
    // A device that was reset, or withholds chains, returns none.
    let keeps =
        |action: &Value| action == "device-reset" || action.get("withhold-completion").is_some();
    if !actions.iter().any(keeps) {
        sender.flush(0);
    }
    let taken = target.usage().anonymous.saturating_sub(before.anonymous);
    assert!(taken < MEMORY, "the rules took {} MiB", taken >> 20);
    [receiver, sender]
}

/// Frames that rules dropped on port `port` because of a limit.
fn limit_drops(target: &Target, port: &str) -> u64 {
    let queues: Value = target
        .control()
        .execute("query-queues", Some(&json!({"port": port})))
        .expect("queues");
    let pairs = queues["pairs"].as_array().into_iter().flatten();
    let drops = pairs.flat_map(|pair| ["rx", "tx"].map(|ring| &pair[ring]["fault-limit-drops"]));
    drops.filter_map(Value::as_u64).sum()
}

fn duplicate() -> Value {
    json!({"duplicate": {"copies": 64}})
}

fn delay() -> Value {
    json!({"delay": {"nanoseconds": HOUR}})
}

#[test]
fn sixty_four_duplicates_of_what_is_sent() {
    attack(|target| {
        let drivers = past(target, "tx", &vec![duplicate(); 64], [train()]);
        assert!(limit_drops(target, "1") > 0, "the limit has a counter");
        drivers
    });
}

#[test]
fn sixty_four_duplicates_of_what_is_received() {
    attack(|target| {
        let drivers = past(
            target,
            "rx",
            &vec![duplicate(); 64],
            (0..8).map(|_| train()),
        );
        assert!(limit_drops(target, "0") > 0, "the limit has a counter");
        drivers
    });
}

#[test]
fn duplicates_on_both_ends_of_the_cable() {
    attack(|target| {
        arm(&mut target.control(), "0", "rx", &vec![duplicate(); 32]);
        past(
            target,
            "tx",
            &vec![duplicate(); 32],
            (0..4).map(|_| train()),
        )
    });
}

#[test]
fn duplicates_that_are_held_for_an_hour_on_transmit() {
    attack(|target| {
        let actions = [duplicate(), delay()];
        let long = || Packet::from(Flow::udp4().frame(&pattern(9000)));
        let drivers = past(target, "tx", &actions, (0..400).map(|_| long()));
        assert!(limit_drops(target, "1") > 0, "the limit has a counter");
        drivers
    });
}

#[test]
fn frames_of_all_queues_held_for_an_hour_on_receive() {
    attack(|target| {
        let receiver = target.guest(0, 64);
        let mut sender = target.guest(1, 0);
        arm(&mut target.control(), "0", "rx", &[delay()]);
        let before = target.usage();
        for number in 0..20_000u16 {
            let flow = Flow::udp4().ports(number, 9);
            sender.enqueue(number % 2, flow.frame(&pattern(9000)));
        }
        (0..2).for_each(|queue| sender.flush(queue));
        let taken = target.usage().anonymous.saturating_sub(before.anonymous);
        assert!(taken < MEMORY, "the rules took {} MiB", taken >> 20);
        assert!(limit_drops(target, "0") > 0, "the limit has a counter");
        [receiver, sender]
    });
}

#[test]
fn frames_held_until_the_backend_ends() {
    attack_to_the_end(|target| {
        let frames = (0..500).map(|_| Packet::from(Flow::udp4().frame(&pattern(9000))));
        past(target, "tx", &[delay()], frames)
    });
}

#[test]
fn held_frames_looked_at_for_every_segment() {
    attack(|target| {
        let small = (0..5000).map(|_| Packet::from(broadcast(&pattern(46))));
        let [receiver, mut sender] =
            past(target, "tx", &[json!({"reorder": {"by": u32::MAX}})], small);
        for _ in 0..8 {
            sender.send(0, train());
        }
        [receiver, sender]
    });
}

#[test]
fn frames_redirected_to_a_queue_without_buffers() {
    attack(|target| {
        let actions = [json!({"wrong-queue": {"queue": 1}}), duplicate()];
        past(target, "rx", &actions, (0..8).map(|_| train()))
    });
}

#[test]
fn frames_redirected_to_the_last_queue_there_can_be() {
    attack(|target| {
        past(
            target,
            "rx",
            &[json!({"wrong-queue": {"queue": 127}})],
            [train()],
        )
    });
}

#[test]
fn hits_of_sixty_four_rules_for_clients_that_do_not_read() {
    attack(|target| {
        let clients: Vec<_> = (0..12)
            .map(|_| {
                let mut client = target.control();
                let _: Value = client
                    .execute("subscribe", Some(&json!({"events": ["fault-hit"]})))
                    .expect("subscribed");
                client
            })
            .collect();
        let rules = vec![json!({"wrong-hash": {}}); 64];
        (past(target, "rx", &rules, (0..8).map(|_| train())), clients)
    });
}

#[test]
fn carriers_taken_away_by_every_frame() {
    attack(|target| {
        let flap = json!({"link-flap": {"nanoseconds": 1_000_000}});
        let frames = (0..2000).map(|_| Packet::from(broadcast(b"flap")));
        past(target, "tx", &[flap], frames)
    });
}

#[test]
fn devices_reset_by_every_frame() {
    attack(|target| {
        let frames = (0..200).map(|_| Packet::from(broadcast(b"reset")));
        past(target, "tx", &[json!("device-reset")], frames)
    });
}

#[test]
fn chains_withheld_until_the_ring_is_full() {
    attack(|target| {
        let frames = (0..900).map(|_| Packet::from(broadcast(b"kept")));
        past(target, "tx", &[json!({"withhold-completion": {}})], frames)
    });
}

#[test]
fn receive_chains_withheld_until_the_ring_is_full() {
    attack(|target| {
        let frames = (0..200).map(|_| Packet::from(broadcast(b"kept")));
        past(
            target,
            "rx",
            &[json!({"withhold-completion": {"frames": 1_000_000}})],
            frames,
        )
    });
}

#[test]
fn rules_added_and_removed_while_chains_are_withheld_from_a_broken_ring() {
    attack(|target| {
        let mut client = target.control();
        let mut sender = target.guest(1, 0);
        arm(
            &mut client,
            "1",
            "tx",
            &[json!({"withhold-completion": {}})],
        );
        sender.enqueue(0, broadcast(b"kept"));
        sender.pairs()[0]
            .transmit
            .ring_mut()
            .forge_available_index(0x7fff);
        zcnic_model::Transport::kick(sender.transport(), 1);
        for _ in 0..500 {
            arm(&mut client, "1", "rx", &[json!("drop")]);
            let _: Value = client
                .execute("fault-remove", Some(&json!({"port": "1"})))
                .expect("rules");
        }
        sender
    });
}

/// A test for each action with the largest parameter, which is armed or refused.
macro_rules! extremes {
    ($($name:ident: $direction:expr, $action:tt, $armed:expr;)*) => {
        $(#[test]
        fn $name() {
            attack(|target| {
                let rule = json!({"direction": $direction, "action": $action});
                let arguments = json!({"port": "0", "rules": [rule]});
                let added = target.control().execute::<Value>("fault-add", Some(&arguments));
                assert_eq!(added.is_ok(), $armed, "{added:?}");
                let _receiver = target.guest(0, 32);
                let mut sender = target.guest(1, 0);
                for frame in 0..40 {
                    sender.send(0, Flow::tcp4().frame(&pattern(100 * frame)));
                }
            });
        })*
    };
}

extremes! {
    a_delay_of_584_years: "rx", {"delay": {"nanoseconds": u64::MAX}}, false;
    a_delay_of_no_time: "rx", {"delay": {"nanoseconds": 0}}, false;
    four_thousand_million_copies: "rx", {"duplicate": {"copies": u32::MAX}}, false;
    one_copy_too_many: "rx", {"duplicate": {"copies": 65}}, false;
    a_reordering_behind_four_thousand_million_frames: "rx", {"reorder": {"by": u32::MAX}}, true;
    a_frame_of_no_bytes: "rx", {"truncate": {"length": 0}}, false;
    four_gibibytes_missing_from_a_buffer: "rx", {"short-buffer": {"bytes": u32::MAX}}, true;
    a_split_at_4_gibibytes: "rx", {"split-wrong": {"at": u32::MAX}}, true;
    a_queue_that_does_not_exist: "rx", {"wrong-queue": {"queue": 65535}}, false;
    a_used_id_beyond_all: "rx", {"bad-used-id": {"beyond": u32::MAX}}, true;
    a_stall_of_584_years: "rx", {"stall": {"nanoseconds": u64::MAX}}, false;
    a_carrier_lost_for_584_years: "rx", {"link-flap": {"nanoseconds": u64::MAX}}, false;
    the_last_bit_there_can_be: "rx", {"corrupt": {"bit": u32::MAX}}, true;
}

#[test]
fn one_rule_more_than_a_port_has() {
    attack(|target| {
        let rules = vec![json!({"direction": "rx", "action": "drop"}); 65];
        let arguments = json!({"port": "0", "rules": rules});
        let added = target
            .control()
            .execute::<Value>("fault-add", Some(&arguments));
        assert!(added.is_err(), "all or none");
    });
}
