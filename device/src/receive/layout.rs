//! The layout of a queue's chains: their shapes, where a frame is split over them, and their
//! headers.

use super::{Annotation, ChecksumVerdict, RX_HEADER};
use crate::{
    abi::{self, GsoType, HashType, RxHeader},
    features::Feature,
    frame::{Headers, IpVersion},
    memory::Mover,
    train::Aggregate,
};

/// Bytes of `struct virtio_net_hdr_mrg_rxbuf`.
pub(super) const VIRTIO_NET_HEADER: usize = 12;

/// The layout of frames in the chains of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Plain virtio-net with mergeable buffers: a header in the first chain only.
    VirtioNet,
    /// One descriptor of this many bytes per chain, receive header included.
    Linear {
        /// Length of the descriptor.
        size: u32,
    },
    /// A header fragment and a payload buffer per chain.
    Split {
        /// Length of descriptor 0, receive header included.
        header_size: u32,
        /// Length of descriptor 1.
        page_size: u32,
        /// Frames of at most this many bytes stay whole in descriptor 0.
        threshold: u32,
        /// Only TCP and UDP are split. Other frames stay whole in the descriptors 0 of as many
        /// chains as they take.
        l4_only: bool,
    },
}

impl Layout {
    /// Bytes of the header at the start of a frame's first chain.
    pub(super) fn header_length(self) -> usize {
        match self {
            Self::VirtioNet => VIRTIO_NET_HEADER,
            Self::Linear { .. } | Self::Split { .. } => RX_HEADER,
        }
    }
}

/// `struct virtio_net_hdr_mrg_rxbuf` of a frame in `buffers` chains.
#[inline]
pub(super) fn virtio_net_header(
    verdict: ChecksumVerdict,
    note: &Annotation,
    buffers: u16,
) -> [u8; VIRTIO_NET_HEADER] {
    /// `VIRTIO_NET_HDR_F_DATA_VALID` (virtio 1.3, 5.1.6.4).
    const DATA_VALID: u8 = 2;
    let is_valid = verdict == ChecksumVerdict::Good && note.offloads.has(Feature::RxCsum);
    let flags = if is_valid { DATA_VALID } else { 0 };
    // In two words, as it is read.
    let mut header = [0; VIRTIO_NET_HEADER];
    let (first, last) = header.split_at_mut(8);
    first.copy_from_slice(&u64::from(flags).to_le_bytes());
    last.copy_from_slice(&(u32::from(buffers) << 16).to_le_bytes());
    header
}

/// The common fields of the receive headers of a frame's chains.
#[inline]
pub(super) fn receive_header(note: &Annotation, aggregate: Option<&Aggregate>) -> RxHeader {
    let hash = note.hash.filter(|_| note.offloads.has(Feature::RxHash));
    let header = RxHeader {
        hash: hash.map_or(0, |hash| hash.value).into(),
        hash_type: hash.map_or(HashType::None, |hash| hash.kind).into(),
        queue: note.queue.into(),
        vlan_tci: note.vlan.unwrap_or(0).into(),
        timestamp_ns: note.time.into(),
        ..RxHeader::default()
    };
    match aggregate {
        None => header,
        Some(aggregate) => RxHeader {
            gso_type: match aggregate.version {
                IpVersion::V4 => GsoType::Tcp4,
                IpVersion::V6 => GsoType::Tcp6,
            }
            .into(),
            seg_size: aggregate.size.into(),
            seg_count: aggregate.count.into(),
            l3_offset: aggregate.l3_offset.into(),
            l4_offset: aggregate.l4_offset.into(),
            ..header
        },
    }
}

/// A receive header as words for storing.
#[inline]
pub(super) fn words(header: RxHeader) -> [u64; RX_HEADER / 8] {
    zerocopy::transmute!(header)
}

/// The common flags of a frame's chains.
#[inline]
pub(super) fn receive_flags(
    split: bool,
    verdict: ChecksumVerdict,
    note: &Annotation,
    aggregate: Option<&Aggregate>,
) -> u16 {
    let split = if split { abi::RX_SPLIT } else { 0 };
    let aggregate = aggregate.map_or(0, |aggregate| abi::RX_AGGREGATED | aggregate.flags);
    let verdict = match verdict {
        _ if !note.offloads.has(Feature::RxCsum) => 0,
        ChecksumVerdict::Good => abi::RX_CSUM_GOOD,
        ChecksumVerdict::Bad => abi::RX_CSUM_BAD,
        ChecksumVerdict::Unknown => 0,
    };
    let timestamp = if note.time != 0 { abi::RX_TIMESTAMP } else { 0 };
    let vlan = if note.vlan.is_some() { abi::RX_VLAN } else { 0 };
    split | verdict | aggregate | timestamp | vlan
}

/// If the chain with these descriptors has the right shape and room for the whole frame, the number
/// of bytes for descriptor 0.
#[inline]
pub(super) fn single<M: Mover>(
    layout: Layout,
    mover: &M,
    targets: &[M::Target],
    split_at: Option<usize>,
    length: usize,
) -> Option<usize> {
    match (layout, targets) {
        (Layout::VirtioNet, [only]) => {
            (VIRTIO_NET_HEADER + length <= mover.target_len(only)).then_some(length)
        }
        (Layout::Linear { size }, [only]) => {
            let (size, room) = (size as usize, mover.target_len(only));
            (room == size && RX_HEADER + length <= size).then_some(length)
        }
        (
            Layout::Split {
                header_size,
                page_size,
                ..
            },
            [header, page],
        ) => {
            let (header_size, page_size) = (header_size as usize, page_size as usize);
            let at = split_at?;
            let is_shape =
                mover.target_len(header) == header_size && mover.target_len(page) == page_size;
            (is_shape && RX_HEADER + at <= header_size && length - at <= page_size).then_some(at)
        }
        _ => None,
    }
}

/// Where a frame is split on a queue of this layout; `None`: it is not split.
#[inline]
pub(super) fn split_point(layout: Layout, headers: &Headers, length: usize) -> Option<usize> {
    match layout {
        Layout::Split {
            header_size,
            threshold,
            l4_only,
            ..
        } => {
            if length <= threshold as usize {
                return Some(length);
            }
            let room = header_size as usize - RX_HEADER;
            Some(if l4_only {
                headers.l4_split_point(room).unwrap_or(length)
            } else {
                headers.split_point(room)
            })
        }
        _ => None,
    }
}

/// The reason why a frame stays whole on a queue that splits TCP and UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    /// It is neither TCP nor UDP.
    Other,
    /// Its headers are longer than descriptor 0, or than what is parsed.
    LongHeaders,
}

/// Why a frame stays whole; `None` if it is split, not longer than the threshold, or on another
/// queue than one that splits TCP and UDP.
#[inline]
pub(super) fn whole(layout: Layout, headers: &Headers, length: usize) -> Option<Whole> {
    let Layout::Split {
        header_size,
        threshold,
        l4_only: true,
        ..
    } = layout
    else {
        return None;
    };
    let room = header_size as usize - RX_HEADER;
    if length <= threshold as usize || headers.l4_split_point(room).is_some() {
        None
    } else if headers.are_longer_than(room, length) {
        Some(Whole::LongHeaders)
    } else {
        Some(Whole::Other)
    }
}

/// Whether a chain has the shape that the queue was started with.
#[inline]
pub(super) fn fits<M: Mover>(layout: Layout, mover: &M, targets: &[M::Target]) -> bool {
    let is = |index: usize, size: u32| {
        targets
            .get(index)
            .is_some_and(|target| mover.target_len(target) == size as usize)
    };
    match layout {
        Layout::VirtioNet => {
            targets
                .iter()
                .map(|target| mover.target_len(target))
                .sum::<usize>()
                > VIRTIO_NET_HEADER
        }
        Layout::Linear { size } => targets.len() == 1 && is(0, size),
        Layout::Split {
            header_size,
            page_size,
            ..
        } => targets.len() == 2 && is(0, header_size) && is(1, page_size),
    }
}
