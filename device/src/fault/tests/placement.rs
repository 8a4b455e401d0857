use super::*;
use crate::abi::RX_SPLIT;

action_tests! {
    "short-buffer" => fn short_buffer_returns_a_shorter_used_length() {
        let bench = struck(Action::Placement(PlacementFault::ShortBuffer { bytes: 7 }));
        assert_eq!(bench.seen(), instead(|mut frame| {
            frame.missing = 7;
            vec![frame]
        }));
    }

    "split-missed" => fn split_missed_puts_everything_into_payload_buffers() {
        let bench = struck(Action::Placement(PlacementFault::SplitMissed));
        assert_eq!(bench.seen(), instead(|mut frame| {
            frame.header_length = 0;
            frame.flags &= !RX_SPLIT;
            vec![frame]
        }));
    }

    "split-wrong" => fn split_wrong_splits_elsewhere() {
        for at in [0, 20, 53, 55, 192] {
            let bench = struck(Action::Placement(PlacementFault::SplitWrong { at }));
            assert_eq!(bench.seen(), instead(|mut frame| {
                frame.header_length = at as usize;
                vec![frame]
            }));
        }
    }

    "payload-in-header" => fn payload_in_header_fills_the_header_fragment() {
        let bench = struck(Action::Placement(PlacementFault::PayloadInHeader));
        assert_eq!(bench.seen(), instead(|mut frame| {
            frame.header_length = 256 - RX_HEADER;
            vec![frame]
        }));
    }

    "wrong-queue" => fn wrong_queue_sends_the_frame_elsewhere() {
        let bench = struck(Action::Placement(PlacementFault::WrongQueue { queue: 1 }));
        assert_eq!(bench.seen(), instead(|_| vec![]));
        let [(1, frame)] = &bench.effects.redirected[..] else {
            panic!("{:?}", bench.effects);
        };
        assert_eq!((frame.bytes(), frame.hash), (&frames()[2][..], NOTE.hash));
        // There it is delivered like any other frame, without consulting the rules again.
        let always = rule(Direction::Receive, When::Always, Action::Frame(FrameFault::Drop));
        let mut other = Bench::new(SPLIT, vec![always]);
        let note = Annotation { queue: 1, ..NOTE };
        let delivered = other.with(|queue| queue.deliver_frame(frame, &note));
        assert_eq!((delivered.frames, other.effects.hits.len()), (1, 0));
        let expected = Seen { queue: 1, ..clean(SPLIT)[2].clone() };
        assert_eq!(other.seen(), [expected]);
    }
}

/// The used length stays positive: 0 means "unused".
#[test]
fn a_short_buffer_is_never_empty() {
    let bench = struck(Action::Placement(PlacementFault::ShortBuffer {
        bytes: 1 << 30,
    }));
    assert!(bench.ring.used.iter().all(|(length, _)| *length > 0));
}

#[test]
fn a_queue_that_does_not_split_has_no_wrong_split() {
    let linear = Layout::Linear { size: 2048 };
    for fault in [
        PlacementFault::SplitMissed,
        PlacementFault::SplitWrong { at: 3 },
        PlacementFault::PayloadInHeader,
    ] {
        let bench = struck_on(linear, Action::Placement(fault));
        assert_eq!(bench.seen(), clean(linear));
    }
}
