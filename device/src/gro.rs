//! Hardware GRO: which TCP segments may be coalesced into one frame, and the headers of that frame.
//!
//! The rules are those of the kernel's software GRO. Consecutive segments of a stream are coalesced
//! if all header fields that segmentation can't restore are equal, so that segmenting the aggregate
//! gives the original frames. Everything here works on copies of wire frames.

use crate::{
    abi,
    checksum::Checksum,
    frame::{Headers, IpVersion, L3, L4, L4Protocol, PROTOCOL_UDP, SNAPSHOT},
    train::{Aggregate, Changes, ChecksumState, Train, finished, put16},
};

/// The longest IP packet: lengths have 16 bits. Also for IPv6, as in the kernel.
const MAX_PACKET: usize = 0xffff;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// Everything in an IPv4 header's flags and fragment offset but "don't fragment".
const IPV4_FRAGMENT: u16 = 0xbfff;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const URG: u8 = 0x20;
const CWR: u8 = 0x80;
/// Flags that end an aggregate, which then has them.
const CLOSING: u8 = FIN | PSH;
/// Flags of segments that are never coalesced.
const ALONE: u8 = SYN | RST | URG;

/// Offsets in a TCP header.
const SEQUENCE: usize = 4;
const FLAGS: usize = 13;
const CHECKSUM: usize = 16;

const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMP6: u8 = 58;

/// The relation of a frame to TCP streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// None: it may overtake their segments.
    Other,
    /// Unknown: it may overtake no segment.
    Unknown,
    /// It belongs to this stream.
    Stream(Stream),
}

/// A TCP stream: addresses and ports of the innermost headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stream {
    addresses: [u8; 32],
    ports: [u16; 2],
}

/// The innermost parsed headers: of the inner packet if the frame is a tunnel.
fn innermost(headers: &Headers, header_bytes: &[u8]) -> Headers {
    headers.inner(header_bytes).unwrap_or(*headers)
}

/// Classifies the frame with these headers.
pub(crate) fn classify(headers: &Headers, header_bytes: &[u8]) -> Class {
    let inner = innermost(headers, header_bytes);
    match (inner.l3, inner.l4) {
        (None, _) => Class::Other,
        (Some(_), Some(l4)) if l4.protocol == L4Protocol::Tcp => {
            let mut addresses = [0; 32];
            if let Some((source, destination)) = inner.addresses(header_bytes) {
                addresses[..source.len()].copy_from_slice(source);
                addresses[16..16 + destination.len()].copy_from_slice(destination);
            }
            let ports = [l4.source_port, l4.destination_port];
            Class::Stream(Stream { addresses, ports })
        }
        (Some(_), Some(_)) => Class::Other,
        (Some(l3), None) => match l3.protocol {
            PROTOCOL_UDP | PROTOCOL_ICMP | PROTOCOL_ICMP6 => Class::Other,
            _ => Class::Unknown,
        },
    }
}

/// Whether a single frame with these headers may be coalesced with others, by its TCP header;
/// [`TcpSegment::new`] checks the rest.
pub(crate) fn may_coalesce(headers: &Headers, header_bytes: &[u8]) -> bool {
    innermost(headers, header_bytes).l4.is_some_and(|l4| {
        l4.payload_end > l4.payload_offset && header_bytes[l4.offset + FLAGS] & ALONE == 0
    })
}

/// The headers of a frame that may be coalesced.
#[derive(Clone, Copy, Debug)]
struct Layers {
    /// The outer IP header of a tunnel.
    outer: Option<L3>,
    inner: L3,
    l4: L4,
}

impl Layers {
    /// `None`: the frame is never coalesced.
    fn find(headers: &Headers, header_bytes: &[u8]) -> Option<Self> {
        let inner = innermost(headers, header_bytes);
        let layers = Self {
            outer: headers.l3.filter(|_| headers.l4.is_none()),
            inner: inner.l3?,
            l4: inner.l4?,
        };
        let end = layers.l4.payload_end;
        let usable = layers.l4.protocol == L4Protocol::Tcp
            && end > layers.l4.payload_offset
            && header_bytes[layers.l4.offset + FLAGS] & ALONE == 0
            && layers
                .ip()
                .all(|l3| l3.payload_end == end && is_plain(&l3, header_bytes));
        usable.then_some(layers)
    }

    /// The IP headers, outermost first.
    fn ip(&self) -> impl Iterator<Item = L3> + use<> {
        self.outer.into_iter().chain([self.inner])
    }

    /// Where the outermost IP header starts.
    fn start(&self) -> usize {
        self.outer.unwrap_or(self.inner).offset
    }

    /// Sets the lengths of all headers for a frame that ends at `end`.
    fn set_end(&mut self, end: usize) {
        self.inner.payload_end = end;
        self.l4.payload_end = end;
        if let Some(outer) = &mut self.outer {
            outer.payload_end = end;
        }
    }

    /// Writes lengths, flags and checksums into the header bytes; the TCP checksum field gets the
    /// pseudo-header sum.
    fn write(&self, header_bytes: &mut [u8], flags: u8) {
        for l3 in self.ip() {
            let length = l3.payload_end - l3.offset;
            match l3.version {
                IpVersion::V4 => {
                    let ip = &mut header_bytes[l3.offset..l3.offset + IPV4_HEADER];
                    put16(ip, 2, length);
                    put16(ip, 10, 0);
                    let mut sum = Checksum::new();
                    sum.add(ip);
                    put16(ip, 10, usize::from(sum.finish()));
                }
                IpVersion::V6 => put16(header_bytes, l3.offset + 4, length - IPV6_HEADER),
            }
        }
        header_bytes[self.l4.offset + FLAGS] |= flags;
        let headers = self.headers(Headers::default());
        let sum = headers.pseudo_header(header_bytes, self.l4.payload_end - self.l4.offset);
        let pseudo_header_sum = sum.unwrap_or_default().fold();
        put16(
            header_bytes,
            self.l4.offset + CHECKSUM,
            usize::from(pseudo_header_sum),
        );
    }

    /// With the Ethernet header of `ethernet`.
    fn headers(&self, ethernet: Headers) -> Headers {
        Headers {
            l3: Some(self.inner),
            l4: Some(self.l4),
            ..ethernet
        }
    }

    fn checksum(&self) -> ChecksumState {
        let start = self.l4.offset;
        let field = start + CHECKSUM;
        ChecksumState::Partial { start, field }
    }

    /// The identifications of the IPv4 headers, outermost first.
    fn ids(&self, header_bytes: &[u8]) -> [Option<u16>; 2] {
        let id = |l3: &L3| {
            let field = [header_bytes[l3.offset + 4], header_bytes[l3.offset + 5]];
            (l3.version == IpVersion::V4).then(|| u16::from_be_bytes(field))
        };
        [self.outer.as_ref().and_then(id), id(&self.inner)]
    }
}

/// Whether an IP header allows coalescing: no options, no fragment, a correct length and checksum.
fn is_plain(l3: &L3, header_bytes: &[u8]) -> bool {
    let header = &header_bytes[l3.offset..l3.payload_offset];
    let length = |at: usize| usize::from(u16::from_be_bytes([header[at], header[at + 1]]));
    let whole = l3.payload_end - l3.offset;
    if l3.version == IpVersion::V6 {
        return !l3.fragment && IPV6_HEADER + length(4) == whole;
    }
    let mut sum = Checksum::new();
    sum.add(header);
    header.len() == IPV4_HEADER
        && length(2) == whole
        && u16::from_be_bytes([header[6], header[7]]) & IPV4_FRAGMENT == 0
        && sum.finish() == 0
}

/// A segment that may be coalesced with others of its stream.
#[derive(Debug)]
pub(crate) struct TcpSegment<'f> {
    frame: &'f [u8],
    parsed: Headers,
    layers: Layers,
    /// Its header bytes, with zeroes in all fields that differ from segment to segment.
    common: Common,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Common([u8; SNAPSHOT]);

impl<'f> TcpSegment<'f> {
    /// Makes a segment of a frame; `None`: the frame can't be coalesced, and ends the aggregate
    /// before it.
    pub(crate) fn new(frame: &'f [u8]) -> Option<Self> {
        let train = finished(frame);
        let (parsed, header_bytes) = (*train.headers(), train.header_bytes());
        let layers = Layers::find(&parsed, header_bytes)?;
        let (l4, length) = (layers.l4, layers.l4.payload_end - layers.l4.offset);
        let mut sum = layers.headers(parsed).pseudo_header(header_bytes, length)?;
        sum.add(&frame[l4.offset..l4.payload_end]);
        if sum.finish() != 0 {
            return None;
        }
        let mut common = [0; SNAPSHOT];
        common[..l4.payload_offset].copy_from_slice(&frame[..l4.payload_offset]);
        for l3 in layers.ip() {
            let header = &mut common[l3.offset..];
            match l3.version {
                IpVersion::V4 => {
                    header[2..6].fill(0);
                    header[10..12].fill(0);
                }
                IpVersion::V6 => header[4..6].fill(0),
            }
        }
        let tcp = &mut common[l4.offset..];
        tcp[SEQUENCE..SEQUENCE + 4].fill(0);
        tcp[CHECKSUM..CHECKSUM + 2].fill(0);
        tcp[FLAGS] &= !CLOSING;
        Some(Self {
            frame,
            parsed,
            layers,
            common: Common(common),
        })
    }

    /// Bytes of its headers.
    pub(crate) fn header_length(&self) -> usize {
        self.layers.l4.payload_offset
    }

    /// Whether it ends its aggregate.
    pub(crate) fn closes(&self) -> bool {
        self.flags() & CLOSING != 0
    }

    fn flags(&self) -> u8 {
        self.frame[self.layers.l4.offset + FLAGS]
    }

    fn sequence(&self) -> u32 {
        let at = self.layers.l4.offset + SEQUENCE;
        let bytes: &[u8; 4] = self.frame[at..].first_chunk().unwrap_or(&[0; 4]);
        u32::from_be_bytes(*bytes)
    }

    fn payload(&self) -> &'f [u8] {
        &self.frame[self.layers.l4.payload_offset..self.layers.l4.payload_end]
    }
}

/// Coalesced segments, in memory of the device.
#[derive(Debug)]
pub(crate) struct Coalesced {
    /// The first segment's frame, then the payloads of the others.
    frame: Vec<u8>,
    /// The headers of the first segment, as parsed from the whole frame.
    parsed: Headers,
    layers: Layers,
    common: Common,
    ids: [Option<u16>; 2],
    /// Whether all IPv4 identifications are equal, from the second segment on.
    fixed: [bool; 2],
    count: u16,
    wire_bytes: usize,
    size: usize,
    next: u32,
    flags: u8,
    closed: bool,
}

impl Coalesced {
    /// Starts with one segment, which must not [close](TcpSegment::closes). Reuses `buffer`.
    pub(crate) fn new(first: TcpSegment<'_>, mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        buffer.extend_from_slice(first.frame);
        let size = first.payload().len();
        Self {
            frame: buffer,
            parsed: first.parsed,
            layers: first.layers,
            ids: first.layers.ids(first.frame),
            fixed: [false; 2],
            count: 1,
            wire_bytes: first.frame.len(),
            size,
            next: first.sequence().wrapping_add(size as u32),
            flags: first.flags(),
            closed: first.closes(),
            common: first.common,
        }
    }

    /// Appends `segment` if the rules allow it and the frame then has at most `limit` bytes.
    pub(crate) fn merge(&mut self, segment: &TcpSegment<'_>, limit: usize) -> bool {
        let payload = segment.payload();
        let end = self.layers.l4.payload_end + payload.len();
        let fits = end <= limit && end - self.layers.start() <= MAX_PACKET && self.count < u16::MAX;
        if self.closed
            || !fits
            || payload.len() > self.size
            || segment.sequence() != self.next
            || segment.common != self.common
        {
            return false;
        }
        let Some(fixed) = self.identified(segment.layers.ids(segment.frame)) else {
            return false;
        };
        self.fixed = fixed;
        // Bytes behind the first payload are padding.
        self.frame.truncate(self.layers.l4.payload_end);
        self.frame.extend_from_slice(payload);
        self.layers.set_end(end);
        self.count += 1;
        self.wire_bytes += segment.frame.len();
        self.next = self.next.wrapping_add(payload.len() as u32);
        self.flags |= segment.flags() & CLOSING;
        self.closed = segment.closes() || payload.len() < self.size;
        true
    }

    /// Checks that identifications continue as they began, by one each or not at all, and returns
    /// which of the two it is.
    fn identified(&self, ids: [Option<u16>; 2]) -> Option<[bool; 2]> {
        let mut fixed = self.fixed;
        for ((first, id), fixed) in self.ids.into_iter().zip(ids).zip(&mut fixed) {
            let (Some(first), Some(id)) = (first, id) else {
                continue;
            };
            let distance = id.wrapping_sub(first);
            // The second segment decides.
            *fixed |= self.count == 1 && distance == 0;
            if distance != if *fixed { 0 } else { self.count } {
                return None;
            }
        }
        Some(fixed)
    }

    /// Whether no segment can be appended.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Wire frames.
    pub(crate) fn count(&self) -> u16 {
        self.count
    }

    /// Bytes of the wire frames.
    pub(crate) fn wire_bytes(&self) -> usize {
        self.wire_bytes
    }

    /// Bytes held.
    pub(crate) fn length(&self) -> usize {
        self.frame.len()
    }

    /// Writes the headers of the aggregate; no segment may be appended afterwards.
    pub(crate) fn seal(&mut self) {
        self.closed = true;
        if self.count > 1 {
            self.layers.write(&mut self.frame, self.flags & CLOSING);
        }
    }

    /// The frame to deliver, which was [sealed](Self::seal).
    pub(crate) fn train(&self) -> Train<'_, [u8]> {
        let train = finished(&self.frame);
        if self.count == 1 {
            return train;
        }
        let flags = [abi::RX_FIXED_ID, abi::RX_FIXED_ID_INNER];
        // Without a tunnel, the innermost header is the outermost.
        let fixed = match self.layers.outer {
            Some(_) => self.fixed,
            None => [self.fixed[1], false],
        };
        let flags = flags.into_iter().zip(fixed).filter(|(_, fixed)| *fixed);
        Train {
            headers: self.layers.headers(self.parsed),
            checksum: self.layers.checksum(),
            aggregate: Some(Aggregate {
                count: self.count,
                size: self.size as u16,
                version: self.layers.inner.version,
                l3_offset: self.layers.inner.offset as u16,
                l4_offset: self.layers.l4.offset as u16,
                flags: flags.fold(0, |all, (flag, _)| all | flag),
            }),
            ..train
        }
    }

    /// The first segment's headers and the frame, for flow counters and reuse of the memory.
    pub(crate) fn into_parts(self) -> (Headers, Vec<u8>) {
        (self.parsed, self.frame)
    }
}

/// The number of segments of a train, from number `from` on, that make one frame of at most `limit`
/// bytes. `None` unless the rest of the train becomes aggregates only and the last of these is
/// closed.
pub(crate) fn run<S: ?Sized>(train: &Train<'_, S>, from: usize, limit: usize) -> Option<usize> {
    let segmentation = train.segmentation.as_ref()?;
    let (headers, header_bytes, segments) =
        (train.headers(), train.header_bytes(), train.segments());
    let last = train.segment_length(segments - 1) - segmentation.header_length;
    let (l3, l4) = (headers.l3?, headers.l4?);
    let flags = header_bytes[l4.offset + FLAGS];
    let usable = segmentation.protocol == L4Protocol::Tcp
        // CWR is on the first segment only, so that it can't be coalesced with the others.
        && flags & (ALONE | CWR) == 0
        && (flags & CLOSING != 0 || last < segmentation.size)
        && match l3.version {
            IpVersion::V4 => {
                let field = u16::from_be_bytes([header_bytes[l3.offset + 6], header_bytes[l3.offset + 7]]);
                l3.payload_offset - l3.offset == IPV4_HEADER && field & IPV4_FRAGMENT == 0
            }
            IpVersion::V6 => true,
        };
    let room = limit.min(l3.offset + MAX_PACKET);
    let fit = room.checked_sub(segmentation.header_length)? / segmentation.size;
    let left = segments - from;
    let count = if train.length - segmentation.header_length - from * segmentation.size
        <= room - segmentation.header_length
    {
        left
    } else {
        fit
    };
    // A single segment that does not close the aggregate may have successors.
    let held = left == 1 && flags & CLOSING == 0;
    (usable && count >= 1 && !held).then_some(count)
}

/// `count` segments of a train from number `from` on, for which [`run`] allowed it, as one frame,
/// whose header bytes are written to `buffer`.
pub(crate) fn coalesced<'a, S: ?Sized>(
    train: &'a Train<'_, S>,
    from: usize,
    count: usize,
    buffer: &'a mut [u8; SNAPSHOT],
) -> Option<Train<'a, S>> {
    let segmentation = train.segmentation.as_ref()?;
    let last = from + count == train.segments();
    let mut changes = Changes::default();
    let segment = train.segment(from, &mut changes);
    let (start, body) = (segment.header_bytes.sent().len(), segment.body);
    segment.header_bytes.write(buffer);
    let payload = if last {
        train.length - segmentation.header_length - from * segmentation.size
    } else {
        count * segmentation.size
    };
    let mut layers = Layers {
        outer: None,
        inner: train.headers().l3?,
        l4: train.headers().l4?,
    };
    layers.set_end(start + payload);
    let closing = if last {
        train.header_bytes()[layers.l4.offset + FLAGS] & CLOSING
    } else {
        0
    };
    layers.write(&mut buffer[..start], closing);
    Some(Train {
        header_bytes: &buffer[..start],
        headers: layers.headers(*train.headers()),
        source: train.source(),
        start: body - start,
        length: start + payload,
        checksum: layers.checksum(),
        segmentation: None,
        aggregate: (count > 1).then_some(Aggregate {
            count: count as u16,
            size: segmentation.size as u16,
            version: segmentation.version,
            l3_offset: segmentation.l3_offset as u16,
            l4_offset: segmentation.l4_offset as u16,
            flags: 0,
        }),
    })
}

#[cfg(test)]
mod tests;
