//! Guest memory by pointers: the one place where rings and buffers are accessed without vm-memory's
//! checks on every access.
//!
//! The same is ensured once instead. A [`Mapping`] finds the parts of a ring in a memory table when
//! the ring starts and keeps that table mapped; indices into the parts are masked by the ring's
//! size. A [`Span`] lies in one region of a table, or in the backend's own memory, and borrows the
//! mapping, so that it can't outlive the ring's lock. Offsets into a span are checked at each
//! access.
//!
//! Guests write to all of this at any time. Nothing here makes a reference to guest memory or reads
//! a byte of it twice: a value that was read is kept in a local variable, and only that is
//! examined.

#![allow(
    unsafe_code,
    reason = "the fast path: pointers into guest memory that were checked when the ring started"
)]

use std::{
    marker::PhantomData,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering},
    },
};

use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};
use zcnic_device::checksum::Checksum;
use zerocopy::IntoBytes;

use super::{
    Part, RingError, Setup,
    copy::{copy_and_sum, copy_word, read_headers, write_headers},
    prefetch::{PrefetchHint, prefetch},
};
use crate::memory::{
    GuestMemory,
    guard::{Alarm, Guards},
};

const DESCRIPTOR: usize = 16;
const USED_ELEMENT: usize = 8;

/// A memory table with the addresses where its regions are mapped.
#[derive(Debug)]
pub(crate) struct Memory {
    regions: Vec<Region>,
    /// Dropped before the mapping.
    _guards: Guards,
    /// Keeps the regions mapped.
    _mapped: Arc<GuestMemory>,
}

#[derive(Clone, Copy, Debug)]
struct Region {
    /// Guest-physical address.
    start: u64,
    length: u64,
    host: *mut u8,
}

// SAFETY: the pointers are to memory that is mapped as long as `_mapped` lives, whichever thread
// that is in, and that others write to at any time anyway.
unsafe impl Send for Memory {}
// SAFETY: as above; accesses are by value, to memory without references to it.
unsafe impl Sync for Memory {}

impl Memory {
    /// Looks up where the regions of `memory` are. If one has no page, `alarm` is raised.
    pub(crate) fn new(memory: Arc<GuestMemory>, alarm: &Arc<Alarm>) -> Self {
        let regions = memory.iter().map(|region| Region {
            start: region.start_addr().raw_value(),
            length: region.len(),
            host: region.as_ptr(),
        });
        let regions: Vec<_> = regions.collect();
        let places = regions
            .iter()
            .map(|region| (region.host.addr(), region.length as usize));
        Self {
            _guards: Guards::new(places, alarm),
            regions,
            _mapped: memory,
        }
    }

    /// The guest-physical address of `span`, which is of this table.
    pub(crate) fn guest_address(&self, span: &Span<'_>) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let offset = span.address().checked_sub(region.host as usize)? as u64;
            (offset < region.length).then(|| region.start + offset)
        })
    }

    /// The `length` bytes at `address`, if one region has them all.
    #[inline]
    pub(crate) fn span(&self, address: u64, length: usize) -> Option<Span<'_>> {
        let found = self.regions.iter().find_map(|region| {
            let offset = address.wrapping_sub(region.start);
            (offset < region.length && length as u64 <= region.length - offset)
                .then(|| region.host.wrapping_add(offset as usize))
        });
        found.map(|start| Span {
            start,
            length,
            lives: PhantomData,
        })
    }

    /// The start of the `length` bytes at `address`, as many as the region there has.
    pub(crate) fn longest_span(&self, address: u64, length: usize) -> Option<Span<'_>> {
        self.regions.iter().find_map(|region| {
            let offset = address.wrapping_sub(region.start);
            let length = region.length.checked_sub(offset)?.min(length as u64) as usize;
            (length > 0).then(|| Span {
                start: region.host.wrapping_add(offset as usize),
                length,
                lives: PhantomData,
            })
        })
    }
}

/// A run of bytes that stays mapped for `'m`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span<'m> {
    start: *mut u8,
    length: usize,
    lives: PhantomData<&'m Memory>,
}

// SAFETY: a span is a place in memory that every thread may access as the methods do, as long as it
// is mapped.
unsafe impl Send for Span<'_> {}

impl<'m> Span<'m> {
    /// The backend's own memory, which nothing else uses meanwhile.
    pub(crate) fn own(bytes: &'m mut [u8]) -> Self {
        Self {
            start: bytes.as_mut_ptr(),
            length: bytes.len(),
            lives: PhantomData,
        }
    }

    /// The `length` bytes at `offset`, if they are inside.
    pub(crate) fn part(&self, offset: usize, length: usize) -> Option<Self> {
        self.at(offset, length).map(|start| Self {
            start,
            length,
            lives: PhantomData,
        })
    }

    /// The address where it is mapped.
    pub(crate) fn address(&self) -> usize {
        self.start as usize
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// The pointer to `length` bytes at `offset`, if they are inside.
    #[inline]
    fn at(&self, offset: usize, length: usize) -> Option<*mut u8> {
        (offset <= self.length && length <= self.length - offset)
            .then(|| self.start.wrapping_add(offset))
    }

    /// Reads `into.len()` bytes at `offset`; nothing if they are not all inside.
    #[inline]
    pub(crate) fn read(&self, offset: usize, into: &mut [u8]) {
        let Some(from) = self.at(offset, into.len()) else {
            debug_assert!(false, "offset and length are inside the span");
            return;
        };
        // SAFETY: `from` has that many bytes, mapped for 'm; `into` is ours and does not overlap.
        unsafe { read_headers(from, into.as_mut_ptr(), into.len()) }
    }

    /// Reads the two 64-bit words at `offset`, aligned or not; zeros if they are not inside.
    #[inline]
    fn read_pair(&self, offset: usize) -> [u64; 2] {
        let mut pair = [0u64; 2];
        let Some(from) = self.at(offset, size_of_val(&pair)) else {
            debug_assert!(false, "offset and length are inside the span");
            return pair;
        };
        for (index, word) in pair.iter_mut().enumerate() {
            // SAFETY: `from` has two words, mapped for 'm; `word` is ours.
            *word = unsafe { copy_word(from.add(8 * index), ptr::from_mut(word).cast()) };
        }
        pair
    }

    /// Writes `bytes` at `offset`; nothing if there is no room for them all.
    #[inline]
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        let Some(to) = self.at(offset, bytes.len()) else {
            debug_assert!(false, "offset and length are inside the span");
            return;
        };
        // SAFETY: `to` has room for that many bytes, mapped for 'm; `bytes` is ours and does not
        // overlap.
        unsafe { write_headers(bytes.as_ptr(), to, bytes.len()) }
    }

    /// Writes `words` at `offset`, one by one from wherever they are; nothing if there is no room
    /// for them all.
    #[inline]
    pub(crate) fn write_words<const N: usize>(&self, offset: usize, words: [u64; N]) {
        let Some(to) = self.at(offset, size_of_val(&words)) else {
            debug_assert!(false, "offset and length are inside the span");
            return;
        };
        let to = to.cast::<u64>();
        if !to.is_aligned() {
            self.write(offset, words.as_bytes());
            return;
        }
        for (index, word) in words.into_iter().enumerate() {
            // SAFETY: `to` is aligned and has room for that many words, mapped for 'm. Volatile, so
            // that the compiler does not make of them one store of a vector that it would have to
            // load.
            unsafe { to.add(index).write_volatile(word) }
        }
    }

    /// Copies `length` bytes at `offset` to `target_offset` of `target` and adds the bytes stored
    /// to `sum`; nothing if either is not inside. The two may overlap: then the bytes stored are
    /// unspecified, but the sum is theirs.
    #[inline]
    pub(crate) fn copy(
        &self,
        offset: usize,
        target: &Span<'_>,
        target_offset: usize,
        length: usize,
        sum: &mut Checksum,
    ) {
        let (Some(from), Some(to)) = (self.at(offset, length), target.at(target_offset, length))
        else {
            debug_assert!(false, "offset and length are inside the spans");
            return;
        };
        // SAFETY: both have `length` bytes that are mapped meanwhile.
        let stored = unsafe { copy_and_sum(from, to, length) };
        sum.add_native(stored, length);
    }

    /// Copies as [`copy`](Self::copy) does, and prefetches the next bytes meanwhile: the rest of
    /// the copy, then the start of `next_source` for reading and of `next_target` for writing.
    #[inline(never)]
    pub(crate) fn copy_ahead(
        &self,
        offset: usize,
        target: &Span<'_>,
        target_offset: usize,
        length: usize,
        (next_source, next_target): (PrefetchHint, PrefetchHint),
        sum: &mut Checksum,
    ) {
        /// Bytes that are prefetched before as many are copied: a multiple of a cache line.
        const BLOCK: usize = 512;
        /// Prefetch distance: a page, because hardware prefetchers stop at a page's end.
        const DISTANCE: usize = 4096;
        let (Some(from), Some(to)) = (self.at(offset, length), target.at(target_offset, length))
        else {
            debug_assert!(false, "offset and length are inside the spans");
            return;
        };
        let distance = length.min(DISTANCE);
        let (source, destination) = (self.hint(offset), target.hint(target_offset));
        // Blocks are even, so that their sums can be added.
        let (mut done, mut stored) = (0, 0);
        while done < length {
            let here = (length - done).min(BLOCK);
            match (done + distance).checked_sub(length) {
                None => {
                    source.prefetch(done + distance, here);
                    destination.prefetch_write(done + distance, here);
                }
                Some(beyond) => {
                    next_source.prefetch(beyond, here);
                    next_target.prefetch_write(beyond, here);
                }
            }
            // SAFETY: both have `length` bytes that are mapped meanwhile, and `here` of them are
            // left.
            stored += unsafe { copy_and_sum(from.add(done), to.add(done), here) };
            done += here;
        }
        sum.add_native(stored, length);
    }

    /// A prefetch hint for the bytes from `offset` on.
    #[inline]
    pub(crate) fn hint(&self, offset: usize) -> PrefetchHint {
        PrefetchHint::new(
            self.start.wrapping_add(offset),
            self.length.saturating_sub(offset),
        )
    }

    /// Prefetches the first `length` bytes for reading.
    #[inline]
    pub(crate) fn prefetch(&self, length: usize) {
        self.hint(0).prefetch(0, length);
    }

    /// Prefetches the first `length` bytes for writing.
    #[inline]
    pub(crate) fn prefetch_write(&self, length: usize) {
        self.hint(0).prefetch_write(0, length);
    }
}

/// A descriptor as the driver wrote it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub(crate) address: u64,
    pub(crate) length: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

impl Descriptor {
    pub(crate) const NEXT: u16 = 1;
    pub(crate) const WRITE: u16 = 2;
    pub(crate) const INDIRECT: u16 = 4;

    /// Bytes of a descriptor.
    pub(crate) const SIZE: usize = DESCRIPTOR;

    fn new(address: u64, rest: u64) -> Self {
        let rest = u64::from_le(rest);
        Self {
            address: u64::from_le(address),
            length: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        }
    }

    /// Reads entry `index` of an indirect table, which need not be aligned.
    #[inline]
    pub(crate) fn read(table: &Span<'_>, index: u16) -> Self {
        let [address, rest] = table.read_pair(usize::from(index) * DESCRIPTOR);
        Self::new(address, rest)
    }
}

/// The parts of a split ring (virtio 1.3, 2.7) where they are mapped.
#[derive(Debug)]
pub(crate) struct Mapping {
    descriptors: *const [AtomicU64; 2],
    /// Flags, index, entries, event.
    available: *const AtomicU16,
    /// Flags, index.
    used: *const AtomicU16,
    /// One less than the number of entries, which is a power of two.
    mask: u16,
    memory: Arc<Memory>,
}

// SAFETY: the pointers are into memory that is mapped as long as `memory` lives; all accesses are
// atomic.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Finds the parts of a ring in a memory table.
    pub(crate) fn new(setup: &Setup, memory: Arc<Memory>) -> Result<Self, RingError> {
        let size = setup.size;
        if !size.is_power_of_two() || size > 1 << 15 {
            return Err(RingError::Size(size));
        }
        let entries = usize::from(size);
        let lengths = [
            entries * DESCRIPTOR,
            6 + 2 * entries,
            6 + USED_ELEMENT * entries,
        ];
        let part = |part: Part, address: u64, alignment| {
            let length = lengths[part as usize];
            let span = memory
                .span(address, length)
                .ok_or(RingError::Outside { part, address })?;
            // The host address must be aligned: the atomic accesses happen there.
            if (span.start as usize).is_multiple_of(alignment) {
                Ok(span.start)
            } else {
                Err(RingError::Misaligned { part, address })
            }
        };
        let descriptors = part(Part::Descriptors, setup.descriptors, DESCRIPTOR)?;
        let available = part(Part::Available, setup.available, 2)?;
        let used = part(Part::Used, setup.used, 4)?;
        let parts = [
            (Part::Descriptors, setup.descriptors),
            (Part::Available, setup.available),
            (Part::Used, setup.used),
        ];
        // What the device writes must not change what it reads. All ends are inside regions.
        let end = |(part, start): (Part, u64)| start + lengths[part as usize] as u64;
        for [one, other] in [[0, 1], [0, 2], [1, 2]].map(|pair| pair.map(|number| parts[number])) {
            if one.1 < end(other) && other.1 < end(one) {
                return Err(RingError::Overlap(one.0, other.0));
            }
        }
        Ok(Self {
            descriptors: descriptors.cast(),
            available: available.cast(),
            used: used.cast(),
            mask: size - 1,
            memory,
        })
    }

    /// Descriptors in the ring.
    #[inline]
    pub(crate) fn size(&self) -> u16 {
        self.mask + 1
    }

    /// The table that the ring's addresses are in.
    #[inline]
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The 16-bit word `index` of the available ring.
    #[inline]
    fn available(&self, index: usize) -> &AtomicU16 {
        debug_assert!(index < 3 + usize::from(self.size()));
        // SAFETY: callers pass 0 or 1, 2 plus a masked index, or 2 plus the size. `new` found room
        // for as many words, aligned, in memory that `self.memory` keeps mapped.
        unsafe { &*self.available.add(index) }
    }

    #[inline]
    pub(crate) fn available_flags(&self) -> u16 {
        u16::from_le(self.available(0).load(Ordering::Relaxed))
    }

    /// The driver's available index; the entries before it are written.
    #[inline]
    pub(crate) fn available_index(&self) -> u16 {
        u16::from_le(self.available(1).load(Ordering::Acquire))
    }

    /// The head of the chain that the driver made available as number `index`, counted modulo 2^16.
    #[inline]
    pub(crate) fn available_entry(&self, index: u16) -> u16 {
        let entry = self.available(2 + usize::from(index & self.mask));
        u16::from_le(entry.load(Ordering::Relaxed))
    }

    /// The used index at which the driver wants an interrupt.
    #[inline]
    pub(crate) fn used_event(&self) -> u16 {
        let event = self.available(2 + usize::from(self.size()));
        u16::from_le(event.load(Ordering::Relaxed))
    }

    #[inline]
    fn descriptor_at(&self, index: u16) -> &[AtomicU64; 2] {
        // SAFETY: `new` found room for as many descriptors as the mask lets through, aligned, in
        // memory that `self.memory` keeps mapped.
        unsafe { &*self.descriptors.add(usize::from(index & self.mask)) }
    }

    /// Descriptor `index`, which must be below the size.
    #[inline]
    pub(crate) fn descriptor(&self, index: u16) -> Descriptor {
        let [address, rest] = self.descriptor_at(index);
        Descriptor::new(
            address.load(Ordering::Relaxed),
            rest.load(Ordering::Relaxed),
        )
    }

    /// Prefetches descriptor `index`.
    #[inline]
    pub(crate) fn prefetch_descriptor(&self, index: u16) {
        prefetch(ptr::from_ref(self.descriptor_at(index)).cast());
    }

    /// Prefetches the indirect table of the chain that starts at descriptor `head`, if it has one.
    #[inline]
    pub(crate) fn prefetch_table(&self, head: u16) {
        let descriptor = self.descriptor(head);
        if descriptor.flags & Descriptor::INDIRECT != 0
            && let Some(table) = self.memory.span(descriptor.address, DESCRIPTOR)
        {
            table.prefetch(DESCRIPTOR);
        }
    }

    /// The 16-bit word `index` of the used ring.
    #[inline]
    fn used(&self, index: usize) -> &AtomicU16 {
        debug_assert!(index < 3 + 4 * usize::from(self.size()));
        // SAFETY: callers pass 0 or 1, or 2 plus four times the size, which is the last word. `new`
        // found room for as many, aligned, in memory that `self.memory` keeps mapped.
        unsafe { &*self.used.add(index) }
    }

    /// Stores used element `index`, counted modulo 2^16.
    #[inline]
    pub(crate) fn set_used(&self, index: u16, id: u32, length: u32) {
        let entry = usize::from(index & self.mask);
        // SAFETY: the elements begin behind two words and are as many as the mask lets through;
        // `new` found room for them, aligned to 4, in memory that `self.memory` keeps mapped.
        let [chain, written] = unsafe { &*self.used.add(2 + 4 * entry).cast::<[AtomicU32; 2]>() };
        chain.store(id.to_le(), Ordering::Relaxed);
        written.store(length.to_le(), Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn set_used_flags(&self, flags: u16) {
        self.used(0).store(flags.to_le(), Ordering::Relaxed);
    }

    /// Publishes used elements: they and the bytes of their chains are visible before the index is.
    #[inline]
    pub(crate) fn set_used_index(&self, index: u16) {
        self.used(1).store(index.to_le(), Ordering::Release);
    }

    pub(crate) fn used_index(&self) -> u16 {
        u16::from_le(self.used(1).load(Ordering::Acquire))
    }

    /// Sets the available index at which the driver kicks.
    #[inline]
    pub(crate) fn set_available_event(&self, index: u16) {
        self.used(2 + 4 * usize::from(self.size()))
            .store(index.to_le(), Ordering::Relaxed);
    }
}
