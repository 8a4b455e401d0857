//! Frontends whose memory is not what they say.

use std::os::fd::AsRawFd;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};
use zcnic_model::{
    Transport,
    frames::{broadcast, pattern},
};

use crate::attacked::attack;

/// Guest address, size and offset in the file of a region.
type Region = (u64, u64, u64);

/// Replaces a running port's memory by `regions` of a file of one page, which the backend refuses.
fn refused(regions: &[Region]) {
    attack(|target| {
        let mut peer = target.guest(0, 4);
        let mut hostile = target.guest(1, 4);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("guest", flags).expect("memfd");
        ftruncate(&file, 4096).expect("length");
        let region = |&(guest, size, offset): &Region| VhostUserMemoryRegionInfo {
            guest_phys_addr: guest,
            memory_size: size,
            userspace_addr: guest.wrapping_add(0x10_0000),
            mmap_offset: offset,
            mmap_handle: file.as_raw_fd(),
        };
        let regions: Vec<_> = regions.iter().map(region).collect();
        let answer = hostile.transport().protocol.set_mem_table(&regions);
        assert!(answer.is_err(), "the memory was accepted");
        // Although the backend still knows the rings, it must not touch them.
        hostile.transport().kick(1);
        peer.send(0, broadcast(&pattern(60)));
        peer.status();
    });
}

macro_rules! tables {
    ($($name:ident: $regions:expr;)*) => {
        $(#[test]
        fn $name() {
            refused(&$regions);
        })*
    };
}

tables! {
    a_file_that_is_too_short: [(0, 1 << 20, 0)];
    a_file_that_is_too_short_by_a_byte: [(0, 4097, 0)];
    an_offset_behind_the_end_of_the_file: [(0, 4096, 8192)];
    an_offset_that_wraps: [(0, 4096, u64::MAX - 4095)];
    an_offset_that_no_file_can_have: [(0, 4096, 1 << 63)];
    more_memory_than_a_machine_can_have: [(0, 1 << 62, 0)];
    memory_of_all_addresses: [(0, u64::MAX, 0)];
    a_region_that_wraps: [(u64::MAX - 100, 4096, 0)];
    a_region_of_no_bytes: [(0, 0, 0)];
    regions_that_overlap: [(0, 4096, 0), (2048, 2048, 0)];
    the_same_region_twice: [(0, 4096, 0), (0, 4096, 0)];
}
