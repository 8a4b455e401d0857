//! The device's [`Mover`] over guest memory.

use std::marker::PhantomData;

use vm_memory::{Bytes, VolatileSlice};
use zcnic_device::{checksum::Checksum, memory::Mover};

/// Bytes that are carried at once: they are summed while they are still in the nearest cache.
const CHUNK: usize = 2048;

/// Carries bytes from the memory of one guest ('s) to that of another ('t).
///
/// The device checks offsets against the lengths given here, so the accesses do not fail; should one
/// nevertheless, nothing outside the slices is touched.
pub(crate) struct GuestMover<'s, 't>(PhantomData<(VolatileSlice<'s>, VolatileSlice<'t>)>);

impl GuestMover<'_, '_> {
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }
}

/// Reads `into.len()` bytes from `offset` of the run that `slices` form; stops at its end.
pub(crate) fn gather(slices: &[VolatileSlice<'_>], mut offset: usize, mut into: &mut [u8]) {
    for slice in slices {
        if into.is_empty() {
            return;
        }
        if offset >= slice.len() {
            offset -= slice.len();
            continue;
        }
        let here = into.len().min(slice.len() - offset);
        let (now, rest) = into.split_at_mut(here);
        if slice.read_slice(now, offset).is_err() {
            debug_assert!(false, "offset and length are inside the slice");
        }
        into = rest;
        offset = 0;
    }
}

impl<'s, 't> Mover for GuestMover<'s, 't> {
    type Source = [VolatileSlice<'s>];
    type Target = VolatileSlice<'t>;

    fn source_len(&self, source: &Self::Source) -> usize {
        source.iter().map(VolatileSlice::len).sum()
    }

    fn target_len(&self, target: &Self::Target) -> usize {
        target.len()
    }

    fn snapshot(&self, source: &Self::Source, offset: usize, into: &mut [u8]) {
        gather(source, offset, into);
    }

    fn copy(
        &self,
        source: &Self::Source,
        source_offset: usize,
        target: &Self::Target,
        target_offset: usize,
        length: usize,
        sum: &mut Checksum,
    ) {
        let mut chunk = [0; CHUNK];
        let mut done = 0;
        while done < length {
            let bytes = &mut chunk[..(length - done).min(CHUNK)];
            gather(source, source_offset + done, bytes);
            sum.add(bytes);
            self.put(target, target_offset + done, bytes);
            done += bytes.len();
        }
    }

    fn put(&self, target: &Self::Target, offset: usize, bytes: &[u8]) {
        if target.write_slice(bytes, offset).is_err() {
            debug_assert!(false, "offset and length are inside the target");
        }
    }
}
