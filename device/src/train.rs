//! What crosses a wire: a [`Train`] of segments that share one set of headers.
//!
//! A train *means* its segments, frames that fit the MTU with final checksums, but carries them as the sender
//! handed them over: one snapshot of the headers, one reference to the payload, a segment size and the state
//! of the checksum. A frame that needs no segmentation is a train of one segment. Materialising a segment
//! ([`Train::segment`]) costs a copy of the headers; payload is copied once, by the receiver.

use std::ops::Deref;

use crate::{
    checksum::Checksum,
    frame::{Headers, IpVersion, L4Protocol, SNAPSHOT},
    memory::Mover,
    receive::insert_checksum,
};

/// Who owes the L4 checksum of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumState {
    /// The field is as the receiver shall see it; whether it is right is unknown.
    Final,
    /// The field holds the sum of the pseudo header; the sum from `start` to the end of the frame is owed
    /// to it (virtio 1.3, 5.1.6.2: `VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    Owed {
        /// First byte that the checksum covers, from the start of the frame.
        start: usize,
        /// Where its two bytes are, from the start of the frame.
        field: usize,
    },
}

/// How a train is cut into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// TCP or UDP.
    pub protocol: L4Protocol,
    /// Payload bytes of every segment but the last, which may have fewer.
    pub size: usize,
    /// Bytes that every segment repeats, from the start of the frame through its L4 header.
    pub header_length: usize,
    /// Version of the IP header whose lengths and identification change.
    pub version: IpVersion,
    /// Where that header starts.
    pub l3_offset: usize,
    /// Where the L4 header starts.
    pub l4_offset: usize,
}

impl Segmentation {
    /// Payload bytes of segment `index` of a train of `length` bytes.
    fn payload(&self, length: usize, index: usize) -> usize {
        (length - self.header_length - index * self.size).min(self.size)
    }
}

/// A train of segments whose bytes are in `source`. Its parts have been checked against each other by
/// [`transmit::parse`](crate::transmit::parse).
pub struct Train<'a, S: ?Sized> {
    pub(crate) head: &'a [u8],
    pub(crate) headers: Headers,
    pub(crate) source: &'a S,
    /// Where the frame starts in the source.
    pub(crate) start: usize,
    /// Bytes of the frame as it is in the source.
    pub(crate) length: usize,
    pub(crate) checksum: ChecksumState,
    pub(crate) segmentation: Option<Segmentation>,
    /// It is one frame that the receiver makes of many, and stays one.
    pub(crate) aggregate: Option<Aggregate>,
}

/// What a frame was made of that hardware GRO made ([`gro`](crate::gro)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Aggregate {
    /// Wire frames.
    pub(crate) count: u16,
    /// Payload bytes of each but the last.
    pub(crate) size: u16,
    /// Version of the innermost IP header.
    pub(crate) version: IpVersion,
    /// Where it starts.
    pub(crate) l3_offset: u16,
    /// Where the TCP header starts.
    pub(crate) l4_offset: u16,
    /// `RX_FIXED_ID` and `RX_FIXED_ID_INNER`.
    pub(crate) flags: u16,
}

/// One frame of a train: `head`, then the bytes of the source from `body` on.
pub struct Segment<'h> {
    /// The bytes at the start of the frame that the device owns.
    pub head: Head<'h>,
    /// Where in the train's source the bytes behind the head are.
    pub body: usize,
    /// Bytes of the whole frame.
    pub length: usize,
    /// State of this frame's L4 checksum.
    pub checksum: ChecksumState,
    /// Where this frame's L4 payload ends: what follows is Ethernet padding.
    pub l4_end: usize,
}

/// The first bytes of a frame.
pub enum Head<'h> {
    /// As the sender's snapshot has them.
    Sent(&'h [u8]),
    /// A copy, because they change.
    Own(&'h mut [u8]),
}

impl Deref for Head<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Sent(bytes) => bytes,
            Self::Own(bytes) => bytes,
        }
    }
}

/// The fixed IPv6 header, which its length field does not count.
const IPV6_HEADER: usize = 40;

impl<'a, S: ?Sized> Train<'a, S> {
    /// A place for [`transmit::parse_into`](crate::transmit::parse_into) to make a train in: for now a frame of
    /// no bytes.
    #[must_use]
    #[inline]
    pub fn unset(source: &'a S) -> Self {
        Self {
            head: &[],
            headers: Headers::default(),
            source,
            start: 0,
            length: 0,
            checksum: ChecksumState::Final,
            segmentation: None,
            aggregate: None,
        }
    }

    /// The headers that all segments share.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The snapshot that [`headers`](Self::headers) was parsed from.
    #[must_use]
    pub fn head(&self) -> &'a [u8] {
        self.head
    }

    /// Where the payload is.
    #[must_use]
    pub fn source(&self) -> &'a S {
        self.source
    }

    /// Number of frames that this train means; at least 1.
    #[must_use]
    #[inline]
    pub fn segments(&self) -> usize {
        self.segmentation.as_ref().map_or(1, |cut| {
            (self.length - cut.header_length).div_ceil(cut.size).max(1)
        })
    }

    /// Bytes of all its frames.
    #[must_use]
    #[inline]
    pub fn wire_bytes(&self) -> usize {
        let repeated = self
            .segmentation
            .as_ref()
            .map_or(0, |cut| cut.header_length);
        self.length + (self.segments() - 1) * repeated
    }

    /// Bytes of frame number `index`, which must be below [`segments`](Self::segments).
    #[must_use]
    #[inline]
    pub fn segment_length(&self, index: usize) -> usize {
        self.segmentation.as_ref().map_or(self.length, |cut| {
            cut.header_length + cut.payload(self.length, index)
        })
    }

    /// Frame number `index`, from 0; `index` must be below [`segments`](Self::segments). A head that differs
    /// from the train's, or will, is made in `buffer`.
    #[must_use]
    #[inline]
    pub fn segment<'h>(&'h self, index: usize, buffer: &'h mut [u8; SNAPSHOT]) -> Segment<'h> {
        match &self.segmentation {
            Some(cut) => self.cut(cut, index, buffer),
            None => self.whole(buffer),
        }
    }

    #[inline]
    fn whole<'h>(&'h self, buffer: &'h mut [u8; SNAPSHOT]) -> Segment<'h> {
        // The body starts behind the headers, so that payload is copied straight to where it is wanted, but
        // never inside the checksum field. Of a frame that is in the snapshot as a whole it is not needed.
        let mut head_length = self.headers.payload_offset();
        if let ChecksumState::Owed { field, .. } = self.checksum {
            head_length = head_length.max(field + 2);
        }
        if self.length <= self.head.len() {
            head_length = self.length;
        }
        let sent = &self.head[..head_length];
        let head = match self.checksum {
            ChecksumState::Final => Head::Sent(sent),
            ChecksumState::Owed { .. } => {
                let own = &mut buffer[..head_length];
                own.copy_from_slice(sent);
                Head::Own(own)
            }
        };
        Segment {
            head,
            body: self.start + head_length,
            length: self.length,
            checksum: self.checksum,
            l4_end: self.headers.l4.map_or(self.length, |l4| l4.payload_end),
        }
    }

    fn cut<'h>(
        &self,
        cut: &Segmentation,
        index: usize,
        buffer: &'h mut [u8; SNAPSHOT],
    ) -> Segment<'h> {
        let done = index * cut.size;
        let payload = cut.payload(self.length, index);
        let length = cut.header_length + payload;
        let last = index + 1 == self.segments();
        let head = &mut buffer[..cut.header_length];
        head.copy_from_slice(&self.head[..cut.header_length]);
        match cut.version {
            IpVersion::V4 => rewrite_ipv4(
                &mut head[cut.l3_offset..cut.l4_offset],
                length - cut.l3_offset,
                index,
            ),
            IpVersion::V6 => put16(
                head,
                cut.l3_offset + 4,
                length - cut.l3_offset - IPV6_HEADER,
            ),
        }
        let l4_length = length - cut.l4_offset;
        match cut.protocol {
            L4Protocol::Tcp => rewrite_tcp(&mut head[cut.l4_offset..], done, index == 0, last),
            L4Protocol::Udp => put16(head, cut.l4_offset + 4, l4_length),
        }
        let owed = self
            .headers
            .pseudo_header(head, l4_length)
            .unwrap_or_default()
            .fold();
        put16(
            head,
            cut.l4_offset + cut.protocol.checksum_offset(),
            usize::from(owed),
        );
        Segment {
            head: Head::Own(head),
            body: self.start + cut.header_length + done,
            length,
            checksum: ChecksumState::Owed {
                start: cut.l4_offset,
                field: cut.l4_offset + cut.protocol.checksum_offset(),
            },
            l4_end: length,
        }
    }
}

/// A copy of frame number `index` of a train as the receiver shall see it, with its final checksum.
pub(crate) fn finish<M: Mover>(mover: &M, train: &Train<'_, M::Source>, index: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    finish_into(mover, train, index, &mut frame);
    frame
}

/// The same, in a vector that was used before.
pub(crate) fn finish_into<M: Mover>(
    mover: &M,
    train: &Train<'_, M::Source>,
    index: usize,
    frame: &mut Vec<u8>,
) {
    let mut buffer = [0; SNAPSHOT];
    let segment = train.segment(index, &mut buffer);
    frame.clear();
    frame.extend_from_slice(&segment.head);
    frame.resize(segment.length, 0);
    let (head, body) = frame.split_at_mut(segment.head.len());
    mover.snapshot(train.source(), segment.body, body);
    if let ChecksumState::Owed { start, field } = segment.checksum {
        let mut sum = Checksum::new();
        sum.add(body);
        insert_checksum(head, start, field, &sum);
    }
}

/// A frame that is as the receiver shall see it, as a train of one.
#[must_use]
pub fn finished(frame: &[u8]) -> Train<'_, [u8]> {
    let head = &frame[..frame.len().min(SNAPSHOT)];
    Train {
        head,
        headers: Headers::parse(head, frame.len()),
        source: frame,
        start: 0,
        length: frame.len(),
        checksum: ChecksumState::Final,
        segmentation: None,
        aggregate: None,
    }
}

/// Stores the low 16 bits of `value`, which the caller has bounded, in network order.
pub(crate) fn put16(head: &mut [u8], offset: usize, value: usize) {
    head[offset..offset + 2].copy_from_slice(&(value as u16).to_be_bytes());
}

/// Each segment is a datagram of its own (RFC 6864): length, identification and header checksum change.
fn rewrite_ipv4(ip: &mut [u8], length: usize, index: usize) {
    put16(ip, 2, length);
    let id = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add(index as u16);
    put16(ip, 4, usize::from(id));
    put16(ip, 10, 0);
    let mut sum = Checksum::new();
    sum.add(ip);
    put16(ip, 10, usize::from(sum.finish()));
}

fn rewrite_tcp(tcp: &mut [u8], done: usize, first: bool, last: bool) {
    const FIN_PSH: u8 = 0x09;
    const CWR: u8 = 0x80;
    let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]).wrapping_add(done as u32);
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    if !last {
        tcp[13] &= !FIN_PSH;
    }
    if !first {
        tcp[13] &= !CWR;
    }
}
