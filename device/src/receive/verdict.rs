//! The L4 checksum of a placed frame: inserted if it is partial, and verified.

use crate::{
    checksum::Checksum,
    frame::{Headers, L4Protocol, SNAPSHOT},
    train::{Changes, HeaderBytes, Segment},
};

/// The result of verifying an L4 checksum.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChecksumVerdict {
    Unknown,
    Good,
    Bad,
}

/// Inserts the checksum of a frame if it is partial, and verifies it. `covered` is the sum of the
/// covered bytes behind the header bytes, `padding` that of the bytes behind those.
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
        // The field held no pseudo-header sum, or start or field are not those of the L4 header.
        return verify_changed(headers, segment, covered);
    }
    verify(headers, segment, covered)
}

/// Verifies the L4 checksum of a frame with unchanged header bytes; `covered` is the sum of the
/// covered bytes behind them.
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

/// The same for a frame with changed header bytes.
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
