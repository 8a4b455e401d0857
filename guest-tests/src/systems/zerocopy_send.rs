//! Sending without copies: `MSG_ZEROCOPY` of sockets, `IORING_OP_SEND_ZC` of `io_uring`, and what the kernel says when
//! it needs the memory no more.
#![allow(
    unsafe_code,
    reason = "a socket's error queue, which the libraries can't read, and submission queue entries"
)]

use std::{
    collections::BTreeSet, io, mem::MaybeUninit, net::TcpStream, os::fd::AsRawFd, time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use io_uring::{IoUring, cqueue, opcode, types};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{SendFlags, send},
};

/// `SO_EE_ORIGIN_ZEROCOPY`.
const ORIGIN_ZEROCOPY: u8 = 5;
/// `SO_EE_CODE_ZEROCOPY_COPIED`.
const CODE_COPIED: u8 = 1;
/// `IORING_SEND_ZC_REPORT_USAGE`: a notification says whether data was copied.
const REPORT_USAGE: u16 = 1 << 3;
/// `IORING_NOTIF_USAGE_ZC_COPIED`, in the result of a notification.
const USAGE_COPIED: u32 = 1 << 31;
/// How long memory may be in use.
const PATIENCE: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};

/// What became of sends.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    /// Calls, or requests.
    pub(super) sends: u64,
    /// Of these, those whose memory is not needed any more.
    pub(super) completed: u64,
    /// Of these, those that the kernel copied nevertheless.
    pub(super) copied: u64,
}

/// Somebody who sends on a socket. Memory must stay as it is until [`ZeroCopy::finish`].
pub(super) trait ZeroCopy {
    /// Sends all of it.
    fn send(&mut self, bytes: &[u8]) -> Result<()>;
    /// Waits until no memory is needed any more.
    fn finish(&mut self) -> Result<Sent>;
}

/// Sends with `MSG_ZEROCOPY`.
pub(super) struct Flagged<'s> {
    socket: &'s TcpStream,
    sent: Sent,
    /// The numbers of sends that are not completed.
    pending: BTreeSet<u64>,
}

impl<'s> Flagged<'s> {
    pub(super) fn new(socket: &'s TcpStream) -> Result<Self> {
        let on: libc::c_int = 1;
        // SAFETY: the kernel reads an integer of ours.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ZEROCOPY,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        ensure!(result == 0, "SO_ZEROCOPY: {}", io::Error::last_os_error());
        Ok(Self {
            socket,
            sent: Sent::default(),
            pending: BTreeSet::new(),
        })
    }

    /// Takes one message of the error queue, if there is one: a range of sends that are completed.
    fn reap(&mut self) -> Result<bool> {
        // A header and `struct sock_extended_err`, and room for an address behind it.
        let mut control = [0_u64; 16];
        // SAFETY: all zero is a header of no message.
        let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = size_of_val(&control);
        let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
        // SAFETY: the kernel writes to the control buffer, as long as it is said to be.
        let result = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, flags) };
        if result < 0 {
            return match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
                error => Err(error).context("reading the error queue"),
            };
        }
        // SAFETY: the kernel has filled the header in.
        let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        ensure!(!header.is_null(), "a message without a reason");
        // SAFETY: there is a header; the buffer is large and aligned enough for what is behind it.
        let (level, kind, error) = unsafe {
            let data = libc::CMSG_DATA(header).cast::<libc::sock_extended_err>();
            (
                (*header).cmsg_level,
                (*header).cmsg_type,
                data.read_unaligned(),
            )
        };
        ensure!(
            (level, kind) == (libc::SOL_IP, libc::IP_RECVERR)
                && error.ee_errno == 0
                && error.ee_origin == ORIGIN_ZEROCOPY,
            "a message that is no completion: {level}, {kind}, error {}",
            error.ee_errno
        );
        // Mostly in order, but not if something was sent again.
        for number in u64::from(error.ee_info)..=u64::from(error.ee_data) {
            ensure!(
                self.pending.remove(&number),
                "send {number} is completed twice or was never made: {:?}",
                self.sent
            );
            self.sent.completed += 1;
            self.sent.copied += u64::from(error.ee_code & CODE_COPIED);
        }
        Ok(true)
    }

    /// Waits for a message of the error queue, and takes it.
    fn wait(&mut self) -> Result<()> {
        while !self.reap()? {
            // Errors are always polled for.
            let mut poll_for = [PollFd::new(self.socket, PollFlags::empty())];
            let ready = poll(&mut poll_for, Some(&PATIENCE))?;
            ensure!(ready > 0, "memory is still in use: {:?}", self.sent);
        }
        Ok(())
    }
}

impl ZeroCopy for Flagged<'_> {
    fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        let flags = SendFlags::from_bits_retain(libc::MSG_ZEROCOPY.cast_unsigned());
        while !bytes.is_empty() {
            match send(self.socket, bytes, flags | SendFlags::NOSIGNAL) {
                Ok(length) => {
                    self.pending.insert(self.sent.sends);
                    self.sent.sends += 1;
                    bytes = &bytes[length..];
                    while self.reap()? {}
                }
                // Completions that nobody has read count against net.core.optmem_max.
                Err(rustix::io::Errno::NOBUFS) if !self.pending.is_empty() => {
                    self.wait()?;
                }
                Err(error) => return Err(error).context("sending with MSG_ZEROCOPY"),
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Sent> {
        while !self.pending.is_empty() {
            self.wait()?;
        }
        Ok(self.sent)
    }
}

/// Sends with `IORING_OP_SEND_ZC`.
pub(super) struct Requested<'s> {
    socket: &'s TcpStream,
    uring: IoUring,
    sent: Sent,
}

impl<'s> Requested<'s> {
    pub(super) fn new(socket: &'s TcpStream) -> Result<Self> {
        Ok(Self {
            socket,
            uring: IoUring::new(8).context("io_uring_setup")?,
            sent: Sent::default(),
        })
    }

    /// Takes completions until there is one of a request, and returns its result; or (`false`) one of a notification.
    fn next(&mut self, of_request: bool) -> Result<i32> {
        let timeout = types::Timespec::from(Duration::from_secs(30));
        loop {
            while let Some(entry) = self.uring.completion().next() {
                if !cqueue::notif(entry.flags()) {
                    if entry.result() >= 0 {
                        ensure!(cqueue::more(entry.flags()), "no notification will come");
                    }
                    return Ok(entry.result());
                }
                self.sent.completed += 1;
                match entry.result().cast_unsigned() {
                    0 => {}
                    USAGE_COPIED => self.sent.copied += 1,
                    other => bail!("a notification of {other:#x}"),
                }
                if !of_request {
                    return Ok(0);
                }
            }
            let arguments = types::SubmitArgs::new().timespec(&timeout);
            let submitted = self.uring.submitter().submit_with_args(1, &arguments);
            submitted.with_context(|| format!("waiting for completions: {:?}", self.sent))?;
        }
    }
}

impl ZeroCopy for Requested<'_> {
    fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let fd = types::Fd(self.socket.as_raw_fd());
            let length = bytes.len().min(1 << 30) as u32;
            // What is appended to another request's packet is reported as copied, although it is not
            // (io_link_skb(), io_notif_tw_complete(), io_uring/notif.c): so each has packets of its own.
            let request = opcode::SendZc::new(fd, bytes.as_ptr(), length)
                .flags(libc::MSG_WAITALL | libc::MSG_EOR)
                .zc_flags(REPORT_USAGE)
                .build();
            // SAFETY: the kernel only reads, and has references to the pages when this returns.
            unsafe { self.uring.submission().push(&request) }.context("submission queue")?;
            self.sent.sends += 1;
            let length = self.next(true)?;
            let length = usize::try_from(length)
                .map_err(|_| io::Error::from_raw_os_error(-length))
                .context("IORING_OP_SEND_ZC")?;
            bytes = &bytes[length..];
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Sent> {
        while self.sent.completed < self.sent.sends {
            self.next(false)?;
        }
        Ok(self.sent)
    }
}
