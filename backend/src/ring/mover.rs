//! The device's [`Mover`] over guest memory.

use std::{cell::Cell, marker::PhantomData};

use zcnic_device::{checksum::Checksum, memory::Mover};

use super::{prefetch::PrefetchHintCell, raw::Span};

/// Copies bytes from the memory of one guest ('s) to that of another ('t).
///
/// The device checks offsets against the lengths reported here, so accesses do not fail. If one
/// does, nothing outside the spans is touched.
pub(crate) struct GuestMover<'s, 't> {
    next_copy: Option<&'t NextCopy>,
    spans: PhantomData<(Span<'s>, Span<'t>)>,
}

impl<'t> GuestMover<'_, 't> {
    pub(crate) fn new() -> Self {
        Self {
            next_copy: None,
            spans: PhantomData,
        }
    }

    /// Prefetches the memory of the next copy during the current one.
    pub(crate) fn with(next_copy: &'t NextCopy) -> Self {
        Self {
            next_copy: Some(next_copy),
            spans: PhantomData,
        }
    }
}

impl<'s, 't> GuestMover<'s, 't> {
    #[inline(always)]
    fn copy_piece(
        &self,
        span: &Span<'s>,
        at: usize,
        target: &Span<'t>,
        to: usize,
        length: usize,
        sum: &mut Checksum,
    ) {
        match self.next_copy {
            Some(next_copy) if length >= NextCopy::LONG => {
                next_copy.worth.set(true);
                // The next segment of a train is behind this one.
                let behind = span.hint(at + length);
                let source = if behind.is_empty() {
                    next_copy.source.get()
                } else {
                    behind
                };
                let next = (source, next_copy.target.get());
                span.copy_ahead(at, target, to, length, next, sum);
            }
            _ => span.copy(at, target, to, length, sum),
        }
    }

    #[inline(never)]
    fn copy_pieces(
        &self,
        source: &[Span<'s>],
        source_offset: usize,
        target: &Span<'t>,
        target_offset: usize,
        length: usize,
        sum: &mut Checksum,
    ) {
        parts(source, source_offset, length, |span, at, here, done| {
            self.copy_piece(span, at, target, target_offset + done, here, sum);
        });
    }
}

/// Where the next copy reads and writes, as far as its caller knows it before the current copy.
#[derive(Debug, Default)]
pub(crate) struct NextCopy {
    /// Where it reads.
    pub(crate) source: PrefetchHintCell,
    /// Where it writes.
    pub(crate) target: PrefetchHintCell,
    /// The last copy was long enough for prefetches to pay.
    worth: Cell<bool>,
}

impl NextCopy {
    /// Bytes of a copy from which on prefetching the next one pays: it takes as long as memory
    /// takes to arrive. Shorter copies, of ordinary frames, mostly find their bytes in the
    /// second-level cache, and prefetches cost more than they save.
    pub(crate) const LONG: usize = 2048;

    /// Whether prefetching the next copy pays.
    #[inline]
    pub(crate) fn is_worth(&self) -> bool {
        self.worth.get()
    }
}

/// Calls `each` for the parts of `length` bytes from `offset` of the run that `spans` form, with a
/// span, the offset in it, the part's length, and the bytes of the parts before. Stops at the run's
/// end.
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
    // The bytes mostly are in one span, and the compiler knows their number then.
    if let Some(first) = spans.first()
        && offset
            .checked_add(length)
            .is_some_and(|end| end <= first.len())
    {
        first.read(offset, into);
        return;
    }
    parts(spans, offset, length, |span, at, here, done| {
        span.read(at, &mut into[done..done + here]);
    });
}

/// Writes `bytes` to the run that `spans` form, as far as they fit; returns how many did.
pub(crate) fn scatter(spans: &[Span<'_>], bytes: &[u8]) -> usize {
    let mut rest = bytes;
    for span in spans {
        let (now, later) = rest.split_at(rest.len().min(span.len()));
        span.write(0, now);
        rest = later;
    }
    bytes.len() - rest.len()
}

impl<'s, 't> Mover for GuestMover<'s, 't> {
    type Source = [Span<'s>];
    type Target = Span<'t>;

    #[inline]
    fn source_len(&self, source: &Self::Source) -> usize {
        match source {
            [one] => one.len(),
            [head, body] => head.len() + body.len(),
            many => many.iter().map(Span::len).sum(),
        }
    }

    #[inline]
    fn piece_len(&self, source: &Self::Source, mut offset: usize) -> usize {
        for span in source {
            if offset < span.len() {
                return span.len() - offset;
            }
            offset -= span.len();
        }
        0
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
        // The bytes mostly are in one span: the first, or the one behind the headers.
        let mut at = source_offset;
        for span in source.iter().take(2) {
            if at < span.len() {
                if length <= span.len() - at {
                    self.copy_piece(span, at, target, target_offset, length, sum);
                    return;
                }
                break;
            }
            at -= span.len();
        }
        self.copy_pieces(source, source_offset, target, target_offset, length, sum);
    }

    #[inline]
    fn put(&self, target: &Self::Target, offset: usize, bytes: &[u8]) {
        target.write(offset, bytes);
    }

    #[inline]
    fn put_words<const N: usize>(&self, target: &Self::Target, offset: usize, words: [u64; N]) {
        target.write_words(offset, words);
    }
}
