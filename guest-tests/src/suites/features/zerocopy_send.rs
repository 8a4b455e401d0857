//! Sending without copies: `MSG_ZEROCOPY` of sockets, `IORING_OP_SEND_ZC` of `io_uring`, and the
//! kernel's notifications that it no longer needs the memory.
#![allow(unsafe_code, reason = "pushing a submission queue entry")]

use std::{
    collections::BTreeSet,
    io,
    net::TcpStream,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use io_uring::{IoUring, cqueue, opcode, types};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{SendFlags, send},
};

use crate::kit::socket::{allow_zerocopy, sent};

/// `IORING_SEND_ZC_REPORT_USAGE`: a notification reports whether data was copied.
const REPORT_USAGE: u16 = 1 << 3;
/// `IORING_NOTIF_USAGE_ZC_COPIED`, in the result of a notification.
const USAGE_COPIED: u32 = 1 << 31;
/// Time limit for the kernel to release memory.
const PATIENCE: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};

/// Counts of sends.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct SendCounts {
    /// Calls, or requests.
    pub(super) sends: u64,
    /// Completed sends, whose memory the kernel no longer needs.
    pub(super) completed: u64,
    /// Completed sends that the kernel copied nevertheless.
    pub(super) copied: u64,
}

/// A zero-copy sender. Memory must not change until [`ZeroCopy::finish`].
pub(super) trait ZeroCopy {
    /// Sends all of it.
    fn send(&mut self, bytes: &[u8]) -> Result<()>;
    /// Waits until the kernel no longer needs any memory.
    fn finish(&mut self) -> Result<SendCounts>;
}

/// Sends with `MSG_ZEROCOPY`.
pub(super) struct Flagged<'s> {
    socket: &'s TcpStream,
    sent: SendCounts,
    /// The numbers of sends that are not completed.
    pending: BTreeSet<u64>,
}

impl<'s> Flagged<'s> {
    pub(super) fn new(socket: &'s TcpStream) -> Result<Self> {
        allow_zerocopy(socket).context("SO_ZEROCOPY")?;
        Ok(Self {
            socket,
            sent: SendCounts::default(),
            pending: BTreeSet::new(),
        })
    }

    /// Takes one message of the error queue, if there is one: a range of sends that are completed.
    fn reap(&mut self) -> Result<bool> {
        let Some(completed) = sent(self.socket.as_fd()).context("reading the error queue")? else {
            return Ok(false);
        };
        // In order, except after a retransmission.
        for number in u64::from(completed.first)..=u64::from(completed.last) {
            ensure!(
                self.pending.remove(&number),
                "send {number} is completed twice or was never made: {:?}",
                self.sent
            );
            self.sent.completed += 1;
            self.sent.copied += u64::from(completed.copied);
        }
        Ok(true)
    }

    /// Waits for a message of the error queue, and takes it.
    fn wait(&mut self) -> Result<()> {
        while !self.reap()? {
            // poll() always reports errors.
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
                // Unread completions count against net.core.optmem_max.
                Err(rustix::io::Errno::NOBUFS) if !self.pending.is_empty() => {
                    self.wait()?;
                }
                Err(error) => return Err(error).context("sending with MSG_ZEROCOPY"),
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<SendCounts> {
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
    sent: SendCounts,
}

impl<'s> Requested<'s> {
    pub(super) fn new(socket: &'s TcpStream) -> Result<Self> {
        Ok(Self {
            socket,
            uring: IoUring::new(8).context("io_uring_setup")?,
            sent: SendCounts::default(),
        })
    }

    /// Takes completions up to one of a request (`true`), whose result it returns, or of a
    /// notification (`false`).
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
            // The kernel reports data that it appends to another request's packet as copied,
            // although it is not (io_link_skb(), io_notif_tw_complete(), io_uring/notif.c), so each
            // request has its own packets.
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

    fn finish(&mut self) -> Result<SendCounts> {
        while self.sent.completed < self.sent.sends {
            self.next(false)?;
        }
        Ok(self.sent)
    }
}
