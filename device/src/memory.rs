//! The seam between the device and whoever owns rings and memory (ARCHITECTURE.md, "Seam").
//!
//! The device never sees an address. It names bytes by (transmit chain, offset) or (receive buffer, offset)
//! and asks a [`Mover`] to carry them; it takes and returns receive buffers through a [`ReceiveRing`].
//! Everything it *decides* on, it decides on a private snapshot that it took once, so that a guest which
//! rewrites its memory meanwhile changes what is carried, never what is decided.

use zerocopy::IntoBytes;

use crate::checksum::Checksum;

/// Carries bytes between transmit chains, receive buffers and the device's own snapshots.
///
/// Offsets and lengths that the device passes lie within what [`Mover::source_len`] and
/// [`Mover::target_len`] said, because it checked; an implementation still must not corrupt memory when
/// they do not.
pub trait Mover {
    /// The device-readable bytes of one transmit chain, as one run.
    type Source: ?Sized;
    /// The device-writable bytes of one descriptor of a receive chain.
    type Target;

    /// Bytes in `source`.
    fn source_len(&self, source: &Self::Source) -> usize;

    /// How many of the bytes of `source` from `offset` on can be looked at for the price of the first: what is behind them
    /// is somewhere else, and may be on no way to the cache yet.
    #[inline]
    fn piece_len(&self, source: &Self::Source, offset: usize) -> usize {
        self.source_len(source) - offset
    }

    /// Bytes of room in `target`.
    fn target_len(&self, target: &Self::Target) -> usize;

    /// Copies `into.len()` bytes from `offset` of `source` into memory of the device.
    fn snapshot(&self, source: &Self::Source, offset: usize, into: &mut [u8]);

    /// Copies `length` bytes from `source` to `target` and adds to `sum` exactly the bytes it stored, so
    /// that the checksum is that of the copy even if the guest rewrites the source meanwhile.
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

    /// Stores `words` at `offset` of `target`, in native byte order: the same as [`put`](Self::put), but an
    /// implementation may store words that were never in memory, which spares the processor to wait until they are.
    #[inline]
    fn put_words<const N: usize>(&self, target: &Self::Target, offset: usize, words: [u64; N]) {
        self.put(target, offset, words.as_bytes());
    }
}

/// Carries bytes of the device itself; targets are those of another mover.
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

/// The receive side of one queue's ring: chains are taken and returned strictly in the order in which the
/// driver made them available.
///
/// Reserved chains are numbered from 0 in that order. [`commit`](Self::commit) returns them all and makes
/// them visible together: a driver never sees half a frame.
pub trait ReceiveRing {
    /// One descriptor of a chain; the same type as the mover's.
    type Target;

    /// Takes one more available chain; `false` when there is none.
    fn reserve(&mut self) -> bool;

    /// The device-writable descriptors of reserved chain `index`, in chain order. Empty when the driver
    /// made an unusable chain available (no writable part, bad addresses, a loop): such a chain can only
    /// be returned with length 0.
    fn chain(&self, index: usize) -> &[Self::Target];

    /// Payload is about to be copied to reserved chain `index`: a hint, by which what comes next can be sent for.
    #[inline]
    fn copying_to(&self, index: usize) {
        let _ = index;
    }

    /// Returns the first `written.len()` reserved chains with these used lengths and gives the rest back
    /// as available.
    fn commit(&mut self, written: &[u32]);
}
