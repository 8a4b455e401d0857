//! The L4 checksum of a frame that is placed: completed if it is owed, and judged.

use crate::{
    checksum::Checksum,
    frame::{Headers, L4Protocol, SNAPSHOT},
    train::{Changes, HeaderBytes, Segment},
};

/// Whether the L4 checksum was verified, and how it came out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChecksumVerdict {
    Unknown,
    Good,
    Bad,
}

/// Completes the checksum of a frame if it is owed, and checks it: `covered` is the sum of the bytes behind
/// the head that it covers, `padding` that of those behind them.
#[inline(always)]
pub(super) fn finish_checksum(
    headers: &Headers,
    segment: &mut Segment<'_>,
    covered: &Checksum,
    padding: &Checksum,
) -> ChecksumVerdict {
    if let Some(partial) = segment.partial {
        let mut body = *covered;
        body.add_checksum(*padding);
        partial.insert(&mut segment.header_bytes, body);
        if partial.valid {
            return ChecksumVerdict::Good;
        }
        // It was begun wrongly, or elsewhere, or covers what it should not.
        return verify_changed(headers, segment, covered);
    }
    verify(headers, segment, covered)
}

/// Checks the L4 checksum of a frame that is as it was sent; of its bytes behind the head that it covers `covered`
/// is the sum.
#[inline(always)]
fn verify(headers: &Headers, segment: &Segment<'_>, covered: &Checksum) -> ChecksumVerdict {
    let Some(l4) = headers.l4 else {
        return ChecksumVerdict::Unknown;
    };
    let header_bytes = segment.header_bytes.sent();
    let field = l4.offset + l4.protocol.checksum_offset();
    if l4.protocol == L4Protocol::Udp && header_bytes[field..field + 2] == [0, 0] {
        return ChecksumVerdict::Unknown;
    }
    let end = segment.l4_end.min(header_bytes.len());
    let Some(mut sum) = headers.pseudo_header_and(header_bytes, segment.l4_end - l4.offset, end)
    else {
        return ChecksumVerdict::Unknown;
    };
    sum.add_checksum(*covered);
    if sum.finish() == 0 {
        ChecksumVerdict::Good
    } else {
        ChecksumVerdict::Bad
    }
}

/// The same of a frame whose head was changed.
#[cold]
fn verify_changed(headers: &Headers, segment: &Segment<'_>, covered: &Checksum) -> ChecksumVerdict {
    let mut buffer = [0; SNAPSHOT];
    let header_bytes = &mut buffer[..segment.header_bytes.sent().len()];
    segment.header_bytes.write(header_bytes);
    let changes = &mut Changes::default();
    let written = Segment {
        header_bytes: HeaderBytes::new(header_bytes, changes),
        ..*segment
    };
    verify(headers, &written, covered)
}
