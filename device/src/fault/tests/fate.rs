//! The fates that captures report.

use super::*;
use crate::receive::Fate;

/// The fates of five frames of which a rule hits the third.
fn fates(action: Action) -> Vec<Fate> {
    let bench = struck(action);
    for (number, one) in bench.fates.iter().enumerate() {
        let rules: Vec<_> = one.touches.iter().map(|touch| touch.action).collect();
        let expected: &[_] = if number == 2 { &[action.name()] } else { &[] };
        assert_eq!(rules, expected);
    }
    bench.fates.iter().map(|one| one.fate).collect()
}

#[test]
fn each_frame_has_the_fate_that_its_rule_gave_it() {
    let headers = clean(SPLIT)[0].header_length;
    let placed = |split| Fate::Placed { split };
    for (action, fate) in [
        (Action::Frame(FrameFault::Drop), Fate::Faulted),
        (
            Action::Frame(FrameFault::Duplicate { copies: n32(2) }),
            placed(Some(headers)),
        ),
        (
            Action::Frame(FrameFault::Reorder { by: n32(1) }),
            Fate::Held,
        ),
        (
            Action::Placement(PlacementFault::SplitWrong { at: 20 }),
            placed(Some(20)),
        ),
        (Action::Placement(PlacementFault::SplitMissed), placed(None)),
        (
            Action::Placement(PlacementFault::WrongQueue { queue: 5 }),
            Fate::Redirected { queue: 5 },
        ),
        (
            Action::Completion(CompletionFault::DescriptorError),
            Fate::Faulted,
        ),
    ] {
        let others = placed(Some(headers));
        assert_eq!(
            fates(action),
            [others, others, fate, others, others],
            "{action:?}"
        );
    }
}

#[test]
fn frames_without_a_buffer_or_a_running_queue_are_dropped() {
    let mut bench = Bench::new(SPLIT, Vec::new());
    bench.ring = VecRing::default();
    bench.send(&tcp4(&pattern(600)));
    bench.queue.stop();
    bench.send(&tcp4(&pattern(600)));
    let fates: Vec<_> = bench.fates.iter().map(|one| one.fate).collect();
    assert_eq!(fates, [Fate::NoBuffer, Fate::Stopped]);
}

#[test]
fn a_sent_frame_names_the_rules_that_hit_it() {
    let rule = rule(
        Direction::Transmit,
        When::Nth(n64(1)),
        Action::Frame(FrameFault::Corrupt { bit: Some(800) }),
    );
    let mut bench = Bench::new(SPLIT, vec![rule]);
    let armed = bench.engine.armed(Direction::Transmit).expect("a rule");
    let mut lane = Lane::new(Direction::Transmit, 0, &Budget::default());
    let frame = tcp4(&pattern(600));
    let mut sends = || {
        lane.send(&armed, &VecMover, &finished(&frame), 0, &mut bench.effects)
            .frames
    };
    let sent = sends().expect("a changed frame");
    let actions: Vec<_> = sent[0].touches().iter().map(|touch| touch.action).collect();
    assert_eq!(actions, ["corrupt"]);
    assert!(sends().is_none());
}
