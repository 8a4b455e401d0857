//! `TCP_ZEROCOPY_RECEIVE` (Linux `net/ipv4/tcp.c`): payload that fills pages is mapped where the
//! program reads it.
#![allow(
    unsafe_code,
    reason = "a mapping of a socket, and a socket option that the libraries don't know"
)]

use std::{
    io,
    net::TcpStream,
    os::fd::{AsFd, AsRawFd},
    ptr::NonNull,
};

use anyhow::{Context, Result, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    mm::{MapFlags, ProtFlags, mmap, munmap},
    net::{RecvFlags, recv},
};

/// Bytes that are mapped at once.
const WINDOW: usize = 1 << 20;

/// `struct tcp_zerocopy_receive` of `include/uapi/linux/tcp.h`.
#[repr(C)]
#[derive(Debug, Default)]
struct ZeroCopyReceive {
    address: u64,
    /// In: bytes of the window. Out: bytes mapped.
    length: u32,
    /// Out: bytes that the program has to receive by `recv()`.
    recv_skip_hint: u32,
    /// Out: bytes in the receive queue.
    inq: u32,
    /// Out: the socket's error.
    err: i32,
    copybuf_address: u64,
    copybuf_len: i32,
    flags: u32,
    msg_control: u64,
    msg_controllen: u64,
    msg_flags: u32,
    reserved: u32,
}

/// A window into a socket's receive queue, or several side by side.
pub(crate) struct Mapping<'s> {
    socket: &'s TcpStream,
    start: NonNull<u8>,
    length: usize,
    /// Bytes that stay mapped.
    kept: usize,
}

/// The next bytes of the stream: first the mapped ones, then the copied ones.
pub(crate) struct MappedPiece<'b> {
    pub(crate) mapped: &'b [u8],
    pub(crate) copied: &'b [u8],
}

impl<'s> Mapping<'s> {
    /// Maps every piece into the same window.
    pub(crate) fn new(socket: &'s TcpStream) -> Result<Self> {
        Self::of(socket, WINDOW)
    }

    /// Keeps `bytes` bytes mapped, each at its own place.
    pub(crate) fn keeping(socket: &'s TcpStream, bytes: usize) -> Result<Self> {
        Self::of(socket, bytes + WINDOW)
    }

    fn of(socket: &'s TcpStream, length: usize) -> Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choosing touches nothing of ours.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ,
                MapFlags::SHARED,
                socket.as_fd(),
                0,
            )
        }
        .context("mapping a socket")?;
        let start = NonNull::new(start.cast()).context("mapping a socket at 0")?;
        Ok(Self {
            socket,
            start,
            length,
            kept: 0,
        })
    }

    /// Waits for more, maps whole pages, and copies bytes that can't be mapped to `buffer`. `None`
    /// at the end of the stream. Unmaps the piece before, unless it is kept.
    pub(crate) fn next<'b>(&'b mut self, buffer: &'b mut [u8]) -> Result<Option<MappedPiece<'b>>> {
        let timeout = Timespec {
            tv_sec: 60,
            tv_nsec: 0,
        };
        let ready = poll(
            &mut [PollFd::new(self.socket, PollFlags::IN)],
            Some(&timeout),
        )?;
        ensure!(ready > 0, "no data for a minute");
        let Some(request) = self.map()? else {
            return Ok(None);
        };
        ensure!(request.err == 0, "the socket has error {}", request.err);
        let length = request.length as usize;
        ensure!(length <= WINDOW, "{length} bytes are mapped");
        // The next piece to map begins in a page of its own again.
        let skip = (request.recv_skip_hint as usize).min(buffer.len());
        let copied = if length == 0 || skip > 0 {
            let wanted = if skip > 0 { skip } else { buffer.len() };
            let flags = if length > 0 {
                RecvFlags::DONTWAIT
            } else {
                RecvFlags::empty()
            };
            recv(self.socket, &mut buffer[..wanted], flags)?.0
        } else {
            0
        };
        if length == 0 && copied == 0 {
            return Ok(None);
        }
        // SAFETY: the kernel has mapped that many bytes there, for reading; they stay until the
        // next call, which ends the borrow.
        let mapped = unsafe { std::slice::from_raw_parts(self.at().as_ptr(), length) };
        if self.kept + length + WINDOW <= self.length {
            self.kept += length;
        }
        Ok(Some(MappedPiece {
            mapped,
            copied: &buffer[..copied],
        }))
    }

    /// Address of the next mapping.
    fn at(&self) -> NonNull<u8> {
        // SAFETY: a window fits behind the kept bytes.
        unsafe { self.start.add(self.kept) }
    }

    /// `None`: the stream has ended.
    fn map(&mut self) -> Result<Option<ZeroCopyReceive>> {
        let mut request = ZeroCopyReceive {
            address: self.at().as_ptr().expose_provenance() as u64,
            length: WINDOW as u32,
            ..ZeroCopyReceive::default()
        };
        let mut size = size_of::<ZeroCopyReceive>() as libc::socklen_t;
        // SAFETY: the kernel writes to the request, as long as it is, and maps pages of the socket
        // into the window, which is a mapping of that socket with this length.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_ZEROCOPY_RECEIVE,
                (&raw mut request).cast(),
                &raw mut size,
            )
        };
        if result == 0 {
            return Ok(Some(request));
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EIO) => Ok(None),
            error => Err(error).context("TCP_ZEROCOPY_RECEIVE"),
        }
    }
}

impl Drop for Mapping<'_> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows it any more.
        if let Err(error) = unsafe { munmap(self.start.as_ptr().cast(), self.length) } {
            eprintln!("zcnic-guest: munmap: {error}");
        }
    }
}
