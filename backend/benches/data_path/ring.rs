//! A driver's side of a ring that costs next to nothing: a used chain is made available again as it
//! is. The driver never reads a buffer, so that buffers are as cold as the backend leaves them.

use std::sync::{
    Arc,
    atomic::{AtomicU16, AtomicU64, Ordering, fence},
};

use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileMemory, VolatileSlice,
};
use zcnic_model::ring::RingAddresses;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const DESCRIPTOR: usize = 16;

/// A part of a chain.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub(crate) address: GuestAddress,
    pub(crate) length: usize,
}

/// Guest memory for as long as the process runs.
pub(crate) type Memory = &'static GuestMemoryMmap;

/// Keeps `memory` mapped for ever.
pub(crate) fn leak(memory: Arc<GuestMemoryMmap>) -> Memory {
    Box::leak(Box::new(memory))
}

/// The bytes of a part.
pub(crate) fn slice(memory: Memory, part: Part) -> VolatileSlice<'static> {
    memory
        .get_slice(part.address, part.length)
        .expect("parts lie in memory")
}

/// A ring whose chains are always the same and in the same order. Chains of more than one part are
/// indirect, as Linux makes them.
pub(crate) struct CyclicRing {
    /// The descriptor of each chain.
    chains: Vec<[u64; 2]>,
    descriptors: Vec<[&'static AtomicU64; 2]>,
    available_index: &'static AtomicU16,
    used_event: &'static AtomicU16,
    used_index: &'static AtomicU16,
    available_event: &'static AtomicU16,
    /// Chains made available, and chains returned, since the start.
    pub(crate) posted: u64,
    pub(crate) returned: u64,
}

impl CyclicRing {
    /// A ring at `at` for chains, each with room for an indirect table.
    pub(crate) fn new(
        memory: Memory,
        at: RingAddresses,
        chains: &[(GuestAddress, Vec<Part>)],
        writable: bool,
    ) -> Self {
        let write = if writable { WRITE } else { 0 };
        let words = |part: &Part, flags: u16, next: usize| {
            let flags = u64::from(flags) << 32;
            [
                part.address.0,
                part.length as u64 | flags | (next as u64) << 48,
            ]
        };
        let chain = |(table, parts): &(GuestAddress, Vec<Part>)| {
            if let [part] = &parts[..] {
                return words(part, write, 0);
            }
            for (index, part) in parts.iter().enumerate() {
                let more = index + 1 < parts.len();
                let flags = write | if more { NEXT } else { 0 };
                let at = GuestAddress(table.0 + (DESCRIPTOR * index) as u64);
                let descriptor = words(part, flags, if more { index + 1 } else { 0 });
                memory
                    .write_obj(descriptor, at)
                    .expect("tables lie in memory");
            }
            let length = DESCRIPTOR * parts.len();
            words(
                &Part {
                    address: *table,
                    length,
                },
                INDIRECT,
                0,
            )
        };
        let entries = usize::from(at.size);
        let slice = |base: GuestAddress, offset: usize, length| {
            let address = GuestAddress(base.0 + offset as u64);
            let slice = slice(memory, Part { address, length });
            let kept: &'static VolatileSlice<'static> = Box::leak(Box::new(slice));
            kept
        };
        let word = |base, offset| {
            let slice = slice(base, offset, 2);
            slice
                .get_atomic_ref::<AtomicU16>(0)
                .expect("rings are aligned")
        };
        let descriptor = |index| {
            let slice = slice(at.descriptors, DESCRIPTOR * index, DESCRIPTOR);
            [0, 8].map(|offset| slice.get_atomic_ref(offset).expect("rings are aligned"))
        };
        for entry in 0..entries {
            word(at.available, 4 + 2 * entry).store(entry as u16, Ordering::Relaxed);
        }
        Self {
            chains: chains.iter().map(chain).collect(),
            descriptors: (0..entries).map(descriptor).collect(),
            available_index: word(at.available, 2),
            used_event: word(at.available, 4 + 2 * entries),
            used_index: word(at.used, 2),
            available_event: word(at.used, 4 + 8 * entries),
            posted: 0,
            returned: 0,
        }
    }

    /// Chains in flight.
    pub(crate) fn outstanding(&self) -> u64 {
        self.posted - self.returned
    }

    /// Chains that can be in flight.
    pub(crate) fn room(&self) -> u64 {
        self.descriptors.len().min(self.chains.len()) as u64
    }

    /// Makes the next `count` chains available; returns whether the device wants a kick.
    pub(crate) fn post(&mut self, count: u64) -> bool {
        if count == 0 {
            return false;
        }
        let old = self.posted as u16;
        for number in self.posted as usize..(self.posted + count) as usize {
            let chain = self.chains[number % self.chains.len()];
            let descriptor = self.descriptors[number % self.descriptors.len()];
            for (word, value) in descriptor.iter().zip(chain) {
                word.store(value, Ordering::Relaxed);
            }
        }
        self.posted += count;
        let new = self.posted as u16;
        self.available_index.store(new, Ordering::Release);
        fence(Ordering::SeqCst);
        let event = self.available_event.load(Ordering::Relaxed);
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
    }

    /// Takes what came back.
    pub(crate) fn reap(&mut self) {
        let index = self.used_index.load(Ordering::Acquire);
        let count = index.wrapping_sub(self.returned as u16);
        if count > 0 {
            self.returned += u64::from(count);
            // So far ahead that it is never passed: no interrupt is wanted.
            self.used_event
                .store(index.wrapping_sub(2), Ordering::Relaxed);
        }
    }
}
