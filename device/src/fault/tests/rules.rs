use super::*;
use crate::{
    abi::{Opcode, Status},
    frame::L4Protocol,
    testing::udp6,
};

const DROP: Action = Action::Frame(FrameFault::Drop);

/// The numbers of the hit frames among `count`.
fn hits(rule: Rule, count: u64) -> Vec<u64> {
    let mut bench = Bench::new(SPLIT, vec![rule]);
    for _ in 0..count {
        bench.send(&tcp4(&[1]));
    }
    bench.effects.hits.iter().map(|hit| hit.count).collect()
}

#[test]
fn triggers() {
    let when = |when| rule(Direction::Receive, when, DROP);
    assert_eq!(hits(when(When::Always), 3), [1, 2, 3]);
    assert_eq!(hits(when(When::Nth(n64(2))), 9), [2]);
    assert_eq!(hits(when(When::Every(n64(3))), 9), [3, 6, 9]);
    let chance = |value| {
        when(When::Probability(
            Probability::new(value).expect("a chance"),
        ))
    };
    assert!(hits(chance(0.0), 1000).is_empty());
    assert_eq!(hits(chance(1.0), 1000).len(), 1000);
    assert_eq!(Probability::new(0.1).map(Probability::value), Ok(0.1));
    let some = hits(chance(0.3), 1000).len();
    assert!((250..350).contains(&some), "{some} of 1000 at 0.3");
    let twice = Rule {
        times: Some(n64(2)),
        ..when(When::Every(n64(3)))
    };
    assert_eq!(hits(twice, 20), [3, 6]);
}

#[test]
fn a_rule_is_for_its_queue() {
    let here = Rule {
        queue: Some(QUEUE),
        ..third(DROP)
    };
    assert_eq!(hits(here.clone(), 5), [3]);
    let elsewhere = Rule {
        queue: Some(QUEUE + 1),
        ..here
    };
    assert!(hits(elsewhere, 5).is_empty());
}

#[test]
fn a_rule_counts_the_frames_of_its_flow() {
    let flow = FlowPattern {
        protocol: Some(L4Protocol::Udp),
        ..FlowPattern::default()
    };
    let second = Rule {
        flow,
        when: When::Nth(n64(2)),
        ..third(DROP)
    };
    let mut bench = Bench::new(SPLIT, vec![second]);
    for frame in [
        tcp4(&[1]),
        udp6(&[1]),
        tcp4(&[2]),
        tcp4(&[3]),
        udp6(&[2]),
        udp6(&[3]),
    ] {
        bench.send(&frame);
    }
    let received: Vec<_> = bench.seen().into_iter().map(|seen| seen.frame).collect();
    assert_eq!(
        received,
        [tcp4(&[1]), udp6(&[1]), tcp4(&[2]), tcp4(&[3]), udp6(&[3])]
    );
    assert_eq!(
        bench
            .engine
            .list()
            .next()
            .map(|rule| (rule.seen, rule.hits)),
        Some((3, 1))
    );
}

#[test]
fn rules_change_the_state_that_others_ask_for() {
    let to = |state: &str, when, enter: &str, action| Rule {
        state: Some(state.into()),
        enter: Some(enter.into()),
        ..rule(Direction::Receive, when, action)
    };
    let harmless = Action::Queue(QueueFault::Interrupt(InterruptFault::Spurious));
    let drop = Rule {
        state: Some("broken".into()),
        ..rule(Direction::Receive, When::Always, DROP)
    };
    // Frame 2 enters state "broken", three frames are dropped, the third of them returns to
    // "initial", and so on.
    let rules = vec![
        to("initial", When::Every(n64(2)), "broken", harmless),
        to("broken", When::Every(n64(3)), "initial", harmless),
        drop,
    ];
    let mut bench = Bench::new(SPLIT, rules);
    let received: Vec<_> = (0..10)
        .filter(|_| bench.send(&tcp4(&[1])).frames == 1)
        .collect();
    assert_eq!(received, [0, 1, 5, 6]);
    assert_eq!(bench.lane.state(), "initial");
}

#[test]
fn several_rules_can_hit_one_frame() {
    let rules = [
        Action::Frame(FrameFault::Duplicate { copies: n32(1) }),
        Action::Metadata(MetadataFault::WrongHash { value: Some(1) }),
        Action::Placement(PlacementFault::SplitWrong { at: 20 }),
        Action::Frame(FrameFault::Truncate { length: 100 }),
    ];
    let mut bench = Bench::new(SPLIT, rules.map(third).to_vec());
    for frame in frames() {
        bench.send(&frame);
    }
    let seen = bench.seen();
    assert_eq!(seen.len(), 6);
    for frame in &seen[2..4] {
        assert_eq!(
            (frame.hash, frame.header_length, frame.frame.len()),
            (1, 20, 100)
        );
    }
    assert_eq!(bench.effects.hits.len(), 4);
}

#[test]
fn invalid_rules_are_refused() {
    let ok = third(DROP);
    let refused = |rule: Rule| rule.check().expect_err("makes no sense").to_string();
    assert_eq!(ok.check(), Ok(()));
    let hash = Action::Metadata(MetadataFault::WrongHash { value: None });
    assert_eq!(
        refused(rule(Direction::Transmit, When::Always, hash)),
        "Action wrong-hash is for rx, not for tx"
    );
    assert_eq!(
        refused(rule(Direction::Command, When::Always, DROP)),
        "Action drop is for rx, tx, not for command"
    );
    assert_eq!(
        refused(Rule {
            queue: Some(128),
            ..ok.clone()
        }),
        "Queue 128 is not below 128"
    );
    assert_eq!(
        refused(Rule {
            opcode: Some(Opcode::Stats),
            ..ok.clone()
        }),
        "Only rules for commands have an opcode"
    );
    assert_eq!(
        refused(Rule {
            enter: Some("".into()),
            ..ok.clone()
        }),
        "Names of states have 1 to 64 bytes"
    );
    let reset = rule(
        Direction::Command,
        When::Always,
        Action::Port(PortFault::DeviceReset),
    );
    assert_eq!(reset.check(), Ok(()));
    assert_eq!(
        refused(Rule {
            queue: Some(0),
            ..reset.clone()
        }),
        "Rules for commands have no queue"
    );
    assert_eq!(
        refused(third(Action::Frame(FrameFault::Truncate { length: 13 }))),
        "Parameter length of truncate is 13, not between 14 and 4294967295"
    );
    let error = CommandFault::Error {
        status: Status::Ok,
        detail: 0,
    };
    assert_eq!(
        refused(Rule {
            action: Action::Command(error),
            ..reset
        }),
        "A command that fails can't answer Ok"
    );
    for chance in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert!(Probability::new(chance).is_err(), "{chance}");
    }
}

#[test]
fn rules_are_added_all_or_none_and_bounded() {
    let mut engine = Engine::default();
    let wrong = Rule {
        queue: Some(500),
        ..third(DROP)
    };
    assert!(engine.add(vec![third(DROP), wrong], || RuleId(1)).is_err());
    assert_eq!(engine.list().count(), 0);
    assert!(
        engine.armed(Direction::Receive).is_none(),
        "nothing to consult"
    );
    let mut next = 0;
    let ids = engine.add(vec![third(DROP); rule::MAX_RULES], || {
        next += 1;
        RuleId(next)
    });
    assert_eq!(ids.map(|ids| ids.len()), Ok(rule::MAX_RULES));
    assert_eq!(
        engine.add(vec![third(DROP)], || RuleId(0)),
        Err(RuleError::TooMany)
    );
    assert!(engine.remove(RuleId(1)) && !engine.remove(RuleId(1)));
    assert!(engine.armed(Direction::Transmit).is_none());
}

/// The rules see a frame that waits for buffers once, and a frame that a rule touched does not
/// wait.
#[test]
fn waiting_frames_are_counted_once() {
    let mut bench = Bench::new(
        SPLIT,
        vec![third(Action::Metadata(MetadataFault::WrongHash {
            value: Some(5),
        }))],
    );
    bench.ring.posted.truncate(2);
    for frame in &frames()[..2] {
        bench.send(frame);
    }
    let all = frames();
    let mut progress = Progress::default();
    let deliver = |bench: &mut Bench, index: usize, progress: &mut Progress| {
        bench.with(|queue| queue.deliver(&finished(&all[index]), progress, &NOTE, true))
    };
    let third = deliver(&mut bench, 2, &mut progress);
    assert_eq!((third.blocked_at, third.dropped), (None, 1));
    let mut progress = Progress::default();
    for _ in 0..3 {
        assert_eq!(deliver(&mut bench, 3, &mut progress).blocked_at, Some(0));
    }
    bench.ring.post(8, &[256, 2048]);
    assert_eq!(deliver(&mut bench, 3, &mut progress).frames, 1);
    assert_eq!(bench.engine.list().next().map(|rule| rule.seen), Some(4));
    assert_eq!(bench.queue.counters().no_buffer, 1);
}
