//! The prefetch window of a receive ring.

use zcnic_device::memory::ReceiveRing;

use super::{Posting, SIZE, at, map, memory, setup};
use crate::ring::{raw::Span, receive::ReceiveChains, split::SplitRing, window::PrefetchWindow};

#[test]
fn a_window_moves_on_with_a_driver_that_keeps_posting() {
    let memory = memory();
    let mut driver = Posting::new(&memory, 0);
    let setup = setup(&driver.queue, true);
    let mut indices = at(0);
    let mapping = map(&setup, &memory).expect("ring");
    let ring = SplitRing::new(&mapping, true, &mut indices);
    let mut chains = ReceiveChains::new(Some(ring), usize::MAX, PrefetchWindow::default());
    let (mut posted, mut used) = (0, 0);
    while used < 3000 {
        while posted < used + u32::from(SIZE) / 2 {
            match posted % 5 {
                // A chain without a writable part.
                4 => driver.post(&[1], 1, false),
                // Two parts, in an indirect table.
                3 => driver.post(&[1 + posted, 7], 0, true),
                _ => driver.post(&[1 + posted], 0, false),
            }
            posted += 1;
        }
        driver.publish();
        // Two are reserved at once, and the first is returned.
        assert!(chains.reserve() && chains.reserve());
        for (index, number) in [(0, used), (1, used + 1)] {
            let lengths: Vec<_> = chains.chain(index).iter().map(Span::len).collect();
            let length = 1 + number as usize;
            let expected = match number % 5 {
                4 => vec![],
                3 => vec![length, 7],
                _ => vec![length],
            };
            assert_eq!(lengths, expected, "chain {number}");
        }
        chains.commit(&[1]);
        used += 1;
    }
    assert!(chains.error().is_none());
}
