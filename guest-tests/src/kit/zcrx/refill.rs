//! The refill ring, by which buffers go back to the kernel. The program produces at the tail, the
//! kernel consumes at the head, mostly when the queue's page pool runs out of buffers.
#![allow(unsafe_code, reason = "a ring in memory shared with the kernel")]

use std::{
    collections::VecDeque,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use super::sys::{Offsets, Rqe, Stats};
use crate::kit::memory::Area;

/// Producer side of the refill ring, in a region that it owns.
///
/// Buffers that don't fit wait here for a later [`RefillRing::publish`], so that returning a buffer
/// can not fail.
#[derive(Debug)]
pub struct RefillRing {
    region: Area,
    head: NonNull<AtomicU32>,
    tail: NonNull<AtomicU32>,
    rqes: NonNull<Rqe>,
    entries: u32,
    /// Our copy of the tail: only we write it.
    next: u32,
    backlog: VecDeque<Rqe>,
    stats_offset: Option<usize>,
}

// SAFETY: the pointers are into `region`, which moves with them.
unsafe impl Send for RefillRing {}

impl RefillRing {
    /// A ring of `entries` (a power of two) at `offsets` in `region`; the kernel's statistics, if
    /// it keeps any, are at `stats_offset`. `None` if any of that is not within the region or not
    /// aligned.
    #[must_use]
    pub fn new(
        region: Area,
        offsets: &Offsets,
        entries: u32,
        stats_offset: Option<usize>,
    ) -> Option<Self> {
        let at = |offset: usize, size: usize, align: usize| {
            let end = offset.checked_add(size)?;
            (offset.is_multiple_of(align) && end <= region.len())
                // SAFETY: in bounds of the region.
                .then(|| unsafe { region.as_ptr().add(offset) })
        };
        if !entries.is_power_of_two() {
            return None;
        }
        let head = at(offsets.head as usize, 4, 4)?.cast();
        let tail: NonNull<AtomicU32> = at(offsets.tail as usize, 4, 4)?.cast();
        let bytes = size_of::<Rqe>().checked_mul(entries as usize)?;
        let rqes = at(offsets.rqes as usize, bytes, align_of::<Rqe>())?.cast();
        if let Some(offset) = stats_offset {
            at(offset, size_of::<Stats>(), align_of::<Stats>())?;
        }
        // SAFETY: checked above; the region lives as long as this value.
        let next = unsafe { tail.as_ref() }.load(Ordering::Relaxed);
        let backlog = VecDeque::new();
        Some(Self {
            region,
            head,
            tail,
            rqes,
            entries,
            next,
            backlog,
            stats_offset,
        })
    }

    /// Queues a buffer for return. The kernel sees it after the next [`RefillRing::publish`].
    pub fn push(&mut self, rqe: Rqe) {
        self.backlog.push_back(rqe);
    }

    /// Buffers that the kernel has not taken back yet, in the ring and waiting for a place in it.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.in_ring() as usize + self.backlog.len()
    }

    /// Moves all buffers that fit into the ring and publishes them to the kernel with one store.
    pub fn publish(&mut self) {
        let room = self.entries - self.in_ring();
        for _ in 0..room {
            let Some(rqe) = self.backlog.pop_front() else {
                break;
            };
            let index = (self.next & (self.entries - 1)) as usize;
            // SAFETY: the index is below `entries`, and the kernel reads an entry only between head
            // and tail, where this one is not yet.
            unsafe { self.rqes.add(index).write(rqe) };
            self.next = self.next.wrapping_add(1);
        }
        // SAFETY: within the region. Release: the entries are visible before the tail.
        unsafe { self.tail.as_ref() }.store(self.next, Ordering::Release);
    }

    /// The kernel's statistics, if it keeps any.
    #[must_use]
    pub fn stats(&self) -> Option<Stats> {
        let offset = self.stats_offset?;
        let read = |field: usize| {
            // SAFETY: `new` checked that the struct is in bounds and aligned; the kernel writes it
            // with WRITE_ONCE, so it is read as atomics.
            let counter = unsafe {
                self.region
                    .as_ptr()
                    .add(offset + field)
                    .cast::<AtomicU64>()
                    .as_ref()
            };
            counter.load(Ordering::Relaxed)
        };
        Some(Stats {
            copy_count: read(0),
            copy_bytes: read(8),
        })
    }

    /// Entries between head and tail, which the kernel has not taken yet. An impossible head counts
    /// as a full ring.
    #[must_use]
    pub fn in_ring(&self) -> u32 {
        // SAFETY: within the region. Acquire: the kernel has read the entries it gives back.
        let head = unsafe { self.head.as_ref() }.load(Ordering::Acquire);
        self.next.wrapping_sub(head).min(self.entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFSETS: Offsets = Offsets {
        head: 0,
        tail: 64,
        rqes: 128,
        resv2: 0,
        resv: [0; 2],
    };

    /// The kernel's side, over the same mapping.
    struct Kernel {
        region: NonNull<u8>,
        head: u32,
    }

    impl Kernel {
        fn store_head(&self) {
            // SAFETY: the head's place in a mapping that outlives the test's use of it.
            unsafe { self.region.cast::<AtomicU32>().as_ref() }.store(self.head, Ordering::Release);
        }

        fn take(&mut self, limit: usize, entries: u32) -> Vec<u64> {
            // SAFETY: as above, at the tail's offset.
            let tail = unsafe { self.region.add(64).cast::<AtomicU32>().as_ref() };
            let mut taken = Vec::new();
            while self.head != tail.load(Ordering::Acquire) && taken.len() < limit {
                let index = (self.head % entries) as usize;
                // SAFETY: an entry between head and tail.
                let rqe = unsafe { self.region.add(128).cast::<Rqe>().add(index).read() };
                assert_eq!(rqe.pad, 0);
                taken.push(rqe.off);
                self.head = self.head.wrapping_add(1);
            }
            self.store_head();
            taken
        }
    }

    fn ring(entries: u32, first: u32) -> (RefillRing, Kernel) {
        let region = Area::new(4096, false).unwrap();
        let start = region.as_ptr();
        let kernel = Kernel {
            region: start,
            head: first,
        };
        kernel.store_head();
        // SAFETY: the tail's place in the fresh mapping.
        unsafe { start.add(64).cast::<AtomicU32>().as_ref() }.store(first, Ordering::Relaxed);
        (
            RefillRing::new(region, &OFFSETS, entries, Some(2048)).unwrap(),
            kernel,
        )
    }

    fn rqe(off: u64) -> Rqe {
        Rqe {
            off,
            len: 1,
            pad: 0,
        }
    }

    #[test]
    fn nothing_is_visible_before_publish() {
        let (mut ring, mut kernel) = ring(8, 0);
        ring.push(rqe(1));
        assert!(kernel.take(8, 8).is_empty());
        ring.publish();
        assert_eq!(kernel.take(8, 8), [1]);
        assert_eq!(ring.pending(), 0);
    }

    #[test]
    fn keeps_order_over_a_full_ring_and_the_index_wrap() {
        let (mut ring, mut kernel) = ring(8, u32::MAX - 3);
        (0..20).for_each(|off| ring.push(rqe(off)));
        ring.publish();
        assert_eq!(ring.pending(), 20);
        let mut taken = kernel.take(5, 8);
        assert_eq!(taken.len(), 5);
        ring.publish();
        taken.extend(kernel.take(100, 8));
        assert_eq!(
            taken.len(),
            13,
            "8 entries and no more are ever in the ring"
        );
        ring.publish();
        taken.extend(kernel.take(100, 8));
        assert_eq!(taken, (0..20).collect::<Vec<_>>());
        assert_eq!(ring.pending(), 0);
    }

    #[test]
    fn an_invalid_head_overwrites_nothing() {
        let (mut ring, mut kernel) = ring(8, 0);
        (0..8).for_each(|off| ring.push(rqe(off)));
        ring.publish();
        kernel.head = 5000;
        kernel.store_head();
        ring.push(rqe(99));
        ring.publish();
        kernel.head = 0;
        assert_eq!(kernel.take(100, 8), (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn reads_the_kernels_statistics() {
        let (ring, kernel) = ring(8, 0);
        assert_eq!(ring.stats(), Some(Stats::default()));
        // SAFETY: the statistics' place in the mapping, aligned.
        unsafe { kernel.region.add(2048).cast::<[u64; 2]>().write([3, 4096]) };
        assert_eq!(
            ring.stats(),
            Some(Stats {
                copy_count: 3,
                copy_bytes: 4096
            })
        );
    }

    #[test]
    fn refuses_offsets_outside_the_region() {
        let area = || Area::new(4096, false).unwrap();
        assert!(RefillRing::new(area(), &OFFSETS, 7, None).is_none());
        assert!(RefillRing::new(area(), &OFFSETS, 256, None).is_none());
        assert!(
            RefillRing::new(
                area(),
                &Offsets {
                    tail: 4094,
                    ..OFFSETS
                },
                8,
                None
            )
            .is_none()
        );
        assert!(RefillRing::new(area(), &OFFSETS, 8, Some(4088)).is_none());
        assert!(
            RefillRing::new(area(), &OFFSETS, 8, None)
                .unwrap()
                .stats()
                .is_none()
        );
    }
}
