//! Prefetches: instructions, and hints where the next bytes are.

#![allow(unsafe_code, reason = "prefetch instructions")]

use std::{
    ptr,
    sync::atomic::{AtomicPtr, AtomicUsize, Ordering},
};

/// Bytes of a cache line.
pub(super) const CACHE_LINE: usize = 64;

/// Prefetches the line at `address` for writing.
#[inline]
pub(super) fn prefetch_write(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch is a hint and never faults; processors without this one take it for a NOP.
    unsafe {
        std::arch::asm!(
            "prefetchw [{0}]",
            in(reg) address,
            options(readonly, nostack, preserves_flags)
        );
    }
    #[cfg(any(not(target_arch = "x86_64"), miri))]
    prefetch(address);
}

#[inline]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch is a hint and never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(any(not(target_arch = "x86_64"), miri))]
    let _ = address;
}

/// Where bytes are that are needed soon. Whether they are still mapped is unknown: the pointer is
/// only prefetched, never read.
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

/// A [`PrefetchHint`] that changes. It is stored and loaded word by word, which only atomics
/// promise: a load of both words at once would stall in store-to-load forwarding until all earlier
/// stores, which may be a payload, are in the cache.
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

    /// Prefetches `length` bytes at `offset` for reading, as far as they are inside.
    #[inline]
    pub(super) fn prefetch(self, offset: usize, length: usize) {
        let (mut at, end) = (offset, self.length.min(offset + length));
        while at < end {
            prefetch(self.start.wrapping_add(at));
            at += CACHE_LINE;
        }
    }

    /// Prefetches `length` bytes at `offset` for writing, as far as they are inside.
    #[inline]
    pub(super) fn prefetch_write(self, offset: usize, length: usize) {
        let (mut at, end) = (offset, self.length.min(offset + length));
        while at < end {
            prefetch_write(self.start.wrapping_add(at));
            at += CACHE_LINE;
        }
    }
}
