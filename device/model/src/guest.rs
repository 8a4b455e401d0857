//! The guest's memory: a memfd that a backend can map, and an allocator that detects invalid
//! writes.
//!
//! Every byte that the device must not write holds poison: free buffers, the guards between them,
//! and the part of a returned buffer beyond its used length.

#[cfg(not(miri))]
use std::fs::File;
use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

#[cfg(not(miri))]
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
#[cfg(not(miri))]
use vm_memory::FileOffset;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Start of each region. There are two, with a hole between, so that a device fails which assumes
/// one contiguous range.
const STARTS: [u64; 2] = [0, 0x1_0000_0000];

/// Default size of the first region, and size of the second, in bytes.
const SIZES: [usize; 2] = [16 << 20, 48 << 20];

/// Poisoned bytes behind every buffer.
const GUARD: usize = 64;

/// A buffer in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest-physical address, a multiple of 64 unless [displaced](Guest::displace).
    pub address: GuestAddress,
    /// Bytes.
    pub length: usize,
}

/// Guest memory and its free buffers.
#[derive(Debug)]
pub struct Guest {
    memory: Arc<GuestMemoryMmap>,
    /// First byte not allocated yet, per region.
    next: [u64; STARTS.len()],
    sizes: [usize; STARTS.len()],
    free: HashMap<usize, Vec<Buffer>>,
    displacement: u64,
}

/// Memory with regions of these sizes, in a memfd.
#[cfg(not(miri))]
fn map(sizes: [usize; STARTS.len()]) -> GuestMemoryMmap {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = memfd_create("guest", flags).expect("memfd");
    let total: usize = sizes.iter().sum();
    ftruncate(&fd, total as u64).expect("memfd takes a size");
    let file = Arc::new(File::from(fd));
    let mut offset = 0;
    let ranges = [0, 1].map(|region| {
        let (start, size) = (STARTS[region], sizes[region]);
        let backing = FileOffset::from_arc(Arc::clone(&file), offset);
        offset += size as u64;
        (GuestAddress(start), size, Some(backing))
    });
    GuestMemoryMmap::from_ranges_with_files(ranges).expect("memory is mapped")
}

/// Memory with regions of these sizes, from the allocator: Miri maps no files.
#[cfg(miri)]
fn map(sizes: [usize; STARTS.len()]) -> GuestMemoryMmap {
    let ranges = [0, 1].map(|region| (GuestAddress(STARTS[region]), sizes[region]));
    GuestMemoryMmap::from_ranges(&ranges).expect("memory")
}

impl Default for Guest {
    fn default() -> Self {
        Self::new()
    }
}

impl Guest {
    /// Fresh memory.
    ///
    /// # Panics
    ///
    /// The host is out of memory.
    #[must_use]
    pub fn new() -> Self {
        Self::of_size(SIZES[0])
    }

    /// Fresh memory with `first` bytes for rings and tables.
    ///
    /// # Panics
    ///
    /// The host is out of memory.
    #[must_use]
    pub fn of_size(first: usize) -> Self {
        let sizes = [first, SIZES[1]];
        Self {
            memory: Arc::new(map(sizes)),
            next: STARTS,
            sizes,
            free: HashMap::new(),
            displacement: 0,
        }
    }

    /// From now on new buffers start this many bytes behind a multiple of 64.
    pub fn displace(&mut self, by: u64) {
        self.displacement = by;
        self.free.clear();
    }

    /// The memory that the device maps.
    #[must_use]
    pub fn memory(&self) -> Arc<GuestMemoryMmap> {
        Arc::clone(&self.memory)
    }

    /// Memory for a ring or a table: zeroed, never freed, in the first region.
    pub fn allocate_ring(&mut self, length: usize) -> GuestAddress {
        self.bump(0, length)
    }

    /// A poisoned buffer of `length` bytes in the second region.
    ///
    /// # Panics
    ///
    /// The device wrote to the buffer while it was free.
    pub fn allocate(&mut self, length: usize) -> Buffer {
        if let Some(buffer) = self.free.get_mut(&length).and_then(Vec::pop) {
            self.assert_untouched(buffer, 0);
            return buffer;
        }
        let address = self.bump(1, self.displacement as usize + length + GUARD);
        let address = GuestAddress(address.0 + self.displacement);
        let buffer = Buffer { address, length };
        self.poison(buffer, length + GUARD);
        buffer
    }

    /// Frees a buffer, which the device must not write from now on.
    pub fn free(&mut self, buffer: Buffer) {
        self.poison(buffer, buffer.length);
        self.free.entry(buffer.length).or_default().push(buffer);
    }

    /// Reads the first `length` bytes of a buffer.
    #[must_use]
    pub fn read(&self, buffer: Buffer, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory
            .read_slice(&mut bytes, buffer.address)
            .expect("buffers lie in memory");
        bytes
    }

    /// Stores `bytes` at the start of a buffer.
    pub fn write(&self, buffer: Buffer, bytes: &[u8]) {
        assert!(bytes.len() <= buffer.length, "the bytes exceed the buffer");
        self.memory
            .write_slice(bytes, buffer.address)
            .expect("buffers lie in memory");
    }

    /// Checks that the buffer from byte `from` on and the guard behind it were not written.
    ///
    /// # Panics
    ///
    /// The device wrote to them.
    pub fn assert_untouched(&self, buffer: Buffer, from: usize) {
        let bytes = self.read(buffer, buffer.length + GUARD);
        let poison = poison(buffer.address, bytes.len());
        if bytes[from..] != poison[from..] {
            let at = (from..bytes.len()).find(|&at| bytes[at] != poison[at]);
            panic!(
                "byte {} of a buffer of {} bytes at {:#x} was written; only the first {from} may be",
                at.unwrap_or(from),
                buffer.length,
                buffer.address.0
            );
        }
    }

    /// Poisons a buffer again.
    pub fn clear(&self, buffer: Buffer) {
        self.poison(buffer, buffer.length);
    }

    /// Checks that no free buffer was written.
    ///
    /// # Panics
    ///
    /// The device wrote to them.
    pub fn audit(&self) {
        for buffer in self.free.values().flatten() {
            self.assert_untouched(*buffer, 0);
        }
    }

    fn bump(&mut self, region: usize, length: usize) -> GuestAddress {
        let address = self.next[region];
        let (start, size) = (STARTS[region], self.sizes[region]);
        self.next[region] = (address + length as u64).next_multiple_of(64);
        assert!(
            self.next[region] <= start + size as u64,
            "guest memory is used up"
        );
        GuestAddress(address)
    }

    fn poison(&self, buffer: Buffer, length: usize) {
        self.memory
            .write_slice(poison(buffer.address, length), buffer.address)
            .expect("buffers lie in memory");
    }
}

/// The longest buffer and its guard.
const MAX_POISON: usize = (1 << 20) + GUARD;

/// Poison repeats after this many bytes: not a power of two, so that poison copied to another
/// buffer is detected.
const POISON_PERIOD: u64 = 4093;

static POISON: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let period: Vec<u8> = (0..POISON_PERIOD)
        .map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect();
    period
        .iter()
        .copied()
        .cycle()
        .take(MAX_POISON + period.len())
        .collect()
});

/// The poison of `length` bytes at `address`.
fn poison(address: GuestAddress, length: usize) -> &'static [u8] {
    let start = (address.0 % POISON_PERIOD) as usize;
    &POISON[start..start + length]
}
