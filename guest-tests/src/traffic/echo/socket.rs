//! An AF_XDP socket that sends received frames back, in the chunks that hold them, or sends frames
//! of its own.
#![allow(
    unsafe_code,
    reason = "rings that the kernel shares with us, and system calls with pointers"
)]

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::kit::zcrx::Area;

const MMAP_OFFSETS: i32 = 1;
const RX_RING: i32 = 2;
const TX_RING: i32 = 3;
const UMEM_REG: i32 = 4;
const FILL_RING: i32 = 5;
const COMPLETION_RING: i32 = 6;
const OPTIONS: i32 = 8;

const PAGE_OFFSETS: [u64; 4] = [0, 0x8000_0000, 0x1_0000_0000, 0x1_8000_0000];

const COPY: u16 = 1 << 1;
const ZERO_COPY: u16 = 1 << 2;
const NEED_WAKEUP: u16 = 1 << 3;
const SEVERAL_CHUNKS: u16 = 1 << 4;

const UNALIGNED: u32 = 1;
/// Flag of a descriptor: the frame continues in the next one (`XDP_PKT_CONTD`).
const CONTINUED: u32 = 1;
/// Flag of a ring: the kernel waits for a system call.
const RING_NEEDS_WAKEUP: u32 = 1;
/// Shift in the address of an unaligned chunk: low bits are the chunk, high bits the offset in it.
const OFFSET_SHIFT: u32 = 48;

/// Entries of each ring, and chunks.
const ENTRIES: u32 = 512;
const PAGE: usize = 4096;
/// Offset of unaligned chunks in their page: no power of two, and far enough from the next page,
/// which need not follow this one in memory.
const ODD_START: usize = 1001;

/// Options of the socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(super) copy: bool,
    pub(super) unaligned: bool,
    pub(super) need_wakeup: bool,
    pub(super) several_chunks: bool,
    pub(super) chunk: u32,
    pub(super) headroom: u32,
    /// All chunks are for frames that it sends.
    pub(super) sends: bool,
}

impl Shape {
    /// Options of a socket that only sends, without copies.
    pub(crate) const SENDER: Self = Self {
        copy: false,
        unaligned: false,
        need_wakeup: true,
        several_chunks: false,
        chunk: 2048,
        headroom: 0,
        sends: true,
    };
}

/// `struct xdp_ring_offset`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RingOffset {
    producer: u64,
    consumer: u64,
    descriptors: u64,
    flags: u64,
}

/// `struct xdp_desc`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Descriptor {
    address: u64,
    length: u32,
    options: u32,
}

/// A ring of `T`, mapped.
struct XskRing<T> {
    map: NonNull<u8>,
    length: usize,
    offset: RingOffset,
    /// The program's one of the two indices.
    next: u32,
    entry: std::marker::PhantomData<T>,
}

impl<T: Copy> XskRing<T> {
    fn new(socket: &OwnedFd, page_offset: u64, offset: RingOffset) -> io::Result<Self> {
        let length = offset.descriptors as usize + ENTRIES as usize * size_of::<T>();
        // SAFETY: a new mapping at an address of the kernel's choosing touches nothing of ours.
        let map = unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                socket,
                page_offset,
            )
        }?;
        let map = NonNull::new(map.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self {
            map,
            length,
            offset,
            next: 0,
            entry: std::marker::PhantomData,
        })
    }

    fn word(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: the kernel gave the offset of this word in the mapping, which lives as long as
        // this.
        unsafe { self.map.add(offset as usize).cast().as_ref() }
    }

    fn entry(&self, index: u32) -> NonNull<T> {
        let index = (index & (ENTRIES - 1)) as usize;
        // SAFETY: the index is below the number of entries that the mapping has.
        unsafe {
            self.map
                .add(self.offset.descriptors as usize)
                .cast()
                .add(index)
        }
    }

    fn needs_wakeup(&self) -> bool {
        self.word(self.offset.flags).load(Ordering::Relaxed) & RING_NEEDS_WAKEUP != 0
    }

    /// Takes an entry of a ring that the kernel produces.
    fn pop(&mut self) -> Option<T> {
        if self.word(self.offset.producer).load(Ordering::Acquire) == self.next {
            return None;
        }
        // SAFETY: the kernel has written it and leaves it alone until it is consumed.
        let entry = unsafe { self.entry(self.next).read() };
        self.next = self.next.wrapping_add(1);
        self.word(self.offset.consumer)
            .store(self.next, Ordering::Release);
        Some(entry)
    }

    /// Adds an entry to a ring that the kernel consumes. There are no more chunks than entries, so
    /// there is room.
    fn push(&mut self, entry: T) {
        // SAFETY: the kernel does not look at it until it is produced.
        unsafe { self.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
        self.word(self.offset.producer)
            .store(self.next, Ordering::Release);
    }
}

impl<T> Drop for XskRing<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrows it any more.
        if let Err(error) = unsafe { munmap(self.map.as_ptr().cast(), self.length) } {
            eprintln!("zcnic-guest: munmap: {error}");
        }
    }
}

/// The socket, its memory and its rings.
pub(crate) struct Socket {
    receive: XskRing<Descriptor>,
    transmit: XskRing<Descriptor>,
    fill: XskRing<u64>,
    completion: XskRing<u64>,
    socket: OwnedFd,
    memory: Area,
    shape: Shape,
    /// Free chunks for frames to send.
    free: Vec<u64>,
}

fn set<T>(socket: &OwnedFd, name: i32, value: &T) -> io::Result<()> {
    let size = size_of::<T>() as libc::socklen_t;
    let value = std::ptr::from_ref(value).cast();
    // SAFETY: the kernel reads `size` bytes there.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_XDP, name, value, size) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn get<T: Default>(socket: &OwnedFd, name: i32) -> io::Result<T> {
    let mut value = T::default();
    let mut size = size_of::<T>() as libc::socklen_t;
    let pointer = std::ptr::from_mut(&mut value).cast();
    // SAFETY: the kernel writes at most `size` bytes there, and T is made of integers.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            name,
            pointer,
            &raw mut size,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(value)
    }
}

impl Socket {
    pub(crate) fn bind(interface: u32, queue: u32, shape: Shape) -> io::Result<Self> {
        #[repr(C)]
        struct Registration {
            address: u64,
            length: u64,
            chunk: u32,
            headroom: u32,
            flags: u32,
            metadata: u32,
        }
        #[repr(C)]
        struct Address {
            family: u16,
            flags: u16,
            interface: u32,
            queue: u32,
            shared: u32,
        }
        // SAFETY: makes a new descriptor or fails.
        let fd: RawFd =
            unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has made the descriptor for this call alone.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let stride = if shape.unaligned {
            PAGE
        } else {
            shape.chunk as usize
        };
        let memory = Area::new(stride * ENTRIES as usize, false)?;
        let registration = Registration {
            address: memory.as_ptr().as_ptr().expose_provenance() as u64,
            length: memory.len() as u64,
            chunk: shape.chunk,
            headroom: shape.headroom,
            flags: if shape.unaligned { UNALIGNED } else { 0 },
            metadata: 0,
        };
        set(&socket, UMEM_REG, &registration)?;
        for ring in [FILL_RING, COMPLETION_RING, RX_RING, TX_RING] {
            set(&socket, ring, &ENTRIES)?;
        }
        let [receive, transmit, fill, completion] = get::<[RingOffset; 4]>(&socket, MMAP_OFFSETS)?;
        let mut this = Self {
            receive: XskRing::new(&socket, PAGE_OFFSETS[0], receive)?,
            transmit: XskRing::new(&socket, PAGE_OFFSETS[1], transmit)?,
            fill: XskRing::new(&socket, PAGE_OFFSETS[2], fill)?,
            completion: XskRing::new(&socket, PAGE_OFFSETS[3], completion)?,
            socket,
            memory,
            shape,
            free: Vec::new(),
        };
        for index in 0..ENTRIES as usize {
            let start = if shape.unaligned { ODD_START } else { 0 };
            let chunk = (index * stride + start) as u64;
            if shape.sends {
                this.free.push(chunk);
            } else {
                this.fill.push(chunk);
            }
        }
        let flag = |wanted: bool, flag| if wanted { flag } else { 0 };
        let address = Address {
            family: libc::AF_XDP as u16,
            flags: if shape.copy { COPY } else { ZERO_COPY }
                | flag(shape.need_wakeup, NEED_WAKEUP)
                | flag(shape.several_chunks, SEVERAL_CHUNKS),
            interface,
            queue,
            shared: 0,
        };
        let size = size_of::<Address>() as libc::socklen_t;
        let pointer = std::ptr::from_ref(&address).cast();
        // SAFETY: the kernel reads `size` bytes there.
        if unsafe { libc::bind(this.socket.as_raw_fd(), pointer, size) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(this)
    }

    pub(super) fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Whether the device uses the socket's memory without copies.
    pub(crate) fn is_zero_copy(&self) -> io::Result<bool> {
        Ok(get::<u32>(&self.socket, OPTIONS)? & 1 != 0)
    }

    /// Sends frames back until that fails; returns the error.
    pub(super) fn echo(&mut self) -> io::Error {
        let mut begins = true;
        loop {
            if let Err(error) = self.round(&mut begins) {
                return error;
            }
        }
    }

    /// Sends received frames back, or waits for some.
    fn round(&mut self, begins: &mut bool) -> io::Result<()> {
        let mut sent = false;
        while let Some(descriptor) = self.receive.pop() {
            if *begins {
                self.turn_around(descriptor);
            }
            *begins = descriptor.options & CONTINUED == 0;
            self.transmit.push(descriptor);
            sent = true;
        }
        if sent && (!self.shape.need_wakeup || self.transmit.needs_wakeup()) {
            self.wake()?;
        }
        while let Some(address) = self.completion.pop() {
            self.fill.push(self.chunk_of(address));
        }
        if sent { Ok(()) } else { self.wait() }
    }

    /// Whether the kernel asks for a system call before it takes from the fill ring.
    pub(crate) fn fill_needs_wakeup(&self) -> bool {
        self.fill.needs_wakeup()
    }

    /// Whether the kernel asks for a system call before it takes from the transmit ring.
    pub(crate) fn transmit_needs_wakeup(&self) -> bool {
        self.transmit.needs_wakeup()
    }

    /// Gives free chunks to the kernel to receive into.
    pub(crate) fn fill(&mut self, count: usize) {
        let left = self.free.len().saturating_sub(count);
        for address in self.free.split_off(left) {
            self.fill.push(address);
        }
    }

    /// Takes sent chunks back. Returns the number of chunks that are free.
    pub(crate) fn reclaim(&mut self) -> usize {
        while let Some(address) = self.completion.pop() {
            self.free.push(self.chunk_of(address));
        }
        self.free.len()
    }

    /// Sends a frame that fits a chunk; without a free one it would block.
    pub(crate) fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.enqueue(frame)?;
        if !self.shape.need_wakeup || self.transmit.needs_wakeup() {
            self.wake()?;
        }
        Ok(())
    }

    /// Puts a frame into the transmit ring, as [`send`](Self::send), but wakes nothing.
    pub(crate) fn enqueue(&mut self, frame: &[u8]) -> io::Result<()> {
        self.reclaim();
        assert!(frame.len() <= self.shape.chunk as usize, "it fits a chunk");
        let address = self.free.pop().ok_or(io::ErrorKind::WouldBlock)?;
        // SAFETY: the chunk is in the area, and the kernel does not use it while it is free.
        unsafe {
            let chunk = self.memory.as_ptr().add(address as usize).as_ptr();
            chunk.copy_from_nonoverlapping(frame.as_ptr(), frame.len());
        }
        self.transmit.push(Descriptor {
            address,
            length: frame.len() as u32,
            options: 0,
        });
        Ok(())
    }

    fn chunk_of(&self, address: u64) -> u64 {
        if self.shape.unaligned {
            address & ((1 << OFFSET_SHIFT) - 1)
        } else {
            address - address % u64::from(self.shape.chunk)
        }
    }

    /// Exchanges the addresses and ports of a UDP datagram over IPv4.
    fn turn_around(&self, descriptor: Descriptor) {
        let at = if self.shape.unaligned {
            (descriptor.address & ((1 << OFFSET_SHIFT) - 1)) + (descriptor.address >> OFFSET_SHIFT)
        } else {
            descriptor.address
        };
        assert!(
            descriptor.length >= 42 && at as usize + 42 <= self.memory.len(),
            "a frame of {} bytes at {at}",
            descriptor.length
        );
        // SAFETY: in the area; the kernel does not use the frame between its receipt and its
        // transmission.
        let head = unsafe {
            std::slice::from_raw_parts_mut(self.memory.as_ptr().add(at as usize).as_ptr(), 42)
        };
        for (one, other, length) in [(0, 6, 6), (26, 30, 4), (34, 36, 2)] {
            let (front, back) = head.split_at_mut(other);
            front[one..one + length].swap_with_slice(&mut back[..length]);
        }
    }

    /// Makes the kernel process the fill ring.
    pub(crate) fn wake_receiver(&self) -> io::Result<()> {
        let none = std::ptr::null_mut();
        // SAFETY: the call has no buffer.
        let result = unsafe {
            libc::recvfrom(
                self.socket.as_raw_fd(),
                none,
                0,
                libc::MSG_DONTWAIT,
                none.cast(),
                none.cast(),
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Makes the kernel process the transmit ring.
    pub(crate) fn wake(&self) -> io::Result<()> {
        // SAFETY: the call has no buffer.
        let result = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                std::ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null(),
                0,
            )
        };
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // The kernel is processing it already, or the link is down for a moment.
            _ if result >= 0 => Ok(()),
            Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::ENETDOWN) => Ok(()),
            _ => Err(error),
        }
    }

    /// Waits for frames, at most for a moment, because completions don't wake a poll.
    fn wait(&self) -> io::Result<()> {
        let mut poll = libc::pollfd {
            fd: self.socket.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: the count is that of the one structure.
        if unsafe { libc::poll(&raw mut poll, 1, 20) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(())
    }
}

const _: () = {
    assert!(size_of::<RingOffset>() == 32 && size_of::<Descriptor>() == 16);
};
