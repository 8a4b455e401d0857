//! Memory that lives as long as its owner and that the kernel or a device writes: receive areas,
//! the refill ring's region, dmabufs.
#![allow(
    unsafe_code,
    reason = "mmap and views of memory that the kernel writes"
)]

use std::{io, os::fd::AsFd, ptr::NonNull};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// Bytes of a huge page on x86-64.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// Rounds `len` bytes up to whole pages.
pub(crate) fn whole_pages(len: usize, huge: bool) -> usize {
    len.next_multiple_of(if huge {
        HUGE_PAGE
    } else {
        rustix::param::page_size()
    })
}

/// A populated mapping.
#[derive(Debug)]
pub struct Area {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value and is not tied to a thread.
unsafe impl Send for Area {}

impl Area {
    /// Maps `len` bytes, rounded up to whole pages, of huge pages if `huge` (which have to be
    /// reserved in `vm.nr_hugepages`): only they are physically contiguous beyond a page.
    pub fn new(len: usize, huge: bool) -> io::Result<Self> {
        let len = whole_pages(len, huge);
        let mut flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        if huge {
            flags |= MapFlags::HUGETLB | MapFlags::HUGE_2MB;
        }
        // SAFETY: a new mapping at an address of the kernel's choosing touches nothing of ours.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { start, len })
    }

    /// Maps the first `len` bytes of a file, which must never be shorter.
    pub(crate) fn of_file(file: impl AsFd, len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choosing touches nothing of ours.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                file,
                0,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { start, len })
    }

    /// Bytes mapped.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is mapped (never).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Start, for the kernel and for [`RefillRing`](crate::kit::zcrx::RefillRing).
    #[must_use]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.start
    }

    /// The received bytes at `offset`, or `None` if that is not within the area.
    ///
    /// The borrow is sound while the kernel owns no reference to these bytes, that is from their
    /// completion until [`Zcrx::recycle`](crate::kit::zcrx::Zcrx::recycle): a device that writes to
    /// them in that time is the bug that the pattern check is for.
    #[must_use]
    pub fn bytes(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let offset = usize::try_from(offset).ok()?;
        if len > self.len || offset > self.len - len {
            return None;
        }
        // SAFETY: in bounds of a live mapping of plain bytes.
        Some(unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(offset), len) })
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows it any more. The kernel holds references
        // of its own to the pages that it uses.
        if let Err(error) = unsafe { munmap(self.start.as_ptr().cast(), self.len) } {
            eprintln!("zcnic-guest: munmap: {error}");
        }
    }
}
