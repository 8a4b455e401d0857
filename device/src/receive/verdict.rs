//! The L4 checksum of a frame that is placed: completed if it is owed, and judged.

use crate::{
    checksum::Checksum,
    frame::{Headers, L4Protocol},
    train::{ChecksumState, Head, Segment},
};

/// Whether the L4 checksum was verified, and how it came out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Unknown,
    Good,
    Bad,
}

/// Completes the checksum of a frame if it is owed, and checks it: `covered` is the sum of the bytes behind
/// the head that it covers, `padding` that of those behind them.
#[inline]
pub(super) fn finish_checksum(
    headers: &Headers,
    segment: &mut Segment<'_>,
    covered: &Checksum,
    padding: &Checksum,
) -> Verdict {
    if let ChecksumState::Owed { start, field } = segment.checksum {
        let mut body = *covered;
        body.add_checksum(*padding);
        if let Head::Own(head) = &mut segment.head {
            insert_checksum(head, start, field, &body);
        }
    }
    // Also of a checksum that was inserted: the sender may have begun it wrongly, or elsewhere.
    verify(headers, segment, covered)
}

/// Completes the checksum that the sender began: `head` from `start` on and `body` are covered.
pub(crate) fn insert_checksum(head: &mut [u8], start: usize, field: usize, body: &Checksum) {
    let mut sum = Checksum::default();
    sum.add(&head[start.min(head.len())..]);
    sum.add_checksum(*body);
    // 0 means "no checksum" in UDP, so its equal 0xffff is sent (RFC 768); TCP takes either.
    let value = match sum.finish() {
        0 => 0xffff,
        value => value,
    };
    head[field..field + 2].copy_from_slice(&value.to_be_bytes());
}

/// Checks the L4 checksum of a frame, of whose bytes behind the head `covered` is the sum of those that it
/// covers.
#[inline]
pub(super) fn verify(headers: &Headers, segment: &Segment<'_>, covered: &Checksum) -> Verdict {
    let Some(l4) = headers.l4 else {
        return Verdict::Unknown;
    };
    let head: &[u8] = &segment.head;
    let field = l4.offset + l4.protocol.checksum_offset();
    if l4.protocol == L4Protocol::Udp && head[field..field + 2] == [0, 0] {
        return Verdict::Unknown;
    }
    let Some(mut sum) = headers.pseudo_header(head, segment.l4_end - l4.offset) else {
        return Verdict::Unknown;
    };
    sum.add(&head[l4.offset..segment.l4_end.min(head.len())]);
    sum.add_checksum(*covered);
    if sum.finish() == 0 {
        Verdict::Good
    } else {
        Verdict::Bad
    }
}
