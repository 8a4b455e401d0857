//! A group of provided buffers, from which the kernel chooses one for each request of an io_uring
//! (Linux `io_uring/kbuf.c`).
#![allow(
    unsafe_code,
    reason = "submission queue entries, and a ring in memory shared with the kernel"
)]

use std::{
    fs::File,
    io,
    net::TcpStream,
    os::fd::AsRawFd,
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use io_uring::{IoUring, cqueue, opcode, squeue, types};

use crate::kit::memory::Area;

/// The group's number; each io_uring here has one group.
const GROUP: u16 = 0;
/// The file that is read from.
const FILE: types::Fixed = types::Fixed(0);
/// User data of requests that change the group itself; they complete only if they fail.
const OWN: u64 = u64::MAX;
/// `IORING_REGISTER_PBUF_STATUS`.
const REGISTER_PBUF_STATUS: u32 = 26;
/// `IOU_PBUF_RING_INC`.
const INCREMENTAL: u16 = 2;

/// How the kernel gets buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupKind {
    /// By `IORING_OP_PROVIDE_BUFFERS`.
    Classic,
    /// In a ring that was registered with `IORING_REGISTER_PBUF_RING`.
    Ring,
    /// The same, and the next request continues in the rest of a buffer (`IOU_PBUF_RING_INC`).
    Incremental,
}

/// How a request receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receive {
    /// Once, into one buffer.
    Once,
    /// The same, at most this number of bytes.
    AtMost(u32),
    /// Repeatedly (multishot), into one buffer at a time.
    Multishot,
    /// The same, into as many buffers as there is data for (`IORING_RECVSEND_BUNDLE`).
    Bundles,
}

/// A completion.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BufferCompletion {
    /// Bytes, or `-errno`.
    pub(crate) result: i32,
    /// The buffer, or the first one.
    pub(crate) buffer: Option<u16>,
    /// More will come to this buffer.
    pub(crate) buffer_goes_on: bool,
    /// More completions will come of this request.
    pub(crate) goes_on: bool,
}

/// An io_uring with a group of buffers, all of the same length.
pub(crate) struct BufferGroup {
    /// Dropped first: after that the kernel no longer writes to the memory.
    uring: IoUring,
    table: Option<Table>,
    memory: Area,
    count: u16,
    length: u32,
}

impl BufferGroup {
    /// Makes `count` buffers (a power of two) of `length` bytes, none of which is provided yet.
    pub(crate) fn new(kind: GroupKind, count: u16, length: u32) -> Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(8192)
            .build(256)
            .context("io_uring_setup")?;
        let memory = Area::new(usize::from(count) * length as usize, false)?;
        let table = match kind {
            GroupKind::Classic => None,
            GroupKind::Ring => Some(Table::new(&uring, count, 0)?),
            GroupKind::Incremental => Some(Table::new(&uring, count, INCREMENTAL)?),
        };
        Ok(Self {
            uring,
            table,
            memory,
            count,
            length,
        })
    }

    /// Gives the kernel `count` buffers from `first` on; classic ones with the next submission.
    pub(crate) fn provide(&mut self, first: u16, count: u16) -> Result<()> {
        ensure!(first + count <= self.count, "there is no such buffer");
        let start = self
            .memory
            .as_ptr()
            .expose_provenance()
            .get()
            .wrapping_add(usize::from(first) * self.length as usize);
        let Some(table) = &mut self.table else {
            let start = std::ptr::with_exposed_provenance_mut(start);
            let provide =
                opcode::ProvideBuffers::new(start, self.length.cast_signed(), count, GROUP, first)
                    .build()
                    .flags(squeue::Flags::SKIP_SUCCESS)
                    .user_data(OWN);
            return self.push(&provide);
        };
        for number in 0..count {
            let at = start + usize::from(number) * self.length as usize;
            table.put(at as u64, self.length, first + number);
        }
        table.publish();
        Ok(())
    }

    /// Number of buffers that the kernel has. It counts a classic group by removing all of them.
    pub(crate) fn left(&mut self) -> Result<u16> {
        if let Some(table) = &self.table {
            return table.left(&self.uring);
        }
        let remove = opcode::RemoveBuffers::new(self.count, GROUP).build();
        self.push(&remove)?;
        self.wait(1)?;
        let removed = self.next()?.context("no completion")?.result;
        u16::try_from(removed).with_context(|| format!("IORING_OP_REMOVE_BUFFERS: {removed}"))
    }

    /// Receives into buffers of the group.
    pub(crate) fn receive(&mut self, socket: &TcpStream, how: Receive) -> Result<()> {
        let fd = types::Fd(socket.as_raw_fd());
        let once = |length| {
            opcode::Recv::new(fd, std::ptr::null_mut(), length)
                .buf_group(GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT)
        };
        let receive = match how {
            Receive::Once => once(0),
            Receive::AtMost(length) => once(length),
            Receive::Multishot => opcode::RecvMulti::new(fd, GROUP).build(),
            Receive::Bundles => opcode::RecvMultiBundle::new(fd, GROUP).build(),
        };
        self.push(&receive)
    }

    /// Registers the file that reads read from.
    pub(crate) fn read_from(&self, file: &File) -> Result<()> {
        let registered = self.uring.submitter().register_files(&[file.as_raw_fd()]);
        registered.context("IORING_REGISTER_FILES")
    }

    /// Reads a byte into a buffer of the group.
    pub(crate) fn read(&mut self) -> Result<()> {
        let read = opcode::Read::new(FILE, std::ptr::null_mut(), 1)
            .buf_group(GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        self.push(&read)
    }

    /// Reads a byte into the first buffer's memory, named by the request.
    pub(crate) fn read_there(&mut self) -> Result<()> {
        let read = opcode::Read::new(FILE, self.memory.as_ptr().as_ptr(), 1).build();
        self.push(&read)
    }

    /// Submits a NOP.
    pub(crate) fn nop(&mut self) -> Result<()> {
        self.push(&opcode::Nop::new().build())
    }

    fn push(&mut self, entry: &squeue::Entry) -> Result<()> {
        // SAFETY: all entries refer to memory of the group only, which goes after the io_uring.
        unsafe { self.uring.submission().push(entry) }.context("the submission queue is full")
    }

    /// Submits, and waits until there are `count` completions.
    pub(crate) fn wait(&mut self, count: usize) -> Result<()> {
        let timeout = types::Timespec::from(Duration::from_secs(60));
        let arguments = types::SubmitArgs::new().timespec(&timeout);
        let submitted = self.uring.submitter().submit_with_args(count, &arguments);
        submitted.map(drop).context("io_uring_enter")
    }

    /// Takes the next completion, without waiting.
    pub(crate) fn next(&mut self) -> Result<Option<BufferCompletion>> {
        let Some(entry) = self.uring.completion().next() else {
            return Ok(None);
        };
        if entry.user_data() == OWN {
            bail!("buffers were not provided: {}", entry.result());
        }
        Ok(Some(BufferCompletion {
            result: entry.result(),
            buffer: cqueue::buffer_select(entry.flags()),
            buffer_goes_on: cqueue::buffer_more(entry.flags()),
            goes_on: cqueue::more(entry.flags()),
        }))
    }

    /// Bytes of a buffer. The kernel does not write to them from their completion until the buffer
    /// is provided again.
    pub(crate) fn bytes(&self, buffer: u16, offset: usize, length: usize) -> Result<&[u8]> {
        let fits = buffer < self.count && offset + length <= self.length as usize;
        ensure!(
            fits,
            "{length} bytes at {offset} of buffer {buffer}, of which there are {}",
            self.count
        );
        let start = usize::from(buffer) * self.length as usize + offset;
        let bytes = self.memory.bytes(start as u64, length);
        bytes.context("a buffer is not in its memory")
    }
}

/// `struct io_uring_buf_status`.
#[repr(C)]
#[derive(Default)]
struct Status {
    group: u32,
    head: u32,
    resv: [u32; 8],
}

/// `struct io_uring_buf`. In the first entry, `resv` is the ring's tail.
#[repr(C)]
struct Slot {
    address: u64,
    length: u32,
    id: u16,
    tail: AtomicU16,
}

/// `struct io_uring_buf_ring`: the program writes at the tail; the kernel's head is not in it.
struct Table {
    slots: NonNull<Slot>,
    entries: u16,
    tail: u16,
    /// Start of the ring.
    _memory: Area,
}

impl Table {
    fn new(uring: &IoUring, entries: u16, flags: u16) -> Result<Self> {
        let memory = Area::new(usize::from(entries) * size_of::<Slot>(), false)?;
        let address = memory.as_ptr().expose_provenance().get() as u64;
        // SAFETY: the kernel has references to the pages, and the ring stays there as long as the
        // io_uring does.
        unsafe {
            uring
                .submitter()
                .register_buf_ring_with_flags(address, entries, GROUP, flags)
        }
        .context("IORING_REGISTER_PBUF_RING")?;
        Ok(Self {
            slots: memory.as_ptr().cast(),
            entries,
            tail: 0,
            _memory: memory,
        })
    }

    /// Adds a buffer, which the kernel sees when it is published.
    fn put(&mut self, address: u64, length: u32, id: u16) {
        let index = usize::from(self.tail & (self.entries - 1));
        // SAFETY: within the ring; between tail and head the kernel reads nothing but the tail,
        // which is not touched.
        unsafe {
            let slot = self.slots.add(index).as_ptr();
            (&raw mut (*slot).address).write(address);
            (&raw mut (*slot).length).write(length);
            (&raw mut (*slot).id).write(id);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Buffers between the kernel's head and our tail.
    fn left(&self, uring: &IoUring) -> Result<u16> {
        let mut status = Status {
            group: GROUP.into(),
            ..Status::default()
        };
        // SAFETY: the kernel writes to a live struct of the uapi's layout.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                uring.as_raw_fd(),
                REGISTER_PBUF_STATUS,
                &raw mut status,
                1,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error()).context("IORING_REGISTER_PBUF_STATUS");
        }
        let head = u16::try_from(status.head)?;
        Ok(self.tail.wrapping_sub(head))
    }

    fn publish(&mut self) {
        // SAFETY: the first slot is within the ring. Release: slots are visible before the tail.
        let tail = unsafe { &(*self.slots.as_ptr()).tail };
        tail.store(self.tail, Ordering::Release);
    }
}
