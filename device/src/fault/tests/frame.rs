use super::*;
use crate::abi::{RX_CSUM_BAD, RX_CSUM_GOOD, RX_SPLIT};

action_tests! {
    "drop" => fn drop_loses_the_frame_and_uses_no_buffer() {
        let bench = struck(Action::Frame(FrameFault::Drop));
        assert_eq!(bench.seen(), instead(|_| vec![]));
        assert_eq!((bench.lane.dropped(), bench.delivered.dropped), (1, 1));
        assert_eq!(bench.queue.counters().no_buffer, 0);
    }

    "duplicate" => fn duplicate_delivers_the_frame_again() {
        let bench = struck(Action::Frame(FrameFault::Duplicate { copies: n32(2) }));
        assert_eq!(bench.seen(), instead(|frame| vec![frame; 3]));
    }

    "delay" => fn delay_delivers_the_frame_when_its_time_has_come() {
        let mut bench = struck(Action::Frame(FrameFault::Delay { nanoseconds: 5000 }));
        assert_eq!(bench.seen(), instead(|_| vec![]));
        let armed = bench.engine.armed(Direction::Receive);
        assert_eq!(bench.lane.next_deadline(armed.as_ref()), Some(bench.now + 5000));
        bench.now += 4999;
        assert_eq!(bench.release(), Delivered::default());
        bench.now += 1;
        assert_eq!(bench.release().frames, 1);
        let clean = clean(SPLIT);
        let order = [0, 1, 3, 4, 2].map(|index: usize| clean[index].clone());
        assert_eq!(bench.seen(), order);
        assert!(bench.lane.is_idle());
    }

    "reorder" => fn reorder_puts_the_frame_behind_those_that_follow() {
        let bench = struck(Action::Frame(FrameFault::Reorder { by: n32(1) }));
        let clean = clean(SPLIT);
        let order = [0, 1, 3, 2, 4].map(|index: usize| clean[index].clone());
        assert_eq!(bench.seen(), order);
        assert!(bench.lane.is_idle());
    }

    "corrupt" => fn corrupt_flips_one_bit() {
        // The lowest bit of byte 500: payload, so that the verdict is bad.
        let bench = struck(Action::Frame(FrameFault::Corrupt { bit: Some(500 * 8 + 7) }));
        assert_eq!(bench.seen(), instead(|mut frame| {
            frame.frame[500] ^= 1;
            frame.flags = frame.flags & !RX_CSUM_GOOD | RX_CSUM_BAD;
            vec![frame]
        }));
        // A drawn bit is a single one, and the same one every time.
        let drawn = || struck(Action::Frame(FrameFault::Corrupt { bit: None })).seen()[2].frame.clone();
        let differs: u32 = drawn().iter().zip(&clean(SPLIT)[2].frame).map(|(a, b)| (a ^ b).count_ones()).sum();
        assert_eq!(differs, 1);
        assert_eq!(drawn(), drawn());
    }

    "truncate" => fn truncate_shortens_the_frame() {
        let bench = struck(Action::Frame(FrameFault::Truncate { length: 100 }));
        assert_eq!(bench.seen(), instead(|mut frame| {
            frame.frame.truncate(100);
            // The packet is incomplete: its TCP header is not parsed, and it stays whole.
            (frame.header_length, frame.chains) = (100, 1);
            frame.flags &= !(RX_CSUM_GOOD | RX_SPLIT);
            vec![frame]
        }));
        // A short frame is not extended.
        let whole = struck(Action::Frame(FrameFault::Truncate { length: 9000 }));
        assert_eq!(whole.seen(), clean(SPLIT));
    }
}

#[test]
fn removing_the_rule_releases_held_frames() {
    for action in [
        FrameFault::Delay {
            nanoseconds: 1 << 40,
        },
        FrameFault::Reorder { by: n32(100) },
    ] {
        let mut bench = struck(Action::Frame(action));
        assert_eq!(bench.release(), Delivered::default());
        bench.engine.clear();
        assert_eq!(bench.lane.next_deadline(None), Some(0));
        assert_eq!(bench.release().frames, 1);
        assert!(bench.lane.is_idle());
    }
}

#[test]
fn a_stop_drops_held_frames() {
    let mut bench = struck(Action::Frame(FrameFault::Delay { nanoseconds: 10 }));
    bench.queue.stop();
    assert_eq!(bench.lane.stop(&mut bench.ring), 0);
    bench.queue.start(SPLIT, MAX_CHAINS);
    bench.now += 100;
    assert_eq!(bench.release(), Delivered::default());
}

#[test]
fn frames_held_back_are_bounded() {
    let always = rule(
        Direction::Receive,
        When::Always,
        Action::Frame(FrameFault::Delay {
            nanoseconds: 1 << 40,
        }),
    );
    let mut bench = Bench::new(SPLIT, vec![always]);
    for _ in 0..lane::MAX_HELD + 5 {
        bench.send(&tcp4(&[]));
    }
    assert_eq!(bench.lane.held(), lane::MAX_HELD);
    assert_eq!((bench.lane.dropped(), bench.delivered.dropped), (5, 5));
}

#[test]
fn delayed_frames_come_in_the_order_of_their_times() {
    let rules = [(1, 500), (2, 300)].map(|(nth, nanoseconds)| Rule {
        when: When::Nth(n64(nth)),
        ..third(Action::Frame(FrameFault::Delay { nanoseconds }))
    });
    let mut bench = Bench::new(SPLIT, rules.to_vec());
    for frame in frames() {
        bench.send(&frame);
    }
    bench.now += 1000;
    bench.release();
    let clean = clean(SPLIT);
    let order = [2, 3, 4, 1, 0].map(|index: usize| clean[index].clone());
    assert_eq!(bench.seen(), order);
}
