//! Memory that is sent for before it is used.

#![allow(unsafe_code, reason = "prefetch instructions")]

use std::{
    ptr,
    sync::atomic::{AtomicPtr, AtomicUsize, Ordering},
};

/// Bytes that two processors hand over at once.
pub(super) const CACHE_LINE: usize = 64;

/// Has the line at `address` on its way to the cache, to be written.
#[inline]
pub(super) fn prefetch_write(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint and never faults; processors without this one take it for a NOP.
    unsafe {
        std::arch::asm!(
            "prefetchw [{0}]",
            in(reg) address,
            options(readonly, nostack, preserves_flags)
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    prefetch(address);
}

#[inline]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint and never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Where bytes are that are wanted soon. Whether they stay mapped is not known, and nothing but a hint to the processor
/// is made of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PrefetchHint {
    start: *const u8,
    length: usize,
}

impl Default for PrefetchHint {
    fn default() -> Self {
        Self {
            start: ptr::null(),
            length: 0,
        }
    }
}

/// A [`PrefetchHint`] that changes. It is stored and loaded word by word, which only atomics promise: loaded as a whole, it would
/// have to wait until all that was stored before is in the cache, and that is a payload.
#[derive(Debug, Default)]
pub(crate) struct PrefetchHintCell {
    start: AtomicPtr<u8>,
    length: AtomicUsize,
}

impl PrefetchHintCell {
    #[inline]
    pub(crate) fn set(&self, place: PrefetchHint) {
        self.start.store(place.start.cast_mut(), Ordering::Relaxed);
        self.length.store(place.length, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn get(&self) -> PrefetchHint {
        PrefetchHint {
            start: self.start.load(Ordering::Relaxed),
            length: self.length.load(Ordering::Relaxed),
        }
    }
}

impl PrefetchHint {
    #[inline]
    pub(super) fn new(start: *const u8, length: usize) -> Self {
        Self { start, length }
    }

    #[inline]
    pub(crate) fn is_empty(self) -> bool {
        self.length == 0
    }

    /// Has `length` bytes at `offset`, as far as there are so many, on their way to the cache.
    #[inline]
    pub(super) fn prefetch(self, offset: usize, length: usize) {
        let (mut at, end) = (offset, self.length.min(offset + length));
        while at < end {
            prefetch(self.start.wrapping_add(at));
            at += CACHE_LINE;
        }
    }

    /// The same, to be written.
    #[inline]
    pub(super) fn prefetch_write(self, offset: usize, length: usize) {
        let (mut at, end) = (offset, self.length.min(offset + length));
        while at < end {
            prefetch_write(self.start.wrapping_add(at));
            at += CACHE_LINE;
        }
    }
}
