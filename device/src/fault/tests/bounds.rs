use super::*;
use crate::fault::{
    frame::MAX_COPIES,
    lane::{MAX_HELD, MAX_HITS, MAX_MADE},
};

fn always(fault: FrameFault) -> Rule {
    rule(Direction::Receive, When::Always, Action::Frame(fault))
}

/// A bench whose lane shares `budget`.
fn bench(budget: &Budget, rules: Vec<Rule>) -> Bench {
    let mut bench = Bench::new(SPLIT, rules);
    bench.lane = Lane::new(Direction::Receive, QUEUE, budget);
    bench
}

#[test]
fn duplicates_of_duplicates_are_bounded_per_frame() {
    let most = FrameFault::Duplicate {
        copies: n32(MAX_COPIES),
    };
    let mut bench = Bench::new(SPLIT, vec![always(most); 64]);
    let delivered = bench.send(&tcp4(&[]));
    let beyond = u64::from(63 * MAX_COPIES);
    assert_eq!(bench.lane.limit_dropped(), beyond);
    assert_eq!(delivered.frames + delivered.dropped, 64 * MAX_COPIES + 1);
    assert_eq!(bench.effects.made(), MAX_COPIES as usize);
}

#[test]
fn frames_that_rules_make_are_bounded_per_batch() {
    let most = FrameFault::Duplicate {
        copies: n32(MAX_COPIES),
    };
    let mut bench = Bench::new(SPLIT, vec![always(most)]);
    let frames = MAX_MADE / MAX_COPIES as usize;
    for _ in 0..frames + 3 {
        bench.send(&tcp4(&[]));
    }
    assert_eq!(bench.effects.made(), MAX_MADE);
    assert_eq!(bench.lane.limit_dropped(), 3 * u64::from(MAX_COPIES));
    // The next batch may make as many again.
    bench.effects = Effects::default();
    bench.send(&tcp4(&[]));
    assert_eq!(bench.effects.made(), MAX_COPIES as usize);
}

#[test]
fn held_frames_of_all_lanes_share_a_budget() {
    let late = always(FrameFault::Delay {
        nanoseconds: 1 << 40,
    });
    let budget = Budget::new(100_000);
    let mut lanes = [0, 1].map(|_| bench(&budget, vec![late.clone()]));
    for number in 0..40 {
        lanes[number % 2].send(&tcp4(&pattern(9000)));
        assert!(budget.used() <= 100_000);
    }
    let [one, other] = &mut lanes;
    let held = one.lane.held() + other.lane.held();
    assert!((5..11).contains(&held), "{held} frames of 9 kB");
    let dropped = one.lane.limit_dropped() + other.lane.limit_dropped();
    assert_eq!(dropped, 40 - held as u64);
    // Only the lane that asked for too much loses frames, and what one releases the other may take.
    for id in one.engine.list().map(|rule| rule.id).collect::<Vec<_>>() {
        one.engine.remove(id);
    }
    one.release();
    assert_eq!(one.lane.held(), 0);
    let before = other.lane.held();
    other.send(&tcp4(&pattern(9000)));
    assert_eq!(other.lane.held(), before + 1);
    other.lane.reset();
    assert_eq!(budget.used(), 0);
}

#[test]
fn duplicates_share_their_bytes() {
    let budget = Budget::default();
    let rules = [
        FrameFault::Duplicate {
            copies: n32(MAX_COPIES),
        },
        FrameFault::Delay { nanoseconds: 500 },
    ];
    let mut bench = bench(&budget, rules.map(always).to_vec());
    bench.send(&tcp4(&pattern(9000)));
    assert_eq!(bench.lane.held(), 65);
    let most = 2 * 9100 + 65 * OwnedFrame::COST;
    assert!(budget.used() < most, "{} bytes", budget.used());
    bench.now += 1000;
    bench.release();
    assert_eq!((bench.lane.held(), budget.used()), (0, 0));
}

#[test]
fn redirected_frames_are_charged_and_bounded() {
    let budget = Budget::new(50_000);
    let mut bench = bench(
        &budget,
        vec![rule(
            Direction::Receive,
            When::Always,
            Action::Placement(PlacementFault::WrongQueue { queue: 7 }),
        )],
    );
    for _ in 0..20 {
        bench.send(&tcp4(&pattern(9000)));
    }
    let redirected = bench.effects.redirected.len();
    assert!((2..6).contains(&redirected), "{redirected} frames of 9 kB");
    assert_eq!(bench.lane.limit_dropped(), 20 - redirected as u64);
    bench.effects = Effects::default();
    assert_eq!(budget.used(), 0);
}

#[test]
fn listed_hits_are_bounded_and_counted_hits_are_not() {
    let mut bench = Bench::new(SPLIT, vec![always(FrameFault::Drop); 64]);
    let frames = MAX_HITS / 64 + 10;
    for _ in 0..frames {
        bench.send(&tcp4(&[]));
    }
    assert_eq!(bench.effects.hits.len(), MAX_HITS);
    assert_eq!(bench.effects.unlisted_hits, 640);
    let hits: u64 = bench.engine.list().map(|rule| rule.hits).sum();
    assert_eq!(hits, 64 * frames as u64);
}

#[test]
fn faults_of_the_port_are_due_once_per_batch() {
    let fault = Action::Port(PortFault::DeviceReset);
    let mut bench = Bench::new(SPLIT, vec![rule(Direction::Receive, When::Always, fault)]);
    for _ in 0..50 {
        bench.send(&tcp4(&[]));
    }
    assert_eq!(bench.effects.port, [PortFault::DeviceReset]);
}

#[test]
fn held_frames_go_on_when_their_rule_is_removed_and_others_stay() {
    let late = |nanoseconds| always(FrameFault::Delay { nanoseconds });
    let mut bench = Bench::new(SPLIT, vec![]);
    let first = bench.add(vec![late(1 << 40)]);
    bench.send(&tcp4(&[1]));
    bench.engine.remove(first[0]);
    bench.add(vec![late(1 << 41)]);
    // The frame of the first rule goes on with the next frame, which the second rule holds.
    bench.send(&tcp4(&[2]));
    assert_eq!((bench.seen().len(), bench.lane.held()), (1, 1));
    let armed = bench.engine.armed(Direction::Receive);
    assert_eq!(
        bench.lane.next_deadline(armed.as_ref()),
        Some(bench.now + (1 << 41))
    );
    assert_eq!(bench.lane.next_deadline(None), Some(0));
    assert!(bench.lane.held() < MAX_HELD);
}
