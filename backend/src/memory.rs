//! Checks of the guest memory that a frontend hands over.

use std::{io, sync::Arc};

use rustix::fs::{SealFlags, fcntl_add_seals, fcntl_get_seals, fstat};
use thiserror::Error;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

/// Guest memory as the daemon maps it.
pub(crate) type GuestMemory = GuestMemoryMmap<()>;

/// A memory table that can't be used.
#[derive(Debug, Error)]
pub(crate) enum MemoryError {
    #[error("Memory region at {address:#x} needs {needed} bytes of a file that has {size}")]
    ShortFile {
        address: u64,
        needed: u64,
        size: u64,
    },
    #[error("Memory region at {0:#x} has no file")]
    NoFile(u64),
    #[error("File of the memory region at {0:#x} can't be examined")]
    Stat(u64, #[source] io::Error),
}

/// Refuses a table with a region that is longer than its file: the first access behind the file's
/// end would be a SIGBUS that kills every port. Seals each file against being shortened later,
/// where its kind allows that. Returns whether all files are sealed.
pub(crate) fn check(memory: &Arc<GuestMemory>) -> Result<bool, MemoryError> {
    let mut safe = true;
    for region in memory.iter() {
        let address = region.start_addr().raw_value();
        let offset = region.file_offset().ok_or(MemoryError::NoFile(address))?;
        let stat =
            fstat(offset.file()).map_err(|errno| MemoryError::Stat(address, errno.into()))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let needed = offset.start().saturating_add(region.len());
        if size < needed {
            return Err(MemoryError::ShortFile {
                address,
                needed,
                size,
            });
        }
        safe &= fcntl_add_seals(offset.file(), SealFlags::SHRINK).is_ok()
            || fcntl_get_seals(offset.file()).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
    }
    Ok(safe)
}
