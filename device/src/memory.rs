//! The seam between the device and the owner of rings and memory (ARCHITECTURE.md, "Seam").
//!
//! The data path names bytes by (transmit chain, offset) or (receive buffer, offset) and has a
//! [`Mover`] carry them; it takes and returns receive buffers through a [`ReceiveRing`]. It
//! dereferences no address: the one that the ledger records and the one that
//! [`Candidate::address`](crate::rules::Candidate::address) returns for a prefetch are data. All
//! decisions are made on private snapshots, taken once: a guest that rewrites its memory changes
//! the bytes carried, not the decision.
//!
//! A mover between slices and vectors, and a ring of vectors, are enough to send a frame:
//!
//! ```
//! use std::cell::RefCell;
//!
//! use zcnic_device::{
//!     checksum::Checksum,
//!     features::FeatureSet,
//!     memory::{Mover, ReceiveRing},
//!     receive::{Annotation, Layout, MAX_CHAINS, RX_HEADER, ReceiveQueue},
//!     transmit::{Snapshot, TransmitFormat, parse},
//! };
//!
//! type Buffer = RefCell<Vec<u8>>;
//!
//! struct VecMover;
//!
//! impl Mover for VecMover {
//!     type Source = [u8];
//!     type Target = Buffer;
//!
//!     fn source_len(&self, source: &[u8]) -> usize {
//!         source.len()
//!     }
//!     fn target_len(&self, target: &Buffer) -> usize {
//!         target.borrow().len()
//!     }
//!     fn snapshot(&self, source: &[u8], offset: usize, into: &mut [u8]) {
//!         into.copy_from_slice(&source[offset..offset + into.len()]);
//!     }
//!     fn copy(
//!         &self, source: &[u8], from: usize, target: &Buffer, to: usize, length: usize,
//!         sum: &mut Checksum,
//!     ) {
//!         let bytes = &source[from..from + length];
//!         sum.add(bytes);
//!         self.put(target, to, bytes);
//!     }
//!     fn put(&self, target: &Buffer, offset: usize, bytes: &[u8]) {
//!         target.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
//!     }
//! }
//!
//! /// Chains of one descriptor, and their used lengths.
//! #[derive(Default)]
//! struct VecRing {
//!     posted: Vec<[Buffer; 1]>,
//!     reserved: usize,
//!     used: Vec<u32>,
//! }
//!
//! impl ReceiveRing for VecRing {
//!     type Target = Buffer;
//!
//!     fn reserve(&mut self) -> bool {
//!         let available = self.used.len() + self.reserved < self.posted.len();
//!         self.reserved += usize::from(available);
//!         available
//!     }
//!     fn chain(&self, index: usize) -> &[Buffer] {
//!         &self.posted[self.used.len() + index]
//!     }
//!     fn commit(&mut self, written: &[u32]) {
//!         self.used.extend(written);
//!         self.reserved = 0;
//!     }
//! }
//!
//! // A plain virtio-net header, and a broadcast frame.
//! let mut chain = vec![0; 12];
//! chain.extend([0xff; 6]);
//! chain.extend([2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
//! chain.extend([7; 46]);
//!
//! let mut snapshot = Snapshot::default();
//! let format = TransmitFormat::VirtioNet;
//! let train = parse(&VecMover, &chain[..], format, FeatureSet::ALL, &mut snapshot)?;
//!
//! let mut queue = ReceiveQueue::default();
//! queue.start(Layout::Linear { size: 2048 }, MAX_CHAINS);
//! let mut ring = VecRing::default();
//! ring.posted.push([RefCell::new(vec![0; 2048])]);
//! let offloads = FeatureSet::PLAIN;
//! let note = Annotation { queue: 0, hash: None, offloads, time: 0, vlan: None };
//! let delivered = queue.deliver(&VecMover, &mut ring, &train, 0, &note);
//!
//! assert_eq!((delivered.frames, &ring.used[..]), (1, &[64 + 60][..]));
//! assert_eq!(ring.posted[0][0].borrow()[RX_HEADER..][..60], chain[12..]);
//! # Ok::<(), zcnic_device::transmit::TransmitError>(())
//! ```

use zerocopy::IntoBytes;

use crate::checksum::Checksum;

/// Moves bytes between transmit chains, receive buffers and the device's own snapshots.
///
/// The device passes offsets and lengths within [`Mover::source_len`] and [`Mover::target_len`],
/// because it checked them. An implementation must not corrupt memory even if they are not.
pub trait Mover {
    /// The device-readable bytes of one transmit chain, as one run.
    type Source: ?Sized;
    /// The device-writable bytes of one descriptor of a receive chain.
    type Target;

    /// Bytes in `source`.
    fn source_len(&self, source: &Self::Source) -> usize;

    /// Bytes of `source` from `offset` on that are in the same piece of memory. Bytes behind them
    /// are in another cache line, which may not have been prefetched.
    #[inline]
    fn piece_len(&self, source: &Self::Source, offset: usize) -> usize {
        self.source_len(source) - offset
    }

    /// Bytes of room in `target`.
    fn target_len(&self, target: &Self::Target) -> usize;

    /// Copies `into.len()` bytes from `offset` of `source` into memory of the device.
    fn snapshot(&self, source: &Self::Source, offset: usize, into: &mut [u8]);

    /// Copies `length` bytes from `source` to `target` and adds to `sum` exactly the bytes it
    /// stored, so that the checksum is that of the copy even if the guest rewrites the source
    /// meanwhile.
    fn copy(
        &self,
        source: &Self::Source,
        source_offset: usize,
        target: &Self::Target,
        target_offset: usize,
        length: usize,
        sum: &mut Checksum,
    );

    /// Stores `bytes` at `offset` of `target`.
    fn put(&self, target: &Self::Target, offset: usize, bytes: &[u8]);

    /// Stores `words` at `offset` of `target`, in native byte order. Same as [`put`](Self::put),
    /// but an implementation may store the words from registers, which saves the store-to-load
    /// forwarding stall of a copy.
    #[inline]
    fn put_words<const N: usize>(&self, target: &Self::Target, offset: usize, words: [u64; N]) {
        self.put(target, offset, words.as_bytes());
    }
}

/// Moves bytes of the device itself to the targets of another mover.
pub struct FromDevice<'m, M>(pub &'m M);

impl<M: Mover> Mover for FromDevice<'_, M> {
    type Source = [u8];
    type Target = M::Target;

    fn source_len(&self, source: &[u8]) -> usize {
        source.len()
    }

    fn target_len(&self, target: &M::Target) -> usize {
        self.0.target_len(target)
    }

    fn snapshot(&self, source: &[u8], offset: usize, into: &mut [u8]) {
        into.copy_from_slice(&source[offset..offset + into.len()]);
    }

    fn copy(
        &self,
        source: &[u8],
        source_offset: usize,
        target: &M::Target,
        target_offset: usize,
        length: usize,
        sum: &mut Checksum,
    ) {
        let bytes = &source[source_offset..source_offset + length];
        sum.add(bytes);
        self.0.put(target, target_offset, bytes);
    }

    fn put(&self, target: &M::Target, offset: usize, bytes: &[u8]) {
        self.0.put(target, offset, bytes);
    }

    #[inline]
    fn put_words<const N: usize>(&self, target: &M::Target, offset: usize, words: [u64; N]) {
        self.0.put_words(target, offset, words);
    }
}

/// The receive ring of one queue: chains are taken and returned in the order in which the driver
/// made them available.
///
/// Reserved chains are numbered from 0 in that order. [`commit`](Self::commit) returns them all and
/// makes them visible together: a driver never sees half a frame.
pub trait ReceiveRing {
    /// One descriptor of a chain; the same type as the mover's.
    type Target;

    /// Takes one more available chain; `false` if the ring has none.
    fn reserve(&mut self) -> bool;

    /// The device-writable descriptors of reserved chain `index`, in chain order. Empty for an
    /// unusable chain (no writable part, bad addresses, a loop), which can only be returned with
    /// length 0.
    fn chain(&self, index: usize) -> &[Self::Target];

    /// A hint that payload is about to be copied to reserved chain `index`, so that the ring can
    /// prefetch the next one.
    #[inline]
    fn copying_to(&self, index: usize) {
        let _ = index;
    }

    /// Returns the first `written.len()` reserved chains with these used lengths. The other
    /// reserved chains become available again.
    fn commit(&mut self, written: &[u32]);
}
