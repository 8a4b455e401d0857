//! Guest memory from the allocator, whose ends valgrind and Miri know to a byte.

#![allow(unsafe_code, reason = "guest memory that is not mapped by vm-memory")]

use std::alloc::{Layout, alloc_zeroed};

use vm_memory::{GuestAddress, GuestRegionMmap, MmapRegion};

use crate::memory::GuestMemory;

/// Memory with regions at these addresses, of these lengths in whole pages. It is never given back:
/// tests are short.
pub(super) fn memory(ranges: &[(GuestAddress, usize)]) -> GuestMemory {
    let region = |&(start, length): &(GuestAddress, usize)| {
        GuestRegionMmap::new(allocate(length), start).expect("the address space")
    };
    GuestMemory::from_regions(ranges.iter().map(region).collect()).expect("memory")
}

fn allocate(length: usize) -> MmapRegion {
    let layout = Layout::from_size_align(length, 4096).expect("whole pages");
    // SAFETY: the length is not 0.
    let start = unsafe { alloc_zeroed(layout) };
    assert!(!start.is_null(), "no memory");
    // As mmap(2) would be asked for it: PROT_READ | PROT_WRITE, MAP_PRIVATE.
    let (protection, flags) = (3, 2);
    // SAFETY: the bytes stay allocated, and all access them as guest memory.
    let region = unsafe { MmapRegion::build_raw(start, length, protection, flags) };
    region.expect("whole pages")
}
