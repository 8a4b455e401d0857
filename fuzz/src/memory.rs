//! Transmit chains and receive rings that are vectors.

use std::{cell::RefCell, collections::VecDeque};

use zcnic_device::{
    checksum::Checksum,
    memory::{Mover, ReceiveRing},
};

/// What buffers contain before the device writes.
pub(crate) const EMPTY: u8 = 0xee;

/// One device-writable descriptor.
pub(crate) type Buffer = RefCell<Vec<u8>>;

/// Moves bytes between the pieces of a transmit chain and [`Buffer`]s. An access beyond either
/// panics.
pub(crate) struct VecMover;

fn copy_out(source: &[Vec<u8>], offset: usize, into: &mut [u8]) {
    let bytes = source.iter().flatten().skip(offset);
    let mut count = 0;
    for (to, from) in into.iter_mut().zip(bytes) {
        *to = *from;
        count += 1;
    }
    assert_eq!(count, into.len(), "the device reads beyond the chain");
}

impl Mover for VecMover {
    type Source = [Vec<u8>];
    type Target = Buffer;

    fn source_len(&self, source: &[Vec<u8>]) -> usize {
        source.iter().map(Vec::len).sum()
    }

    fn piece_len(&self, source: &[Vec<u8>], mut offset: usize) -> usize {
        for piece in source {
            if offset < piece.len() {
                return piece.len() - offset;
            }
            offset -= piece.len();
        }
        0
    }

    fn target_len(&self, target: &Buffer) -> usize {
        target.borrow().len()
    }

    fn snapshot(&self, source: &[Vec<u8>], offset: usize, into: &mut [u8]) {
        copy_out(source, offset, into);
    }

    fn copy(
        &self,
        source: &[Vec<u8>],
        source_offset: usize,
        target: &Buffer,
        target_offset: usize,
        length: usize,
        sum: &mut Checksum,
    ) {
        let mut bytes = vec![0; length];
        copy_out(source, source_offset, &mut bytes);
        sum.add(&bytes);
        self.put(target, target_offset, &bytes);
    }

    fn put(&self, target: &Buffer, offset: usize, bytes: &[u8]) {
        target.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

/// A receive ring.
#[derive(Default)]
pub(crate) struct VecRing {
    posted: VecDeque<Vec<Buffer>>,
    reserved: usize,
    /// Returned chains in order, with their used lengths.
    pub(crate) used: Vec<(usize, Vec<Vec<u8>>)>,
}

impl VecRing {
    /// Posts a chain whose descriptors have these lengths.
    pub(crate) fn post(&mut self, lengths: &[usize]) {
        let buffers = lengths
            .iter()
            .map(|&length| RefCell::new(vec![EMPTY; length]));
        self.posted.push_back(buffers.collect());
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
            "more chains than were reserved"
        );
        for &length in written {
            let chain = self.posted.pop_front().expect("reserved chains are posted");
            let chain = chain.into_iter().map(RefCell::into_inner).collect();
            self.used.push((length as usize, chain));
        }
        self.reserved = 0;
    }
}
