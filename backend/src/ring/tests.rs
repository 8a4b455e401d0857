//! The rings compared with virtio-queue's, driven by its mock driver, and against malicious
//! drivers.

use proptest::prelude::*;
use std::sync::Arc;
use virtio_queue::{
    Queue, QueueT,
    desc::{RawDescriptor, split::Descriptor as SplitDescriptor},
    mock::MockSplitQueue,
};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use zcnic_device::memory::ReceiveRing;

use super::{
    Indices, RingError, Setup,
    chain::{ChainError, walk},
    raw::{Descriptor, Mapping, Memory, Span},
    receive::ReceiveChains,
    recycle,
    split::SplitRing,
    window::PrefetchWindow,
};
use crate::memory::{GuestMemory, guard::Alarm};

mod bytes;
mod heap;
mod indices;
mod parts;
mod window;

const SIZE: u16 = 16;
const RING: GuestAddress = GuestAddress(0x1000);
/// The used ring's address: the mock's own overlaps its available ring.
const USED: GuestAddress = GuestAddress(0x1400);
const TABLES: u64 = 0x8000;
const BUFFERS: u64 = 0x10_0000;

/// Two regions with a hole between.
fn memory() -> GuestMemory {
    heap::memory(&[
        (GuestAddress(0), 0x20_0000),
        (GuestAddress(0x1_0000_0000), 0x10_0000),
    ])
}

fn setup(driver: &MockSplitQueue<'_, GuestMemory>, event_idx: bool) -> Setup {
    Setup {
        size: SIZE,
        descriptors: driver.desc_table_addr().0,
        available: driver.avail_addr().0,
        used: USED.0,
        event_idx,
    }
}

fn at(base: u16) -> Indices {
    Indices {
        next_available: base,
        next_used: base,
        published: base,
        ..Indices::default()
    }
}

/// A driver's side of one ring: where the next chain is put.
struct Posting<'m> {
    memory: &'m GuestMemory,
    queue: MockSplitQueue<'m, GuestMemory>,
    next_descriptor: u16,
    index: u16,
}

impl<'m> Posting<'m> {
    fn new(memory: &'m GuestMemory, base: u16) -> Self {
        let queue = MockSplitQueue::create(memory, RING, SIZE);
        queue.avail().idx().store(base.to_le());
        memory
            .write_obj(base.to_le(), GuestAddress(USED.0 + 2))
            .expect("used index");
        Self {
            memory,
            queue,
            next_descriptor: 0,
            index: base,
        }
    }

    fn descriptor(&self, index: u16, descriptor: SplitDescriptor) {
        self.queue
            .desc_table()
            .store(index, RawDescriptor::from(descriptor))
            .expect("in the table");
    }

    fn available(&mut self, head: u16) {
        let entry = usize::from(self.index % SIZE);
        self.queue
            .avail()
            .ring()
            .ref_at(entry)
            .expect("entry")
            .store(head.to_le());
        self.index = self.index.wrapping_add(1);
    }

    fn publish(&self) {
        self.queue.avail().idx().store(self.index.to_le());
    }

    /// Posts a chain of descriptors with these lengths, `readable` of them readable.
    fn post(&mut self, lengths: &[u32], readable: usize, indirect: bool) {
        let flags = |at: usize| {
            let write = if at < readable { 0 } else { Descriptor::WRITE };
            let next = if at + 1 < lengths.len() {
                Descriptor::NEXT
            } else {
                0
            };
            write | next
        };
        let buffer = |at: usize| BUFFERS + u64::from(self.index) * 13 + at as u64 * 0x1003;
        let head = self.next_descriptor;
        if indirect {
            let table = TABLES + u64::from(head) * 16 * 8;
            for (at, &length) in lengths.iter().enumerate() {
                let descriptor = SplitDescriptor::new(buffer(at), length, flags(at), at as u16 + 1);
                let place = GuestAddress(table + 16 * at as u64);
                self.memory
                    .write_obj(RawDescriptor::from(descriptor), place)
                    .expect("table");
            }
            let length = 16 * lengths.len() as u32;
            self.descriptor(
                head,
                SplitDescriptor::new(table, length, Descriptor::INDIRECT, 0),
            );
            self.next_descriptor = (head + 1) % SIZE;
        } else {
            for (at, &length) in lengths.iter().enumerate() {
                let index = self.next_descriptor;
                self.next_descriptor = (index + 1) % SIZE;
                let descriptor =
                    SplitDescriptor::new(buffer(at), length, flags(at), self.next_descriptor);
                self.descriptor(index, descriptor);
            }
        }
        self.available(head);
    }
}

fn translated(memory: &GuestMemory) -> Arc<Memory> {
    let alarm = Arc::new(Alarm::new().expect("eventfd"));
    Arc::new(Memory::new(Arc::new(memory.clone()), &alarm))
}

fn map(setup: &Setup, memory: &GuestMemory) -> Result<Mapping, RingError> {
    Mapping::new(setup, translated(memory))
}

/// Addresses and lengths of spans.
fn places(spans: &[Span<'_>]) -> Vec<(usize, usize)> {
    spans
        .iter()
        .map(|span| (span.address(), span.len()))
        .collect()
}

#[derive(Clone, Debug)]
struct Round {
    chains: Vec<(Vec<u32>, usize, bool)>,
    written: u32,
    used_event: u16,
}

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    // At most 3 descriptors per chain and 5 chains per round: they always fit the ring.
    let chain = (
        prop::collection::vec(1u32..5000, 1..=3),
        0usize..=3,
        any::<bool>(),
    );
    let round = (prop::collection::vec(chain, 0..=5), any::<u32>(), 0u16..40);
    let round = round.prop_map(|(chains, written, used_event)| Round {
        chains,
        written,
        used_event,
    });
    prop::collection::vec(round, 1..40)
}

proptest! {
    /// Chains, used elements, indices and notifications equal those of virtio-queue, through
    /// wrap-arounds of ring and index.
    #[test]
    fn same_as_virtio_queue(rounds in rounds(), base: u16) {
        let (ours, theirs) = (memory(), memory());
        let (mut driver, mut oracle_driver) = (Posting::new(&ours, base), Posting::new(&theirs, base));
        let setup = setup(&driver.queue, true);
        // After a start this ring always interrupts, virtio-queue's does not.
        let mut indices = Indices { signalled: Some(base), ..at(base) };
        let mut oracle: Queue = oracle_driver.queue.create_queue().expect("queue");
        oracle.set_used_ring_address(Some(USED.0 as u32), Some(0));
        oracle.set_event_idx(true);
        oracle.set_next_avail(base);
        oracle.set_next_used(base);

        let mapping = map(&setup, &ours).expect("ring");
        for round in rounds {
            for driver in [&mut driver, &mut oracle_driver] {
                for (lengths, readable, indirect) in &round.chains {
                    driver.post(lengths, *readable, *indirect);
                }
                driver.publish();
                // An event index near the current index.
                let event = driver.index.wrapping_sub(20).wrapping_add(round.used_event);
                let offset = 4 + 2 * u64::from(SIZE);
                let place = GuestAddress(driver.queue.avail_addr().0 + offset);
                driver.memory.write_obj(event.to_le(), place).expect("event index");
            }

            let mut ring = SplitRing::new(&mapping, true, &mut indices);
            prop_assert_eq!(usize::from(ring.available(SIZE).expect("index")), round.chains.len());
            for (lengths, readable, _) in &round.chains {
                let mut spans = Vec::new();
                let head = ring.head(0).expect("head");
                let chain = walk(&mapping, head, &mut spans).expect("chain");
                ring.complete(head, round.written);

                let expected = oracle.pop_descriptor_chain(&theirs).expect("oracle's chain");
                prop_assert_eq!(head, expected.head_index());
                oracle.add_used(&theirs, head, round.written).expect("add_used");
                let expected: Vec<(u64, usize, bool)> = expected
                    .map(|d| (d.addr().0, d.len() as usize, d.is_write_only()))
                    .collect();
                let readable = (*readable).min(lengths.len());
                prop_assert_eq!(chain.readable(&spans).len(), readable);
                let start = ours.get_slice(GuestAddress(0), 1).expect("inside").ptr_guard().as_ptr() as usize;
                let found: Vec<(u64, usize, bool)> = places(&spans)
                    .into_iter()
                    .enumerate()
                    .map(|(at, (place, length))| {
                        ((place - start) as u64, length, at >= readable)
                    })
                    .collect();
                prop_assert_eq!(found, expected);
            }
            let wanted = ring.publish();
            if !round.chains.is_empty() {
                prop_assert_eq!(wanted, oracle.needs_notification(&theirs).expect("oracle"));
            }
            prop_assert_eq!(
                ring.enable_kicks().expect("enable"),
                oracle.enable_notification(&theirs).expect("oracle")
            );
            let used = |memory: &GuestMemory| {
                let mut bytes = vec![0; 6 + 8 * usize::from(SIZE)];
                memory.read_slice(&mut bytes, USED).expect("used ring");
                bytes
            };
            prop_assert_eq!(used(&ours), used(&theirs));
        }
    }

    /// With any content of the ring, nothing panics or runs long, and no chain exceeds its limits.
    #[test]
    fn any_bytes_in_the_ring(
        bytes in prop::collection::vec(any::<u8>(), 0x800),
        index: u16,
        ahead: u16,
        event_idx: bool,
    ) {
        let memory = memory();
        memory.write_slice(&bytes, RING).expect("ring");
        memory.write_slice(&bytes, GuestAddress(0)).expect("low memory");
        let queue = MockSplitQueue::new(&memory, SIZE);
        let setup = Setup {
            descriptors: RING.0,
            available: RING.0 + 0x100,
            used: RING.0 + 0x200,
            ..setup(&queue, event_idx)
        };
        // Mostly close to the next index, so that chains are walked.
        memory
            .write_obj(index.wrapping_add(ahead % 20).to_le(), GuestAddress(setup.available + 2))
            .expect("index");
        let mut indices = at(index);
        let mapping = map(&setup, &memory).expect("ring");
        let mut ring = SplitRing::new(&mapping, event_idx, &mut indices);
        let Ok(available) = ring.available(SIZE) else { return Ok(()) };
        prop_assert!(available <= SIZE);
        for ahead in 0..SIZE {
            mapping.prefetch_descriptor(ahead);
            mapping.prefetch_table(ahead);
        }
        let mut spans = Vec::new();
        for ahead in 0..available {
            if let Ok(head) = ring.head(ahead) {
                prop_assert!(head < SIZE);
                let before = spans.len();
                if walk(&mapping, head, &mut spans).is_err() {
                    prop_assert_eq!(spans.len(), before);
                }
            }
        }
        let mut chains = ReceiveChains::new(Some(ring), usize::MAX, PrefetchWindow::default());
        while chains.reserve() {}
        chains.commit(&[1]);
        prop_assert!(chains.drain() <= u32::from(SIZE));
        chains.publish();
        chains.enable_kicks();
    }
}

/// Walks the one chain that `make` builds.
fn walk_one(make: impl FnOnce(&mut Posting<'_>)) -> Result<(usize, usize), ChainError> {
    let memory = memory();
    let mut driver = Posting::new(&memory, 0);
    make(&mut driver);
    driver.publish();
    let mut indices = at(0);
    let mapping = map(&setup(&driver.queue, true), &memory).expect("ring");
    let ring = SplitRing::new(&mapping, true, &mut indices);
    let mut spans = Vec::new();
    walk(&mapping, ring.head(0).expect("head"), &mut spans)
        .map(|chain| (chain.readable(&spans).len(), chain.writable(&spans).len()))
}

#[test]
fn loops_are_refused() {
    let result = walk_one(|driver| {
        driver.descriptor(0, SplitDescriptor::new(BUFFERS, 1, Descriptor::NEXT, 1));
        driver.descriptor(1, SplitDescriptor::new(BUFFERS, 1, Descriptor::NEXT, 0));
        driver.available(0);
    });
    assert_eq!(result, Err(ChainError::TooManyDescriptors));
}

#[test]
fn unusable_chains() {
    let one = |address, length, flags, next| {
        walk_one(|driver| {
            driver.descriptor(0, SplitDescriptor::new(address, length, flags, next));
            driver.available(0);
        })
    };
    assert_eq!(one(BUFFERS, 10, 0, 0), Ok((1, 0)));
    assert_eq!(one(BUFFERS, 0, 0, 0), Err(ChainError::Empty));
    assert_eq!(
        one(BUFFERS, 10, Descriptor::NEXT, SIZE),
        Err(ChainError::Next(SIZE))
    );
    assert_eq!(one(BUFFERS, 2 << 20, 0, 0), Err(ChainError::TooLong));
    let hole = ChainError::Outside {
        address: 0x20_0000,
        length: 1,
    };
    assert_eq!(one(0x20_0000, 1, 0, 0), Err(hole));
    let end = ChainError::Outside {
        address: u64::MAX,
        length: 10,
    };
    assert_eq!(one(u64::MAX, 10, 0, 0), Err(end));
    for length in [0, 8, 24, 16 * 1025] {
        let error = ChainError::Indirect(length);
        assert_eq!(one(TABLES, length, Descriptor::INDIRECT, 0), Err(error));
    }
    let flags = Descriptor::INDIRECT | Descriptor::NEXT;
    assert_eq!(one(TABLES, 16, flags, 1), Err(ChainError::Indirect(16)));
    let order = walk_one(|driver| {
        let flags = Descriptor::WRITE | Descriptor::NEXT;
        driver.descriptor(0, SplitDescriptor::new(BUFFERS, 1, flags, 1));
        driver.descriptor(1, SplitDescriptor::new(BUFFERS, 1, 0, 0));
        driver.available(0);
    });
    assert_eq!(order, Err(ChainError::Order));
    let nested = walk_one(|driver| {
        let inner = SplitDescriptor::new(TABLES, 16, Descriptor::INDIRECT, 0);
        driver
            .memory
            .write_obj(RawDescriptor::from(inner), GuestAddress(TABLES))
            .expect("table");
        driver.descriptor(0, SplitDescriptor::new(TABLES, 16, Descriptor::INDIRECT, 0));
        driver.available(0);
    });
    assert_eq!(nested, Err(ChainError::Indirect(16)));
}

#[test]
fn hostile_indices_break_the_ring() {
    let memory = memory();
    let mut driver = Posting::new(&memory, 0);
    let setup = setup(&driver.queue, false);
    driver.available(SIZE);
    driver.publish();
    let mut indices = at(0);
    let mapping = map(&setup, &memory).expect("ring");
    let mut ring = SplitRing::new(&mapping, false, &mut indices);
    assert_eq!(ring.available(1), Ok(1));
    assert_eq!(
        ring.head(0),
        Err(RingError::Head {
            head: SIZE,
            size: SIZE
        })
    );
    let mut chains = ReceiveChains::new(Some(ring), usize::MAX, PrefetchWindow::default());
    assert!(!chains.reserve());
    assert!(chains.error().is_some());
    drop(chains);

    driver.queue.avail().idx().store((SIZE + 1).to_le());
    let mut ring = SplitRing::new(&mapping, false, &mut indices);
    let error = RingError::AvailableIndex {
        available: SIZE + 1,
        size: SIZE,
    };
    assert_eq!(ring.available(1), Err(error));
}

#[test]
fn interrupts_without_event_index_follow_the_flag() {
    let memory = memory();
    let mut driver = Posting::new(&memory, 0);
    let setup = setup(&driver.queue, false);
    let mapping = map(&setup, &memory).expect("ring");
    let mut indices = at(0);
    for no_interrupt in [0u16, 1, 0] {
        driver.post(&[10], 1, false);
        driver.publish();
        memory
            .write_obj(no_interrupt.to_le(), GuestAddress(setup.available))
            .expect("flags");
        let mut ring = SplitRing::new(&mapping, false, &mut indices);
        assert_eq!(ring.available(1), Ok(1));
        let head = ring.head(0).expect("head");
        ring.complete(head, 0);
        assert_eq!(ring.publish(), no_interrupt == 0);
        assert!(!ring.publish(), "nothing new");
        ring.disable_kicks();
        assert_eq!(
            memory
                .read_obj::<u16>(GuestAddress(setup.used))
                .map(u16::from_le)
                .ok(),
            Some(1)
        );
        assert_eq!(ring.enable_kicks(), Ok(false));
        assert_eq!(
            memory
                .read_obj::<u16>(GuestAddress(setup.used))
                .map(u16::from_le)
                .ok(),
            Some(0)
        );
    }
}

#[test]
fn uncommitted_chains_stay_available() {
    let memory = memory();
    let mut driver = Posting::new(&memory, 0);
    let setup = setup(&driver.queue, true);
    for length in [100, 200, 300] {
        driver.post(&[length], 0, false);
    }
    driver.publish();
    let mut indices = at(0);
    let mapping = map(&setup, &memory).expect("ring");
    let ring = SplitRing::new(&mapping, true, &mut indices);
    let mut chains = ReceiveChains::new(Some(ring), usize::MAX, PrefetchWindow::default());
    let lengths = |chains: &ReceiveChains<'_>| {
        (0..3)
            .flat_map(|index| chains.chain(index).iter().map(Span::len))
            .collect::<Vec<_>>()
    };
    assert!(chains.reserve() && chains.reserve() && chains.reserve() && !chains.reserve());
    assert_eq!(lengths(&chains), [100, 200, 300]);
    chains.commit(&[7]);
    assert!(chains.reserve());
    assert_eq!(lengths(&chains), [200]);
    let used_index = || {
        memory
            .read_obj::<u16>(GuestAddress(USED.0 + 2))
            .map(u16::from_le)
            .ok()
    };
    assert_eq!(
        used_index(),
        Some(0),
        "nothing is visible before it is published"
    );
    assert_eq!(chains.drain(), 2);
    assert!(chains.publish());
    drop(chains);
    assert_eq!(used_index(), Some(3));
    assert_eq!(indices.next_available, 3);
}

#[test]
fn one_chain_at_most_without_mergeable_buffers() {
    let memory = memory();
    let mut driver = Posting::new(&memory, 0);
    let setup = setup(&driver.queue, true);
    driver.post(&[100], 0, false);
    driver.post(&[100], 0, false);
    driver.publish();
    let mut indices = at(0);
    let mapping = map(&setup, &memory).expect("ring");
    let ring = SplitRing::new(&mapping, true, &mut indices);
    let mut chains = ReceiveChains::new(Some(ring), 1, PrefetchWindow::default());
    assert!(chains.reserve() && !chains.reserve());
    chains.commit(&[100]);
    assert!(chains.reserve());
}

#[test]
fn vectors_keep_their_memory() {
    let mut bytes = [0; 8];
    let mut spans = Vec::with_capacity(100);
    spans.push(Span::own(&mut bytes));
    let address = spans.as_ptr() as usize;
    let kept: Vec<Span<'static>> = recycle(spans);
    assert_eq!((kept.len(), kept.capacity()), (0, 100));
    assert_eq!(kept.as_ptr() as usize, address);
}
