//! Guest memory between pages that fault: an access outside of a region ends the process.

#![allow(unsafe_code, reason = "guest memory at a place of our choice")]

use std::{ptr, sync::Arc};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};
use vm_memory::{Bytes, GuestAddress, GuestRegionMmap, MmapRegion};

use crate::memory::GuestMemory;

const PAGE: usize = 4096;

/// Memory of a guest whose regions start at these addresses and have these lengths, whole pages. It
/// stays mapped for ever, so a target makes its memory once.
pub(super) fn guarded(ranges: &[(u64, usize)]) -> Arc<GuestMemory> {
    let region = |&(start, length): &(u64, usize)| {
        GuestRegionMmap::new(mapping(length), GuestAddress(start)).expect("the address space")
    };
    let regions = ranges.iter().map(region).collect();
    Arc::new(GuestMemory::from_regions(regions).expect("regions that do not overlap"))
}

fn mapping(length: usize) -> MmapRegion {
    let nothing = ProtFlags::empty();
    // SAFETY: a new mapping at a place of the kernel's choice.
    let outer = unsafe {
        mmap_anonymous(
            ptr::null_mut(),
            length + 2 * PAGE,
            nothing,
            MapFlags::PRIVATE,
        )
    };
    let start = outer
        .expect("address space")
        .cast::<u8>()
        .wrapping_add(PAGE);
    // SAFETY: the pages are inside the mapping, and nothing uses it yet.
    let opened = unsafe {
        mprotect(
            start.cast(),
            length,
            MprotectFlags::READ | MprotectFlags::WRITE,
        )
    };
    opened.expect("pages of the mapping");
    let protection = (ProtFlags::READ | ProtFlags::WRITE).bits().cast_signed();
    let flags = MapFlags::PRIVATE.bits().cast_signed();
    // SAFETY: the pages stay mapped for ever, and others access them as guest memory only.
    let region = unsafe { MmapRegion::build_raw(start, length, protection, flags) };
    region.expect("whole pages")
}

/// The bytes of each range.
pub(super) fn contents(memory: &GuestMemory, ranges: &[(u64, usize)]) -> Vec<Vec<u8>> {
    let content = |&(start, length): &(u64, usize)| {
        let mut bytes = vec![0; length];
        memory
            .read_slice(&mut bytes, GuestAddress(start))
            .expect("a region");
        bytes
    };
    ranges.iter().map(content).collect()
}

/// Zeroes each range.
pub(super) fn clear(memory: &GuestMemory, ranges: &[(u64, usize)]) {
    for &(start, length) in ranges {
        memory
            .write_slice(&vec![0; length], GuestAddress(start))
            .expect("a region");
    }
}

/// Writes bytes of a driver, which are in a region.
pub(super) fn put(memory: &GuestMemory, address: u64, bytes: &[u8]) {
    memory
        .write_slice(bytes, GuestAddress(address))
        .expect("inside a region");
}
