//! An io_uring whose requests receive by an instance of zero-copy receive.
#![allow(
    unsafe_code,
    reason = "making and pushing submission queue entries, borrowing the ring's descriptor"
)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use io_uring::{IoUring, Probe, cqueue, opcode, squeue, types};

use super::{
    error::{Error, kernel},
    options::Buffer,
    sys,
};

/// The user data of notifications, which no request may have.
pub const NOTIFICATION: u64 = u64::MAX;

/// An entry of the completion queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// The request's, or [`NOTIFICATION`].
    pub tag: u64,
    /// Bytes, `-errno`, or a notification's type.
    pub result: i32,
    /// `IORING_CQE_F_*`.
    pub flags: u32,
    /// Its meaning.
    pub kind: CompletionKind,
}

/// Meaning of a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompletionKind {
    /// Data; the request goes on.
    Data(Buffer),
    /// The request is over: 0 (end of stream, or all that a limited request asked for) or `-errno`.
    End,
    /// An event (`sys::EVENT_*`), which the kernel reports once until [`Ring::arm`].
    Notification,
}

/// An io_uring with an instance of zero-copy receive, its own or an imported one.
pub struct Ring {
    ring: IoUring<squeue::Entry, cqueue::Entry32>,
    /// The instance's id in requests.
    id: u32,
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring is open as long as the borrow lasts.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

impl Ring {
    /// Makes a ring with room for `completions`; `register` registers its instance and returns the
    /// id.
    pub(super) fn new(
        completions: u32,
        register: impl FnOnce(BorrowedFd<'_>) -> Result<u32, Error>,
    ) -> Result<Self, Error> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(completions)
            .build(8)
            .map_err(|source| Error::Setup {
                kernel: kernel(),
                source,
            })?;
        let mut probe = Probe::new();
        if ring.submitter().register_probe(&mut probe).is_err()
            || !probe.is_supported(opcode::RecvZc::CODE)
        {
            return Err(Error::NoZcrx { kernel: kernel() });
        }
        let mut ring = Self { ring, id: 0 };
        ring.id = register(ring.as_fd())?;
        Ok(ring)
    }

    /// Makes a ring that receives by an instance that another ring has exported, into that ring's
    /// memory.
    pub fn import(handle: BorrowedFd<'_>, completions: u32) -> Result<Self, Error> {
        Self::new(completions, |ring| {
            sys::import_ifq(ring.as_raw_fd(), handle).map_err(failed("importing an instance"))
        })
    }

    /// Returns a handle for [`Ring::import`], which keeps the instance alive.
    pub fn export(&self) -> Result<OwnedFd, Error> {
        sys::export(self.ring.as_raw_fd(), self.id).map_err(failed("exporting the instance"))
    }

    /// Starts receiving from a TCP socket, `limit` bytes or (0) until the end of the stream, with
    /// completions that have this tag. One request per socket at a time.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, limit: u32, tag: u64) -> Result<(), Error> {
        let entry = self.entry(socket, limit, tag);
        self.push(&entry)
    }

    /// Does the same by a request that ends with its first completion.
    pub fn receive_once(&mut self, socket: BorrowedFd<'_>, tag: u64) -> Result<(), Error> {
        let mut entry = self.entry(socket, 0, tag);
        // The crate sets IORING_RECV_MULTISHOT, alone, in `ioprio`.
        const IOPRIO: usize = 2;
        const { assert!(size_of::<squeue::Entry>() == 64) };
        // SAFETY: an entry is a `struct io_uring_sqe`, 64 bytes that are plain integers.
        unsafe { (&raw mut entry).cast::<u16>().byte_add(IOPRIO).write(0) };
        self.push(&entry)
    }

    fn entry(&self, socket: BorrowedFd<'_>, limit: u32, tag: u64) -> squeue::Entry {
        opcode::RecvZc::new(types::Fd(socket.as_raw_fd()), limit)
            .ifq(self.id)
            .build()
            .user_data(tag)
    }

    fn push(&mut self, entry: &squeue::Entry) -> Result<(), Error> {
        if self.ring.submission().is_full() {
            self.ring.submit().map_err(failed("io_uring_enter"))?;
        }
        // SAFETY: the entry refers to no memory of ours, only to the registered area.
        unsafe { self.ring.submission().push(entry) }
            .map_err(|_| failed("submission queue")(io::ErrorKind::StorageFull.into()))
    }

    /// Submits, and waits until there is a completion or `timeout` is over.
    pub fn wait(&mut self, timeout: Duration) -> Result<(), Error> {
        let timeout = types::Timespec::from(timeout);
        let args = types::SubmitArgs::new().timespec(&timeout);
        match self.ring.submitter().submit_with_args(1, &args) {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR)) => Ok(()),
            Err(source) => Err(failed("io_uring_enter")(source)),
        }
    }

    /// Takes the next completion, without waiting.
    pub fn next_completion(&mut self) -> Option<Completion> {
        self.ring.completion().next().map(|cqe| decode(&cqe))
    }

    /// Number of completions that can be taken.
    pub fn waiting(&mut self) -> usize {
        self.ring.completion().len()
    }

    /// Whether the completion queue was full, so that the kernel keeps completions until the
    /// program makes room and enters (`IORING_SQ_CQ_OVERFLOW`).
    pub fn overflowed(&mut self) -> bool {
        self.ring.submission().cq_overflow()
    }

    /// Asks for the next notification of this type.
    pub fn arm(&self, event: u32) -> Result<(), Error> {
        sys::arm_event(self.ring.as_raw_fd(), self.id, event)
            .map_err(failed("arming a notification"))
    }

    /// Makes the kernel take the buffers in the refill ring.
    pub(super) fn flush(&self) -> Result<(), Error> {
        sys::flush_refill_ring(self.ring.as_raw_fd(), self.id)
            .map_err(failed("flushing the refill ring"))
    }

    /// Adds an area to the instance.
    pub(super) fn add_area(&self, area: &mut sys::AreaReg) -> Result<(), Error> {
        sys::add_area(self.ring.as_raw_fd(), self.id, area).map_err(failed("adding an area"))
    }
}

fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { operation, source }
}

/// A data completion has F_MORE, and the place of its data in the second half of the entry.
fn decode(cqe: &cqueue::Entry32) -> Completion {
    let (tag, result, flags) = (cqe.user_data(), cqe.result(), cqe.flags());
    let kind = match u32::try_from(result) {
        _ if tag == NOTIFICATION => CompletionKind::Notification,
        Ok(len) if len > 0 && cqueue::more(flags) => {
            let place = cqe.big_cqe()[0];
            CompletionKind::Data(Buffer {
                area: (place >> sys::AREA_SHIFT) as u16,
                offset: place & !sys::AREA_MASK,
                len,
            })
        }
        _ => CompletionKind::End,
    };
    Completion {
        tag,
        result,
        flags,
        kind,
    }
}
