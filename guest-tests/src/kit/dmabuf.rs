//! A dmabuf of ordinary memory, by udmabuf (`drivers/dma-buf/udmabuf.c`). The kernel treats it as
//! the memory of a device; the program can read it all the same.
#![allow(unsafe_code, reason = "an ioctl that the libraries don't know")]

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use crate::kit::memory::{Area, whole_pages};

/// `struct udmabuf_create` of `include/uapi/linux/udmabuf.h`.
#[repr(C)]
struct Create {
    memfd: u32,
    flags: u32,
    offset: u64,
    size: u64,
}

const _: () = assert!(size_of::<Create>() == 24);

/// `UDMABUF_CREATE`: `_IOW('u', 0x42, struct udmabuf_create)`.
const CREATE: libc::c_ulong = 0x4018_7542;
/// `UDMABUF_FLAGS_CLOEXEC`.
const CLOEXEC: u32 = 1;

/// A dmabuf, and its memory.
#[derive(Debug)]
pub struct Dmabuf {
    fd: OwnedFd,
    file: File,
    memory: Area,
}

impl Dmabuf {
    /// Makes a dmabuf of `len` bytes, rounded up to whole pages, of huge pages if `huge`.
    pub fn new(len: usize, huge: bool) -> io::Result<Self> {
        let len = whole_pages(len, huge);
        let mut flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC;
        if huge {
            flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        }
        let file = File::from(memfd_create("zcnic-dmabuf", flags)?);
        ftruncate(&file, len as u64)?;
        fcntl_add_seals(&file, SealFlags::SHRINK)?;
        let memory = Area::of_file(&file, len)?;
        let maker = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/udmabuf")?;
        let create = Create {
            memfd: file.as_raw_fd().cast_unsigned(),
            flags: CLOEXEC,
            offset: 0,
            size: len as u64,
        };
        // SAFETY: the kernel reads the struct, which is of the uapi's layout.
        let fd = unsafe { libc::ioctl(maker.as_raw_fd(), CREATE, &raw const create) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the ioctl has made the descriptor for this call alone.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, file, memory })
    }

    /// Its memory.
    #[must_use]
    pub fn memory(&self) -> &Area {
        &self.memory
    }

    /// Writes to it (not to huge pages, whose files can't be written to).
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }
}

impl AsFd for Dmabuf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
