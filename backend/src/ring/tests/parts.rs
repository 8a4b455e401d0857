//! The parts of a ring in guest memory.

use virtio_queue::mock::MockSplitQueue;

use super::{RING, SIZE, map, memory, setup};
use crate::ring::{Part, RingError, Setup};

#[test]
fn rings_outside_memory() {
    let memory = memory();
    let queue = MockSplitQueue::create(&memory, RING, SIZE);
    let good = setup(&queue, true);
    let check = |setup: Setup| map(&setup, &memory).map(drop);
    assert_eq!(check(good), Ok(()));
    for size in [0, 3, 1000, 0xffff] {
        assert_eq!(check(Setup { size, ..good }), Err(RingError::Size(size)));
    }
    // The start is inside, the end is not.
    let address = 0x20_0000 - 32;
    for (part, setup) in [
        (
            Part::Descriptors,
            Setup {
                descriptors: address,
                ..good
            },
        ),
        (
            Part::Available,
            Setup {
                available: address,
                ..good
            },
        ),
        (
            Part::Used,
            Setup {
                used: address,
                ..good
            },
        ),
    ] {
        assert_eq!(check(setup), Err(RingError::Outside { part, address }));
    }
    let used = Setup {
        used: good.used + 2,
        ..good
    };
    let misaligned = RingError::Misaligned {
        part: Part::Used,
        address: good.used + 2,
    };
    assert_eq!(check(used), Err(misaligned));
}

#[test]
fn parts_of_a_ring_that_overlap_are_refused() {
    let memory = memory();
    let size = u64::from(SIZE);
    let (descriptors, available) = (16 * size, 6 + 2 * size);
    // As close as they may be, with the used ring in front.
    let (used, table) = (0x1000, 0x1000 + (6 + 8 * size).next_multiple_of(16));
    let close = Setup {
        size: SIZE,
        used,
        descriptors: table,
        available: table + descriptors,
        event_idx: false,
    };
    let check = |setup| map(&setup, &memory).map(drop);
    assert_eq!(check(close), Ok(()));
    let behind = close.available + available.next_multiple_of(4);
    assert_eq!(
        check(Setup {
            used: behind,
            ..close
        }),
        Ok(())
    );
    for (setup, one, other) in [
        (
            Setup {
                descriptors: table - 16,
                ..close
            },
            Part::Descriptors,
            Part::Used,
        ),
        (
            Setup {
                available: close.available - 2,
                ..close
            },
            Part::Descriptors,
            Part::Available,
        ),
        (
            Setup {
                used: behind - 4,
                ..close
            },
            Part::Available,
            Part::Used,
        ),
        (
            Setup {
                available: used,
                ..close
            },
            Part::Available,
            Part::Used,
        ),
        (
            Setup {
                used: table,
                ..close
            },
            Part::Descriptors,
            Part::Used,
        ),
    ] {
        assert_eq!(
            check(setup),
            Err(RingError::Overlap(one, other)),
            "{setup:?}"
        );
    }
}
