//! The device's view of guest memory and split rings, by vm-memory and virtio-queue.

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};
use zcnic_device::{
    checksum::Checksum,
    memory::{Mover, ReceiveRing},
};

use crate::ring::RingAddresses;

/// A range of guest memory, of one descriptor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) address: GuestAddress,
    pub(super) length: usize,
}

/// A chain that the driver made available.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) head: u16,
    pub(super) readable: Vec<Span>,
    pub(super) writable: Vec<Span>,
    /// It ends properly, and lies in memory.
    pub(super) valid: bool,
}

/// The device's end of a ring.
pub(super) fn device_ring(addresses: RingAddresses) -> Queue {
    let mut queue = Queue::new(addresses.size).expect("a power of two");
    let halves = |address: GuestAddress| (Some(address.0 as u32), Some((address.0 >> 32) as u32));
    let (low, high) = halves(addresses.descriptors);
    queue.set_desc_table_address(low, high);
    let (low, high) = halves(addresses.available);
    queue.set_avail_ring_address(low, high);
    let (low, high) = halves(addresses.used);
    queue.set_used_ring_address(low, high);
    queue.set_ready(true);
    queue
}

/// Takes the next available chain.
pub(super) fn pop(ring: &mut Queue, memory: &GuestMemoryMmap) -> Option<Chain> {
    let descriptors = ring.pop_descriptor_chain(memory)?;
    let head = descriptors.head_index();
    let mut chain = Chain {
        head,
        readable: Vec::new(),
        writable: Vec::new(),
        valid: true,
    };
    // The iterator ends silently at an invalid descriptor: then the last descriptor has a
    // successor.
    let mut ended = false;
    for descriptor in descriptors {
        let span = Span {
            address: descriptor.addr(),
            length: descriptor.len() as usize,
        };
        ended = !descriptor.has_next();
        let access = if descriptor.is_write_only() {
            Permissions::Write
        } else {
            Permissions::Read
        };
        chain.valid &= memory.check_range(span.address, span.length, access);
        if descriptor.is_write_only() {
            chain.writable.push(span);
        } else {
            chain.valid &= chain.writable.is_empty();
            chain.readable.push(span);
        }
    }
    chain.valid &= ended;
    Some(chain)
}

/// Returns a chain.
pub(super) fn complete(ring: &mut Queue, memory: &GuestMemoryMmap, head: u16, length: u32) {
    ring.add_used(memory, head, length)
        .expect("rings lie in memory");
}

/// Reads up to `limit` bytes.
pub(super) fn gather(memory: &GuestMemoryMmap, spans: &[Span], limit: usize) -> Vec<u8> {
    let total: usize = spans.iter().map(|span| span.length).sum();
    let mut bytes = vec![0; total.min(limit)];
    read(memory, spans, 0, &mut bytes);
    bytes
}

/// Writes as much of `bytes` as there is room for and returns that length.
pub(super) fn scatter(memory: &GuestMemoryMmap, spans: &[Span], bytes: &[u8]) -> usize {
    let mut done = 0;
    for span in spans {
        let here = span.length.min(bytes.len() - done);
        memory
            .write_slice(&bytes[done..done + here], span.address)
            .expect("the range was checked");
        done += here;
    }
    done
}

fn read(memory: &GuestMemoryMmap, spans: &[Span], mut offset: usize, into: &mut [u8]) {
    let mut done = 0;
    for span in spans {
        if offset >= span.length {
            offset -= span.length;
            continue;
        }
        let here = (span.length - offset).min(into.len() - done);
        let address = GuestAddress(span.address.0 + offset as u64);
        memory
            .read_slice(&mut into[done..done + here], address)
            .expect("the range was checked");
        done += here;
        offset = 0;
    }
    assert_eq!(done, into.len(), "the device read beyond the chain");
}

/// Moves bytes from one guest to another.
pub(super) struct CrossMover<'a> {
    pub(super) source: &'a GuestMemoryMmap,
    pub(super) target: &'a GuestMemoryMmap,
}

impl Mover for CrossMover<'_> {
    type Source = [Span];
    type Target = Span;

    fn source_len(&self, source: &[Span]) -> usize {
        source.iter().map(|span| span.length).sum()
    }

    fn target_len(&self, target: &Span) -> usize {
        target.length
    }

    fn snapshot(&self, source: &[Span], offset: usize, into: &mut [u8]) {
        read(self.source, source, offset, into);
    }

    fn copy(
        &self,
        source: &[Span],
        source_offset: usize,
        target: &Span,
        target_offset: usize,
        length: usize,
        sum: &mut Checksum,
    ) {
        let mut bytes = vec![0; length];
        read(self.source, source, source_offset, &mut bytes);
        sum.add(&bytes);
        self.put(target, target_offset, &bytes);
    }

    fn put(&self, target: &Span, offset: usize, bytes: &[u8]) {
        assert!(
            offset + bytes.len() <= target.length,
            "the device wrote beyond a descriptor"
        );
        let address = GuestAddress(target.address.0 + offset as u64);
        self.target
            .write_slice(bytes, address)
            .expect("the range was checked");
    }
}

/// A receive ring and the chains reserved on it.
pub(super) struct ReceiveChains<'a> {
    ring: &'a mut Queue,
    memory: &'a GuestMemoryMmap,
    reserved: Vec<Chain>,
}

impl<'a> ReceiveChains<'a> {
    pub(super) fn new(ring: &'a mut Queue, memory: &'a GuestMemoryMmap) -> Self {
        Self {
            ring,
            memory,
            reserved: Vec::new(),
        }
    }
}

impl ReceiveRing for ReceiveChains<'_> {
    type Target = Span;

    fn reserve(&mut self) -> bool {
        let chain = pop(self.ring, self.memory);
        let found = chain.is_some();
        self.reserved.extend(chain);
        found
    }

    fn chain(&self, index: usize) -> &[Span] {
        let chain = &self.reserved[index];
        if chain.valid && chain.readable.is_empty() {
            &chain.writable
        } else {
            &[]
        }
    }

    fn commit(&mut self, written: &[u32]) {
        assert!(
            written.len() <= self.reserved.len(),
            "more chains returned than reserved"
        );
        for (chain, length) in self.reserved.iter().zip(written) {
            complete(self.ring, self.memory, chain.head, *length);
        }
        for _ in written.len()..self.reserved.len() {
            self.ring.go_to_previous_position();
        }
        self.reserved.clear();
    }
}
