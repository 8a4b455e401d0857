//! The 16-bit indices of a ring, at each of their values.

use vm_memory::{Bytes, GuestAddress};

use super::{Posting, SIZE, USED, at, map, memory, setup};
use crate::ring::{RingError, split::SplitRing};

/// Every available index is refused or means as many chains as it is ahead, whichever index is next.
#[test]
fn every_available_index_from_every_kind_of_position() {
    let memory = memory();
    let driver = Posting::new(&memory, 0);
    let setup = setup(&driver.queue, true);
    let mapping = map(&setup, &memory).expect("ring");
    for base in [
        0,
        1,
        SIZE - 1,
        SIZE,
        0x7fff,
        0x8000,
        u16::MAX - SIZE,
        u16::MAX,
    ] {
        for index in 0..=u16::MAX {
            driver.queue.avail().idx().store(index.to_le());
            let mut indices = at(base);
            let mut ring = SplitRing::new(&mapping, true, &mut indices);
            // Counted without wrapping: how far the driver is ahead of us.
            let ahead = (u32::from(index) + 0x1_0000 - u32::from(base)) % 0x1_0000;
            let expected = if ahead <= u32::from(SIZE) {
                Ok(ahead as u16)
            } else {
                let available = ahead as u16;
                Err(RingError::AvailableIndex {
                    available,
                    size: SIZE,
                })
            };
            assert_eq!(ring.available(SIZE), expected, "{index} from {base}");
        }
    }
}

/// An interrupt is wanted exactly if a used index that the driver waits for was passed, for every
/// event index and every number of chains, across the end of the numbers.
#[test]
fn every_event_index_that_a_batch_may_pass() {
    let memory = memory();
    let mut driver = Posting::new(&memory, 0);
    let setup = setup(&driver.queue, true);
    let mapping = map(&setup, &memory).expect("ring");
    let event_at = GuestAddress(setup.available + 4 + 2 * u64::from(SIZE));
    driver.available(0);
    for old in [0, 0x7ff8, 0xfff8] {
        for count in 1..=SIZE {
            for event in 0..=u16::MAX {
                // Only events near the batch can matter; of the others a sample.
                if event.wrapping_sub(old).wrapping_add(40) > 80 && event % 251 != 0 {
                    continue;
                }
                memory
                    .write_obj(event.to_le(), event_at)
                    .expect("event index");
                let mut indices = at(old);
                indices.signalled = Some(old);
                indices.next_used = old.wrapping_add(count);
                let mut ring = SplitRing::new(&mapping, true, &mut indices);
                // Interrupts for the chains old..old + count: the one that makes the used index
                // one more than the event.
                let passed = (0..count).any(|ahead| old.wrapping_add(ahead) == event);
                assert_eq!(
                    ring.publish(),
                    passed,
                    "{count} chains from {old}, event {event}"
                );
            }
        }
    }
}

/// Chains of a ring that goes on for more than all numbers are returned in order, each once.
#[test]
fn a_ring_goes_through_all_numbers() {
    let memory = memory();
    let mut driver = Posting::new(&memory, 0xfff0);
    let setup = setup(&driver.queue, true);
    let mapping = map(&setup, &memory).expect("ring");
    let mut indices = at(0xfff0);
    for round in 0..0x1_0040u32 {
        let number = 0xfff0u16.wrapping_add(round as u16);
        let head = number % SIZE;
        driver.available(head);
        driver.publish();
        let mut ring = SplitRing::new(&mapping, true, &mut indices);
        assert_eq!(ring.available(SIZE), Ok(1), "chain {number}");
        assert_eq!(ring.head(0), Ok(head));
        ring.complete(head, round);
        ring.publish();
        let element = USED.0 + 4 + 8 * u64::from(number % SIZE);
        let element: [u32; 2] = memory
            .read_obj(GuestAddress(element))
            .expect("used element");
        assert_eq!(element.map(u32::from_le), [head.into(), round]);
        let index: u16 = memory
            .read_obj(GuestAddress(USED.0 + 2))
            .expect("used index");
        assert_eq!(u16::from_le(index), number.wrapping_add(1));
    }
}
