//! The device's [`Mover`] over guest memory.

use std::marker::PhantomData;

use zcnic_device::{checksum::Checksum, memory::Mover};

use super::raw::Span;

/// Carries bytes from the memory of one guest ('s) to that of another ('t).
///
/// The device checks offsets against the lengths given here, so the accesses do not fail; should one
/// nevertheless, nothing outside the spans is touched.
pub(crate) struct GuestMover<'s, 't>(PhantomData<(Span<'s>, Span<'t>)>);

impl GuestMover<'_, '_> {
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }
}

/// Calls `each` for the parts of `length` bytes from `offset` of the run that `spans` form: a span, where in it,
/// how much of it, and how much was before. Stops at the run's end.
#[inline]
fn parts<'s>(
    spans: &[Span<'s>],
    mut offset: usize,
    length: usize,
    mut each: impl FnMut(&Span<'s>, usize, usize, usize),
) {
    let mut done = 0;
    for span in spans {
        if done == length {
            return;
        }
        if offset >= span.len() {
            offset -= span.len();
            continue;
        }
        let here = (length - done).min(span.len() - offset);
        each(span, offset, here, done);
        done += here;
        offset = 0;
    }
}

/// Reads `into.len()` bytes from `offset` of the run that `spans` form; stops at its end.
#[inline]
pub(crate) fn gather(spans: &[Span<'_>], offset: usize, into: &mut [u8]) {
    let length = into.len();
    parts(spans, offset, length, |span, at, here, done| {
        span.read(at, &mut into[done..done + here]);
    });
}

impl<'s, 't> Mover for GuestMover<'s, 't> {
    type Source = [Span<'s>];
    type Target = Span<'t>;

    #[inline]
    fn source_len(&self, source: &Self::Source) -> usize {
        source.iter().map(Span::len).sum()
    }

    #[inline]
    fn target_len(&self, target: &Self::Target) -> usize {
        target.len()
    }

    #[inline]
    fn snapshot(&self, source: &Self::Source, offset: usize, into: &mut [u8]) {
        gather(source, offset, into);
    }

    #[inline]
    fn copy(
        &self,
        source: &Self::Source,
        source_offset: usize,
        target: &Self::Target,
        target_offset: usize,
        length: usize,
        sum: &mut Checksum,
    ) {
        parts(source, source_offset, length, |span, at, here, done| {
            span.copy(at, target, target_offset + done, here, sum);
        });
    }

    #[inline]
    fn put(&self, target: &Self::Target, offset: usize, bytes: &[u8]) {
        target.write(offset, bytes);
    }
}
