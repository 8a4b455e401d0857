//! Memory and rings made of vectors, and frames, for unit tests.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
};

use zerocopy::IntoBytes;

use crate::{
    abi,
    checksum::Checksum,
    fault::{RawRing, UsedElement},
    features::FeatureSet,
    memory::{Mover, ReceiveRing},
    receive::{Annotation, Layout},
    train::Train,
    transmit::{TransmitError, TransmitFormat, parse},
};

/// Queues that split.
pub(crate) const SPLIT: Layout = Layout::Split {
    header_size: 256,
    page_size: 4096,
    threshold: 0,
    l4_only: true,
};

/// Metadata of a frame without a hash.
pub(crate) const NOTE: Annotation = Annotation {
    queue: 3,
    hash: None,
    offloads: FeatureSet::ALL,
    time: 5_000_000_000,
    vlan: None,
};

/// A zcnic driver's transmit chain.
pub(crate) fn chain(header: abi::TxHeader, frame: &[u8]) -> Vec<u8> {
    [header.as_bytes(), frame].concat()
}

/// The train of a chain, with all features; the snapshot is leaked.
pub(crate) fn parse_chain(chain: &[u8]) -> Result<Train<'_, [u8]>, TransmitError> {
    parse(
        &VecMover,
        chain,
        TransmitFormat::Zcnic,
        FeatureSet::ALL,
        Box::leak(Box::default()),
    )
}

/// One descriptor of a posted chain.
pub(crate) type Buffer = RefCell<Vec<u8>>;

/// Moves bytes between slices and [`Buffer`]s.
pub(crate) struct VecMover;

impl Mover for VecMover {
    type Source = [u8];
    type Target = Buffer;

    fn source_len(&self, source: &[u8]) -> usize {
        source.len()
    }

    fn target_len(&self, target: &Buffer) -> usize {
        target.borrow().len()
    }

    fn snapshot(&self, source: &[u8], offset: usize, into: &mut [u8]) {
        into.copy_from_slice(&source[offset..offset + into.len()]);
    }

    fn copy(
        &self,
        source: &[u8],
        source_offset: usize,
        target: &Buffer,
        target_offset: usize,
        length: usize,
        sum: &mut Checksum,
    ) {
        let bytes = &source[source_offset..source_offset + length];
        sum.add(bytes);
        self.put(target, target_offset, bytes);
    }

    fn put(&self, target: &Buffer, offset: usize, bytes: &[u8]) {
        target.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

/// A ring with public posted and used chains.
#[derive(Default)]
pub(crate) struct VecRing {
    pub(crate) posted: VecDeque<Vec<Buffer>>,
    pub(crate) reserved: usize,
    /// Returned chains in order, with their used length, and the number of chains per commit.
    pub(crate) used: Vec<(u32, Vec<Vec<u8>>)>,
    pub(crate) commits: Vec<usize>,
    /// The used ring. Chains are numbered in the order in which they were posted.
    pub(crate) elements: Vec<UsedElement>,
    taken: u32,
    held: BTreeMap<u32, Vec<Buffer>>,
}

impl VecRing {
    /// Posts `count` chains whose descriptors have these lengths.
    pub(crate) fn post(&mut self, count: usize, lengths: &[usize]) {
        for _ in 0..count {
            self.posted.push_back(
                lengths
                    .iter()
                    .map(|&n| RefCell::new(vec![0xee; n]))
                    .collect(),
            );
        }
    }
}

impl ReceiveRing for VecRing {
    type Target = Buffer;

    fn reserve(&mut self) -> bool {
        let more = self.reserved < self.posted.len();
        self.reserved += usize::from(more);
        more
    }

    fn chain(&self, index: usize) -> &[Buffer] {
        assert!(index < self.reserved, "chain {index} was not reserved");
        &self.posted[index]
    }

    fn commit(&mut self, written: &[u32]) {
        assert!(
            written.len() <= self.reserved,
            "more chains committed than reserved"
        );
        for &length in written {
            let chain = self.posted.pop_front().expect("reserved chains are posted");
            self.elements.push(UsedElement {
                id: self.taken,
                length,
            });
            self.taken += 1;
            self.used
                .push((length, chain.into_iter().map(RefCell::into_inner).collect()));
        }
        if !written.is_empty() {
            self.commits.push(written.len());
        }
        self.reserved = 0;
    }
}

impl RawRing for VecRing {
    fn size(&self) -> u32 {
        1024
    }

    fn hold(&mut self, written: &[u32], held: &mut Vec<UsedElement>) {
        for &length in written {
            let chain = self.posted.pop_front().expect("reserved chains are posted");
            self.held.insert(self.taken, chain);
            held.push(UsedElement {
                id: self.taken,
                length,
            });
            self.taken += 1;
        }
        self.reserved = 0;
    }

    fn put_used(&mut self, element: UsedElement) {
        self.elements.push(element);
        if let Some(chain) = self.held.remove(&element.id) {
            let chain = chain.into_iter().map(RefCell::into_inner).collect();
            self.used.push((element.length, chain));
        }
    }
}

/// An IPv4 TCP frame with valid checksums: 192.0.2.2:1000 to 192.0.2.1:2000.
pub(crate) fn tcp4(payload: &[u8]) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1])
        .ipv4([192, 0, 2, 2], [192, 0, 2, 1], 64)
        .tcp(1000, 2000, 7, 512)
        .ack(9);
    built(|out| {
        builder
            .write(out, payload)
            .expect("a vector takes everything");
    })
}

/// An IPv6 UDP frame with valid checksums: `[2001:db8::2]:1000` to `[2001:db8::1]:2000`.
pub(crate) fn udp6(payload: &[u8]) -> Vec<u8> {
    let address = |last| {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        address[15] = last;
        address
    };
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1])
        .ipv6(address(2), address(1), 64)
        .udp(1000, 2000);
    built(|out| {
        builder
            .write(out, payload)
            .expect("a vector takes everything");
    })
}

fn built(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = Vec::new();
    write(&mut frame);
    frame
}

/// Payload whose bytes encode their position.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8).collect()
}
