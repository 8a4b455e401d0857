//! The unit that crosses a wire: a [`Train`] of segments with one set of headers.
//!
//! A train *means* its segments, frames that fit the MTU with final checksums, but carries them as
//! the sender handed them over, like a GSO skb: one snapshot of the headers, one reference to the
//! payload, a segment size and the state of the checksum. A frame without segmentation is a train
//! of one segment. Materialising a segment ([`Train::segment`]) costs a copy of the headers; the
//! receiver copies the payload once.

mod header_bytes;

use std::ops::Range;

pub use self::header_bytes::{Changes, HeaderBytes};
use crate::{
    checksum::Checksum,
    frame::{ETHER_TYPE_VLAN, Headers, IpVersion, L4Protocol, SNAPSHOT, VLAN_OFFSET, VLAN_TAG},
    memory::Mover,
};

/// The state of a frame's L4 checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumState {
    /// The field is final; it may be valid or not.
    Final,
    /// The checksum is partial: the field holds the pseudo-header sum, and the device adds the sum
    /// from `start` to the end of the frame (`CHECKSUM_PARTIAL`; virtio 1.3, 5.1.6.2:
    /// `VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    Partial {
        /// First byte that the checksum covers, from the start of the frame.
        start: usize,
        /// Offset of its two bytes, from the start of the frame.
        field: usize,
    },
}

/// The segmentation of a train.
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
    /// The sum of an IPv4 header without the fields that differ between segments.
    ip_sum: Checksum,
    /// The sum of pseudo header and L4 header without the fields that differ.
    l4_sum: Checksum,
}

impl Segmentation {
    /// Segmentation of a frame with these headers into segments of `size` bytes; `None` if its
    /// headers can't be repeated.
    pub(crate) fn new(headers: &Headers, header_bytes: &[u8], size: usize) -> Option<Self> {
        let (l3, l4) = (headers.l3?, headers.l4?);
        let header_length = headers.payload_offset();
        let without = |range: Range<usize>, differ: &[usize]| -> Option<Checksum> {
            let header = header_bytes.get(range)?;
            let mut sum = Checksum::new();
            sum.add(header);
            for &at in differ {
                sum.add_u16(!u16::from_be_bytes([
                    *header.get(at)?,
                    *header.get(at + 1)?,
                ]));
            }
            Some(sum)
        };
        let differ: &[usize] = match l4.protocol {
            L4Protocol::Tcp => &[4, 6, 12, 16],
            L4Protocol::Udp => &[4, 6],
        };
        let mut l4_sum = headers.pseudo_header(header_bytes, 0)?;
        l4_sum.add_checksum(without(l4.offset..header_length, differ)?);
        Some(Self {
            protocol: l4.protocol,
            size,
            header_length,
            version: l3.version,
            l3_offset: l3.offset,
            l4_offset: l4.offset,
            ip_sum: match l3.version {
                IpVersion::V4 => without(l3.offset..l4.offset, &[2, 4, 10])?,
                IpVersion::V6 => Checksum::new(),
            },
            l4_sum,
        })
    }

    /// Payload bytes of segment `index` of a train of `length` bytes.
    fn payload(&self, length: usize, index: usize) -> usize {
        (length - self.header_length - index * self.size).min(self.size)
    }
}

/// A train of segments whose bytes are in `source`. [`transmit::parse`](crate::transmit::parse) has
/// checked its parts against each other.
pub struct Train<'a, S: ?Sized> {
    pub(crate) header_bytes: &'a [u8],
    pub(crate) headers: Headers,
    pub(crate) source: &'a S,
    /// Where the frame starts in the source.
    pub(crate) start: usize,
    /// Bytes of the frame as it is in the source.
    pub(crate) length: usize,
    pub(crate) checksum: ChecksumState,
    pub(crate) segmentation: Option<Segmentation>,
    /// Set if it is an aggregate, which is not segmented again.
    pub(crate) aggregate: Option<Aggregate>,
}

/// The composition of an aggregate ([`gro`](crate::gro)).
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

/// One frame of a train: the header bytes, then the bytes of the source from `body` on.
pub struct Segment<'h> {
    /// The first bytes of the frame, from the snapshot.
    pub header_bytes: HeaderBytes<'h>,
    /// Offset of the bytes behind them, in the train's source.
    pub body: usize,
    /// Bytes of the whole frame.
    pub length: usize,
    /// The checksum that is to be inserted.
    pub(crate) partial: Option<PartialChecksum>,
    /// End of this frame's L4 payload; Ethernet padding follows.
    pub l4_end: usize,
}

/// A partial checksum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartialChecksum {
    /// Offset of its two bytes, from the start of the frame.
    field: usize,
    /// The sum of the covered header bytes.
    sum: Checksum,
    /// Whether the inserted checksum will be valid.
    pub(crate) valid: bool,
}

impl PartialChecksum {
    /// Inserts the checksum into `header_bytes`; `body` is the sum of all bytes behind them.
    #[inline]
    pub(crate) fn insert(&self, header_bytes: &mut HeaderBytes<'_>, body: Checksum) {
        let mut sum = self.sum;
        sum.add_checksum(body);
        // 0 means "no checksum" in UDP, so its equal 0xffff is sent (RFC 768); TCP takes either.
        let value = match sum.finish() {
            0 => 0xffff,
            value => value,
        };
        header_bytes.change(self.field, value);
    }
}

/// The fixed IPv6 header, which its length field does not count.
const IPV6_HEADER: usize = 40;

impl<'a, S: ?Sized> Train<'a, S> {
    /// A place for [`transmit::parse_into`](crate::transmit::parse_into) to make a train in; a
    /// frame of no bytes until then.
    #[must_use]
    #[inline]
    pub fn unset(source: &'a S) -> Self {
        Self {
            header_bytes: &[],
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

    /// The header bytes: the snapshot that [`headers`](Self::headers) was parsed from.
    #[must_use]
    pub fn header_bytes(&self) -> &'a [u8] {
        self.header_bytes
    }

    /// The source of the payload.
    #[must_use]
    pub fn source(&self) -> &'a S {
        self.source
    }

    /// The same train without its outer VLAN tag, its header bytes in `header_bytes`. `None`: the
    /// tag is not an 802.1Q tag, or the partial checksum covers it.
    #[cold]
    pub(crate) fn without_vlan_tag<'b>(
        &self,
        header_bytes: &'b mut [u8; SNAPSHOT],
    ) -> Option<Train<'b, S>>
    where
        'a: 'b,
    {
        let checksum = match self.checksum {
            ChecksumState::Final => ChecksumState::Final,
            ChecksumState::Partial { start, field } => ChecksumState::Partial {
                start: start
                    .checked_sub(VLAN_TAG)
                    .filter(|start| *start >= VLAN_OFFSET)?,
                field: field - VLAN_TAG,
            },
        };
        let (addresses, tagged) = self.header_bytes.split_at_checked(VLAN_OFFSET)?;
        if !tagged.starts_with(&ETHER_TYPE_VLAN.to_be_bytes()) {
            return None;
        }
        let rest = tagged.get(VLAN_TAG..)?;
        let header_bytes = &mut header_bytes[..addresses.len() + rest.len()];
        header_bytes[..VLAN_OFFSET].copy_from_slice(addresses);
        header_bytes[VLAN_OFFSET..].copy_from_slice(rest);
        let length = self.length - VLAN_TAG;
        Some(Train {
            header_bytes,
            headers: Headers::parse(header_bytes, length),
            source: self.source,
            start: self.start + VLAN_TAG,
            length,
            checksum,
            segmentation: self.segmentation.map(|segmentation| Segmentation {
                header_length: segmentation.header_length - VLAN_TAG,
                l3_offset: segmentation.l3_offset - VLAN_TAG,
                l4_offset: segmentation.l4_offset - VLAN_TAG,
                ..segmentation
            }),
            aggregate: self.aggregate.map(|aggregate| Aggregate {
                l3_offset: aggregate.l3_offset - VLAN_TAG as u16,
                l4_offset: aggregate.l4_offset - VLAN_TAG as u16,
                ..aggregate
            }),
        })
    }

    /// Whether it is segmented as frames of `protocol`.
    #[must_use]
    pub fn is_segmented(&self, protocol: L4Protocol) -> bool {
        let segmentation = self.segmentation.as_ref();
        segmentation.is_some_and(|segmentation| segmentation.protocol == protocol)
    }

    /// Number of frames that this train means; at least 1.
    #[must_use]
    #[inline]
    pub fn segments(&self) -> usize {
        self.segmentation.as_ref().map_or(1, |segmentation| {
            (self.length - segmentation.header_length)
                .div_ceil(segmentation.size)
                .max(1)
        })
    }

    /// Bytes of all its frames.
    #[must_use]
    #[inline]
    pub fn wire_bytes(&self) -> usize {
        let repeated = self
            .segmentation
            .as_ref()
            .map_or(0, |segmentation| segmentation.header_length);
        self.length + (self.segments() - 1) * repeated
    }

    /// Bytes of frame number `index`, which must be below [`segments`](Self::segments).
    #[must_use]
    #[inline]
    pub fn segment_length(&self, index: usize) -> usize {
        self.segmentation
            .as_ref()
            .map_or(self.length, |segmentation| {
                segmentation.header_length + segmentation.payload(self.length, index)
            })
    }

    /// Frame number `index`, from 0; `index` must be below [`segments`](Self::segments). Header
    /// fields that differ from the snapshot go to `changes`.
    #[must_use]
    #[inline(always)]
    pub fn segment<'h>(&'h self, index: usize, changes: &'h mut Changes) -> Segment<'h> {
        match &self.segmentation {
            Some(segmentation) => self.materialise(segmentation, index, changes),
            None => self.whole(changes),
        }
    }

    #[inline(always)]
    fn whole<'h>(&'h self, changes: &'h mut Changes) -> Segment<'h> {
        // The body starts behind the headers, so that the payload is copied straight to its buffer,
        // but never inside the checksum field. A frame that is completely in the snapshot has no
        // body.
        let mut header_bytes_length = self.headers.payload_offset();
        if let ChecksumState::Partial { field, .. } = self.checksum {
            header_bytes_length = header_bytes_length.max(field + 2);
        }
        if self.length <= self.header_bytes.len() {
            header_bytes_length = self.length;
        }
        let sent = &self.header_bytes[..header_bytes_length];
        let l4_end = self.headers.l4.map_or(self.length, |l4| l4.payload_end);
        let partial = match self.checksum {
            ChecksumState::Final => None,
            ChecksumState::Partial { start, field } => {
                let mut sum = Checksum::new();
                sum.add(&sent[start.min(header_bytes_length)..]);
                let valid = l4_end == self.length && self.has_pseudo_header_sum(start, field);
                Some(PartialChecksum { field, sum, valid })
            }
        };
        Segment {
            header_bytes: HeaderBytes::new(sent, changes),
            body: self.start + header_bytes_length,
            length: self.length,
            partial,
            l4_end,
        }
    }

    /// Whether the partial checksum at `field`, from `start` on, is the L4 header's and the field
    /// holds the pseudo-header sum.
    #[inline]
    fn has_pseudo_header_sum(&self, start: usize, field: usize) -> bool {
        let Some(l4) = self.headers.l4 else {
            return false;
        };
        let length = l4.payload_end - l4.offset;
        start == l4.offset
            && field == start + l4.protocol.checksum_offset()
            && self
                .headers
                .pseudo_header(self.header_bytes, length)
                .is_some_and(|sum| sum.fold().to_be_bytes() == self.header_bytes[field..field + 2])
    }

    #[inline(never)]
    fn materialise<'h>(
        &'h self,
        segmentation: &Segmentation,
        index: usize,
        changes: &'h mut Changes,
    ) -> Segment<'h> {
        let done = index * segmentation.size;
        let length = segmentation.header_length + segmentation.payload(self.length, index);
        let mut header_bytes =
            HeaderBytes::new(&self.header_bytes[..segmentation.header_length], changes);
        match segmentation.version {
            // Each segment has its own identification (RFC 6864).
            IpVersion::V4 => {
                let ip = segmentation.l3_offset;
                let mut sum = segmentation.ip_sum;
                for (offset, value) in [
                    (2, (length - ip) as u16),
                    (
                        4,
                        word(header_bytes.sent(), ip + 4).wrapping_add(index as u16),
                    ),
                ] {
                    sum.add_u16(value);
                    header_bytes.change(ip + offset, value);
                }
                header_bytes.change(ip + 10, sum.finish());
            }
            IpVersion::V6 => {
                let payload = length - segmentation.l3_offset - IPV6_HEADER;
                header_bytes.change(segmentation.l3_offset + 4, payload as u16);
            }
        }
        let l4_length = (length - segmentation.l4_offset) as u16;
        let mut sum = segmentation.l4_sum;
        sum.add_u16(l4_length);
        match segmentation.protocol {
            L4Protocol::Tcp => {
                let last = index + 1 == self.segments();
                for (offset, value) in
                    tcp_words(header_bytes.sent(), segmentation.l4_offset, done, last)
                {
                    sum.add_u16(value);
                    header_bytes.change(segmentation.l4_offset + offset, value);
                }
            }
            L4Protocol::Udp => {
                sum.add_u16(l4_length);
                header_bytes.change(segmentation.l4_offset + 4, l4_length);
            }
        }
        Segment {
            header_bytes,
            body: self.start + segmentation.header_length + done,
            length,
            partial: Some(PartialChecksum {
                field: segmentation.l4_offset + segmentation.protocol.checksum_offset(),
                sum,
                valid: true,
            }),
            l4_end: length,
        }
    }
}

/// A copy of frame number `index` of a train, with its final checksum.
pub(crate) fn finish<M: Mover>(mover: &M, train: &Train<'_, M::Source>, index: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    finish_into(mover, train, index, &mut frame);
    frame
}

/// Copies frame number `index` of a train into `frame`, with its final checksum.
pub fn finish_into<M: Mover>(
    mover: &M,
    train: &Train<'_, M::Source>,
    index: usize,
    frame: &mut Vec<u8>,
) {
    let mut changes = Changes::default();
    let mut segment = train.segment(index, &mut changes);
    frame.clear();
    frame.resize(segment.length, 0);
    let body = &mut frame[segment.header_bytes.sent().len()..];
    mover.snapshot(train.source(), segment.body, body);
    if let Some(partial) = segment.partial {
        let mut sum = Checksum::new();
        sum.add(body);
        partial.insert(&mut segment.header_bytes, sum);
    }
    segment.header_bytes.write(frame);
}

/// Copies a train into `frame` as its sender handed it over: not segmented, and with a partial
/// checksum if it has one ([`virtio_net_header`](crate::transmit::virtio_net_header) describes
/// them).
pub fn unsegmented_into<M: Mover>(mover: &M, train: &Train<'_, M::Source>, frame: &mut Vec<u8>) {
    let known = train.header_bytes.len();
    frame.clear();
    frame.extend_from_slice(train.header_bytes);
    frame.resize(train.length, 0);
    mover.snapshot(train.source, train.start + known, &mut frame[known..]);
}

/// A frame with final checksums, as a train of one segment.
#[must_use]
pub fn finished(frame: &[u8]) -> Train<'_, [u8]> {
    let header_bytes = &frame[..frame.len().min(SNAPSHOT)];
    Train {
        header_bytes,
        headers: Headers::parse(header_bytes, frame.len()),
        source: frame,
        start: 0,
        length: frame.len(),
        checksum: ChecksumState::Final,
        segmentation: None,
        aggregate: None,
    }
}

/// Stores the low 16 bits of `value`, which the caller has bounded, in network order.
pub(crate) fn put16(header_bytes: &mut [u8], offset: usize, value: usize) {
    header_bytes[offset..offset + 2].copy_from_slice(&(value as u16).to_be_bytes());
}

/// The word at `offset`, in network order.
#[inline]
fn word(header_bytes: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes([header_bytes[offset], header_bytes[offset + 1]])
}

/// The words of a TCP header that differ between segments, with their offsets; `done` bytes of
/// payload are in segments before.
#[inline]
fn tcp_words(header_bytes: &[u8], tcp: usize, done: usize, last: bool) -> [(usize, u16); 3] {
    const FIN_PSH: u16 = 0x09;
    const CWR: u16 = 0x80;
    let [high, low, mut flags] = [4, 6, 12].map(|offset| word(header_bytes, tcp + offset));
    let sequence = (u32::from(high) << 16 | u32::from(low)).wrapping_add(done as u32);
    if !last {
        flags &= !FIN_PSH;
    }
    if done > 0 {
        flags &= !CWR;
    }
    [
        (4, (sequence >> 16) as u16),
        (6, sequence as u16),
        (12, flags),
    ]
}
