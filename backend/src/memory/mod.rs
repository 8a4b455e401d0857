//! Checks of the guest memory that a frontend hands over, before any of it is mapped.
//!
//! A frontend is not trusted, and a page that can't be had ends a process (SIGBUS) or lets it wait.
//! So a file is sealed against being shortened first, and examined then. Only files of shared memory
//! are taken, whose pages the kernel itself makes: a FUSE or network file system could keep a worker
//! waiting in a page fault, with the locks of its rings held. [`guard`] is for the pages that can't
//! be had nevertheless.

pub(crate) mod guard;

use std::{io, os::fd::OwnedFd};

use rustix::{
    fs::{OFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fcntl_getfl, fstat, fstatfs},
    io::Errno,
};
use thiserror::Error;
use vm_memory::GuestMemoryMmap;

/// Guest memory as the daemon maps it.
pub(crate) type GuestMemory = GuestMemoryMmap<()>;

/// The most regions of a table: what the vhost-user crate accepts, and four times what QEMU sends.
const MAX_REGIONS: usize = 32;

/// The most bytes that one port's table may map: what a guest with 40 bits of physical address has,
/// which is QEMU's default.
const PORT_LIMIT: u64 = 1 << 40;

/// The most bytes that all tables may map together: half of a process's 128 TiB, because a table
/// that is replaced and its successor are mapped at the same time.
const PROCESS_LIMIT: u64 = 64 << 40;

/// `HUGETLBFS_MAGIC` (linux/magic.h).
const HUGETLBFS: u64 = 0x9584_58f6;

/// Why a memory table is refused.
#[derive(Debug, Error)]
pub(crate) enum MemoryError {
    #[error(
        "Memory table of {bytes} bytes for {regions} regions with {files} files; allowed are 1 to \
         {MAX_REGIONS} regions with a file each"
    )]
    Table {
        regions: u32,
        bytes: usize,
        files: usize,
    },
    #[error("Memory region at {0:#x} is empty, or ends beyond the 64-bit address space")]
    Bounds(u64),
    #[error("Memory regions at {0:#x} and {1:#x} overlap")]
    Overlap(u64, u64),
    #[error("Memory table of {total:#x} bytes; a port may have {limit:#x}")]
    TooMuch { total: u128, limit: u64 },
    #[error(
        "File of the memory region at {0:#x} is no shared memory; allowed are memfds and files of \
         tmpfs and hugetlbfs"
    )]
    NotShared(u64),
    #[error("File of the memory region at {0:#x} is not open, or sealed, for reading and writing")]
    ReadOnly(u64),
    #[error(
        "File of the memory region at {0:#x} can be shortened, because it can't be sealed; allowed \
         are memfds with sealing (QEMU's memory-backend-memfd), and others with --trust-memory"
    )]
    Unsealed(u64),
    #[error("Memory region at {address:#x} needs {needed} bytes of a file that has {size}")]
    ShortFile {
        address: u64,
        needed: u64,
        size: u64,
    },
    #[error("Memory region at {address:#x} is not made of whole huge pages of {page} bytes")]
    Unaligned { address: u64, page: u64 },
    #[error("File of the memory region at {0:#x} can't be examined")]
    Examine(u64, #[source] io::Error),
}

/// What the memory of a frontend has to be.
#[derive(Debug)]
pub(crate) struct MemoryRules {
    /// Files that can be shortened are accepted.
    trusted: bool,
    /// Bytes that a table may map.
    limit: u64,
}

/// A region of a memory table (vhost-user, "Memory regions description").
#[derive(Clone, Copy, Debug)]
struct Region {
    /// Guest-physical address.
    address: u64,
    /// Bytes.
    size: u64,
    /// Where it begins in its file.
    offset: u64,
}

impl Default for MemoryRules {
    fn default() -> Self {
        Self::new(false, 1)
    }
}

impl MemoryRules {
    /// The rules of a backend with `ports` ports; `trusted`: its user trusts the frontends not to
    /// shorten their memory.
    pub(crate) fn new(trusted: bool, ports: usize) -> Self {
        let share = PROCESS_LIMIT / ports.max(1) as u64;
        Self {
            trusted,
            limit: share.min(PORT_LIMIT),
        }
    }

    /// Checks the body of a SET_MEM_TABLE with its files, and seals them. Nothing is mapped yet.
    pub(crate) fn check(&self, body: &[u8], files: &[OwnedFd]) -> Result<(), MemoryError> {
        let regions = regions(body, files.len())?;
        for (number, region) in regions.iter().enumerate() {
            let bounds = MemoryError::Bounds(region.address);
            let end = region.end().ok_or(bounds)?;
            let overlaps = |other: &&Region| {
                // Their ends were found before.
                region.address < other.address + other.size && other.address < end
            };
            if let Some(other) = regions[..number].iter().find(overlaps) {
                return Err(MemoryError::Overlap(other.address, region.address));
            }
        }
        let total = regions.iter().map(|region| u128::from(region.size)).sum();
        if total > u128::from(self.limit) {
            let limit = self.limit;
            return Err(MemoryError::TooMuch { total, limit });
        }
        let mut files = regions.iter().zip(files);
        files.try_for_each(|(region, file)| self.check_file(*region, file))
    }

    /// Checks the file of a region. Its seals are asked for first: any other request could let a
    /// file system wait that is not the kernel's own.
    fn check_file(&self, region: Region, file: &OwnedFd) -> Result<(), MemoryError> {
        let Region { address, .. } = region;
        let examine = |errno: Errno| MemoryError::Examine(address, errno.into());
        let seals = fcntl_get_seals(file).map_err(|_| MemoryError::NotShared(address))?;
        let mode = fcntl_getfl(file).map_err(examine)? & OFlags::RWMODE;
        if mode != OFlags::RDWR || seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE) {
            return Err(MemoryError::ReadOnly(address));
        }
        let sealed =
            seals.contains(SealFlags::SHRINK) || fcntl_add_seals(file, SealFlags::SHRINK).is_ok();
        if !sealed && !self.trusted {
            return Err(MemoryError::Unsealed(address));
        }
        // The size of a sealed file is final, or grows.
        let size = fstat(file).map_err(examine)?.st_size;
        let size = u64::try_from(size).unwrap_or(0);
        let needed = region.offset.saturating_add(region.size);
        if size < needed {
            return Err(MemoryError::ShortFile {
                address,
                needed,
                size,
            });
        }
        let system = fstatfs(file).map_err(examine)?;
        let page = u64::try_from(system.f_bsize).unwrap_or(1).max(1);
        let whole = [region.size, region.offset].map(|bytes| bytes.is_multiple_of(page));
        // Part of a huge page can be mapped, but the kernel refuses to unmap it.
        if system.f_type as u64 == HUGETLBFS && whole != [true; 2] {
            return Err(MemoryError::Unaligned { address, page });
        }
        Ok(())
    }
}

impl Region {
    /// The guest-physical address behind it; `None`: it is empty, or too long for its addresses.
    fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.size)?;
        let end = self.address.checked_add(self.size)?;
        (self.size > 0).then_some(end)
    }
}

/// The regions of a SET_MEM_TABLE that came with `files` files.
fn regions(body: &[u8], files: usize) -> Result<Vec<Region>, MemoryError> {
    let (words, rest) = body.as_chunks::<8>();
    let words: Vec<u64> = words.iter().map(|word| u64::from_ne_bytes(*word)).collect();
    // The number of regions has 32 bits, and 32 bits of padding behind it.
    let (count, words) = match &words[..] {
        [header, words @ ..] => (first_half(*header), words),
        [] => (0, &[][..]),
    };
    let (entries, odd) = words.as_chunks::<4>();
    let is_whole = rest.is_empty() && odd.is_empty() && entries.len() == count as usize;
    if !is_whole || !(1..=MAX_REGIONS).contains(&entries.len()) || files != entries.len() {
        return Err(MemoryError::Table {
            regions: count,
            bytes: body.len(),
            files,
        });
    }
    let region = |&[address, size, _, offset]: &[u64; 4]| Region {
        address,
        size,
        offset,
    };
    Ok(entries.iter().map(region).collect())
}

/// The 32 bits that come first in memory.
fn first_half(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    fn memfd(flags: MemfdFlags, size: u64) -> OwnedFd {
        let file = memfd_create("guest", flags | MemfdFlags::CLOEXEC).expect("memfd");
        ftruncate(&file, size).expect("size");
        file
    }

    /// The outcome for regions of (address, size, offset), each of a sealable memfd of 2 MiB.
    fn outcome(rules: &MemoryRules, regions: &[[u64; 3]]) -> Result<(), String> {
        let mut words = vec![regions.len() as u64];
        for [address, size, offset] in regions {
            words.extend([address, size, &0, offset]);
        }
        let body: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let files = regions
            .iter()
            .map(|_| memfd(MemfdFlags::ALLOW_SEALING, 2 << 20));
        let files: Vec<OwnedFd> = files.collect();
        rules
            .check(&body, &files)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn tables_that_no_guest_has_are_refused() {
        let rules = MemoryRules::default();
        let whole = [0, 2 << 20, 0];
        assert_eq!(outcome(&rules, &[whole]), Ok(()));
        assert_eq!(outcome(&rules, &[whole, [2 << 20, 4096, 4096]]), Ok(()));
        for (regions, complaint) in [
            (&[][..], "0 regions"),
            (&[[0, 4096, 0]; 33], "33 regions"),
            (&[[0, 0, 0]], "is empty"),
            (&[[u64::MAX - 4095, 8192, 0]], "ends beyond"),
            (&[[0, 4096, u64::MAX - 4095]], "ends beyond"),
            (&[whole, [(2 << 20) - 1, 4096, 0]], "overlap"),
            (&[[4096, 4096, 0], whole], "overlap"),
            (&[whole, whole], "overlap"),
            (&[[0, 4 << 20, 0]], "of a file that has 2097152"),
            (&[[0, 4096, 2 << 20]], "of a file that has 2097152"),
            (&[[0, 1 << 47, 0]], "a port may have 0x10000000000"),
            (
                &[[0, 1 << 39, 0], [1 << 40, (1 << 39) + 1, 0]],
                "a port may have",
            ),
        ] {
            let error = outcome(&rules, regions).expect_err(complaint);
            assert!(error.contains(complaint), "{error}");
        }
    }

    #[test]
    fn all_ports_together_leave_addresses_for_a_table_that_replaces_another() {
        for (ports, limit) in [
            (1, 1 << 40),
            (64, 1 << 40),
            (65, (64 << 40) / 65),
            (1000, (64 << 40) / 1000),
        ] {
            assert_eq!(MemoryRules::new(false, ports).limit, limit);
        }
    }

    #[test]
    fn bodies_of_other_lengths_are_refused() {
        let file = || vec![memfd(MemfdFlags::ALLOW_SEALING, 4096)];
        let entry = [0u64, 4096, 0, 0].map(u64::to_ne_bytes).concat();
        let one = [&1u64.to_ne_bytes()[..], &entry].concat();
        let rules = MemoryRules::default();
        rules.check(&one, &file()).expect("one region");
        for body in [
            &[][..],
            &one[..7],
            &one[..8],
            &one[..32],
            &one[..39],
            &[&one[..], &[0]].concat(),
        ] {
            let error = rules.check(body, &file()).expect_err("another length");
            assert!(matches!(error, MemoryError::Table { .. }), "{error}");
        }
        assert!(rules.check(&one, &[]).is_err(), "no file");
    }

    #[test]
    fn files_are_sealed_or_trusted() {
        let check = |trusted, file: OwnedFd| {
            let region = Region {
                address: 0,
                size: 4096,
                offset: 0,
            };
            let checked = MemoryRules::new(trusted, 1).check_file(region, &file);
            (checked.map_err(|error| error.to_string()), file)
        };
        let (sealed, file) = check(false, memfd(MemfdFlags::ALLOW_SEALING, 4096));
        assert_eq!(sealed, Ok(()));
        ftruncate(&file, 0).expect_err("it can't be shortened");

        let (unsealed, _) = check(false, memfd(MemfdFlags::empty(), 4096));
        assert!(
            unsealed
                .expect_err("it can be shortened")
                .contains("--trust-memory")
        );
        let (trusted, _) = check(true, memfd(MemfdFlags::empty(), 4096));
        assert_eq!(trusted, Ok(()));

        // QEMU seals its memory itself, also against more seals.
        let file = memfd(MemfdFlags::ALLOW_SEALING, 4096);
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .expect("seals");
        assert_eq!(check(false, file).0, Ok(()));
        let file = memfd(MemfdFlags::ALLOW_SEALING, 4096);
        fcntl_add_seals(&file, SealFlags::SEAL).expect("seals");
        assert!(check(false, file).0.is_err(), "no more seals can be added");
        for seal in [SealFlags::WRITE, SealFlags::FUTURE_WRITE] {
            let file = memfd(MemfdFlags::ALLOW_SEALING, 4096);
            fcntl_add_seals(&file, seal).expect("seals");
            assert!(
                check(true, file)
                    .0
                    .expect_err("read-only")
                    .contains("reading and writing")
            );
        }
    }
}
