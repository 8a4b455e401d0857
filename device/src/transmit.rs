//! From a transmit chain to a [`Train`]: the only place where transmit headers are validated.

use std::mem::offset_of;

use thiserror::Error;
use zerocopy::IntoBytes;

use crate::{
    abi::{self, GsoType},
    features::{Feature, FeatureSet},
    frame::{Headers, IpVersion, L4Protocol, SNAPSHOT},
    limits::MAX_FRAME,
    memory::Mover,
    train::{ChecksumState, Segmentation, Train},
};

/// The most segments of one chain: 64 KiB in the smallest segments that Linux makes
/// (`TCP_MIN_GSO_SIZE`). More would let one descriptor occupy the device for long.
pub const MAX_SEGMENTS: usize = 8192;

/// The smallest frame: Ethernet addresses and type.
const MIN_FRAME: usize = 14;

/// The header in front of each frame on a transmit ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransmitFormat {
    /// `struct virtio_net_hdr_mrg_rxbuf` of the plain virtio-net device, 12 bytes.
    VirtioNet,
    /// `struct zcnic_tx_header`.
    Zcnic,
}

/// Bytes of the first snapshot: enough for Ethernet, IPv6 and the longest TCP header, or for all of
/// a small frame. The rest, up to [`SNAPSHOT`], is read only if no L4 header or not the whole
/// checksum field was found in these.
const FIRST_LOOK: usize = 128;

/// The snapshot of a frame's first bytes, filled by [`parse`]; its previous content does not
/// matter.
#[derive(Clone, Debug)]
pub struct Snapshot([u8; SNAPSHOT]);

impl Default for Snapshot {
    fn default() -> Self {
        Self([0; SNAPSHOT])
    }
}

/// Counters of one transmit queue. Frames are wire frames: every segment counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransmitCounters {
    /// Frames sent.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Chains that could not be sent.
    pub errors: u64,
}

impl TransmitCounters {
    /// Counts a train sent on the wire, all segments of it.
    pub fn sent<S: ?Sized>(&mut self, train: &Train<'_, S>) {
        self.frames += train.segments() as u64;
        self.bytes += train.wire_bytes() as u64;
    }
}

/// The reason why a transmit chain was refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum TransmitError {
    /// The chain has no room for a transmit header and an Ethernet header.
    #[error("Chain of {0} bytes is too short for a frame")]
    TooShort(usize),
    /// The frame, or a segment of it, is longer than the largest frame.
    #[error("Frame or segment of {0} bytes is too long")]
    TooLong(usize),
    /// The transmit header has a flag, a type or a non-zero reserved field that is unknown or was
    /// not negotiated.
    #[error("Transmit header asks for an offload that was not negotiated")]
    Unsupported,
    /// The checksum field is outside the frame or the snapshot.
    #[error("Checksum field at {0} is outside the frame's first 256 bytes")]
    ChecksumOffset(usize),
    /// The frame's headers contradict the transmit header's segmentation.
    #[error("Segmentation does not match the frame's headers")]
    Segmentation,
}

/// The offloads that a transmit header of either format asks for.
#[derive(Clone, Copy)]
struct OffloadRequest {
    /// Start of the partial checksum, and the offset of its field from there.
    checksum: Option<(u16, u16)>,
    gso: Option<Gso>,
}

#[derive(Clone, Copy)]
struct Gso {
    feature: Feature,
    protocol: L4Protocol,
    size: u16,
    /// Through the L4 header; `None`: as parsed.
    header_length: Option<u16>,
    l3_offset: Option<u16>,
}

/// Whether a chain that starts with `bytes` (at least 32 of them, if it has as many) has a `struct
/// zcnic_tx_header`. Its reserved zeroes lie where a virtio-net frame has its source address and
/// type, so the two are distinguishable.
///
/// A backend that was restarted under a zcnic driver finds chains that the driver sent before it
/// noticed. They must not make the port plain, or frames would be written to buffers posted for
/// zcnic.
#[must_use]
pub fn has_zcnic_header(bytes: &[u8]) -> bool {
    bytes
        .get(offset_of!(abi::TxHeader, reserved1)..size_of::<abi::TxHeader>())
        .is_some_and(|reserved| reserved.iter().all(|byte| *byte == 0))
}

/// Whether a chain with device-writable descriptors of these lengths is a frame that asks for its
/// transmit timestamp; `start` is the first two bytes of the readable part. Other chains with a
/// writable part are commands or invalid.
#[must_use]
pub fn wants_time(start: [u8; 2], writable: impl IntoIterator<Item = usize>) -> bool {
    let flags = u16::from_le_bytes(start);
    // A command's magic number sets other flags, too.
    flags & abi::TX_TIMESTAMP != 0
        && flags & !(abi::TX_TIMESTAMP | abi::TX_CSUM) == 0
        && writable.into_iter().eq([size_of::<abi::TxTime>()])
}

/// Reads the transmit header and the frame's first bytes once, into `snapshot`, and returns the
/// train that they describe; like [`parse_into`].
///
/// # Errors
///
/// [`TransmitError`]; the caller counts it and completes the chain.
pub fn parse<'a, M: Mover>(
    mover: &M,
    source: &'a M::Source,
    format: TransmitFormat,
    features: FeatureSet,
    snapshot: &'a mut Snapshot,
) -> Result<Train<'a, M::Source>, TransmitError> {
    let mut train = Train::unset(source);
    parse_into(mover, format, features, snapshot, &mut train)?;
    Ok(train)
}

/// Reads the transmit header and the frame's first bytes of the source of `train` once, into
/// `snapshot`, and sets `train` to the train that they describe. The train is made in place, part
/// by part: moving a struct right after its parts were stored is a store-to-load forwarding stall.
///
/// # Errors
///
/// [`TransmitError`]; the caller counts it and completes the chain.
#[inline]
pub fn parse_into<'a, M: Mover>(
    mover: &M,
    format: TransmitFormat,
    features: FeatureSet,
    snapshot: &'a mut Snapshot,
    train: &mut Train<'a, M::Source>,
) -> Result<(), TransmitError> {
    let source = train.source;
    let total = mover.source_len(source);
    let start = match format {
        TransmitFormat::VirtioNet => size_of::<VirtioNetHeader>(),
        TransmitFormat::Zcnic => size_of::<abi::TxHeader>(),
    };
    if total < start + MIN_FRAME {
        return Err(TransmitError::TooShort(total));
    }
    let length = total - start;
    // Headers usually are in one piece of memory, apart from the payload.
    let mut header_bytes_length = length.min(FIRST_LOOK).min(mover.piece_len(source, start));
    // The transmit header is read by itself, so that none of its fields straddles two pieces of a
    // longer copy.
    let request = match format {
        TransmitFormat::VirtioNet => {
            let mut header = [0; size_of::<VirtioNetHeader>()];
            mover.snapshot(source, 0, &mut header);
            VirtioNetHeader(header).request()?
        }
        TransmitFormat::Zcnic => {
            let mut header = abi::TxHeader::default();
            mover.snapshot(source, 0, header.as_mut_bytes());
            zcnic_request(&header, features)?
        }
    };
    let header_bytes = &mut snapshot.0;
    mover.snapshot(source, start, &mut header_bytes[..header_bytes_length]);

    let headers = &mut train.headers;
    headers.find(&header_bytes[..header_bytes_length], length);
    let field_end = request.checksum.map_or(0, |(start, offset)| {
        usize::from(start) + usize::from(offset) + 2
    });
    let limit = length.min(SNAPSHOT);
    if header_bytes_length < limit && (headers.l4.is_none() || field_end > header_bytes_length) {
        mover.snapshot(
            source,
            start + header_bytes_length,
            &mut header_bytes[header_bytes_length..limit],
        );
        header_bytes_length = limit;
        *headers = Headers::parse(&header_bytes[..header_bytes_length], length);
    }

    train.checksum = match request.checksum {
        None => ChecksumState::Final,
        Some(_) if !features.has(Feature::TxCsum) => return Err(TransmitError::Unsupported),
        Some((start, _)) => {
            let field = field_end - 2;
            if field_end > header_bytes_length {
                return Err(TransmitError::ChecksumOffset(field));
            }
            let start = start.into();
            ChecksumState::Partial { start, field }
        }
    };
    train.header_bytes = &header_bytes[..header_bytes_length];
    train.start = start;
    train.length = length;
    match request.gso {
        None if length > MAX_FRAME => return Err(TransmitError::TooLong(length)),
        None => train.segmentation = None,
        Some(gso) if !features.has(gso.feature) => return Err(TransmitError::Unsupported),
        Some(gso) => segment(gso, train)?,
    }
    Ok(())
}

#[inline]
fn zcnic_request(
    header: &abi::TxHeader,
    features: FeatureSet,
) -> Result<OffloadRequest, TransmitError> {
    let flags = header.flags.get();
    // As two words: the first two bytes belong to another one.
    let (first, rest) = header.reserved1.split_at(2);
    let reserved = header.reserved0 != 0 || first != [0; 2] || rest != [0; 16];
    let others = flags & !abi::TX_CSUM;
    let stamped = others == abi::TX_TIMESTAMP && features.has(Feature::Timestamp);
    if (others != 0 && !stamped) || reserved {
        return Err(TransmitError::Unsupported);
    }
    Ok(OffloadRequest {
        checksum: (flags & abi::TX_CSUM != 0)
            .then(|| (header.csum_start.get(), header.csum_offset.get())),
        gso: match header.gso_type {
            0 => None,
            _ => Some(zcnic_gso(header)?),
        },
    })
}

#[inline(never)]
fn zcnic_gso(header: &abi::TxHeader) -> Result<Gso, TransmitError> {
    let (feature, protocol) = match GsoType::try_from(header.gso_type) {
        Ok(GsoType::Tcp4) => (Feature::Tso4, L4Protocol::Tcp),
        Ok(GsoType::Tcp6) => (Feature::Tso6, L4Protocol::Tcp),
        Ok(GsoType::Udp) => (Feature::Uso, L4Protocol::Udp),
        Ok(GsoType::None) | Err(_) => return Err(TransmitError::Unsupported),
    };
    Ok(Gso {
        feature,
        protocol,
        size: header.gso_size.get(),
        header_length: Some(header.header_length.get()),
        l3_offset: Some(header.l3_offset.get()),
    })
}

/// `struct virtio_net_hdr_mrg_rxbuf` (virtio 1.3, 5.1.6).
struct VirtioNetHeader([u8; 12]);

impl VirtioNetHeader {
    const NEEDS_CSUM: u8 = 1;
    const GSO_TCPV4: u8 = 1;
    const GSO_TCPV6: u8 = 4;
    const GSO_UDP_L4: u8 = 5;
    /// CWR of segments is handled with or without this flag.
    const GSO_ECN: u8 = 0x80;

    fn word(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.0[offset], self.0[offset + 1]])
    }

    #[inline]
    fn request(&self) -> Result<OffloadRequest, TransmitError> {
        let gso = match self.0[1] & !Self::GSO_ECN {
            0 => None,
            Self::GSO_TCPV4 => Some((Feature::Tso4, L4Protocol::Tcp)),
            Self::GSO_TCPV6 => Some((Feature::Tso6, L4Protocol::Tcp)),
            Self::GSO_UDP_L4 => Some((Feature::Uso, L4Protocol::Udp)),
            _ => return Err(TransmitError::Unsupported),
        };
        Ok(OffloadRequest {
            checksum: (self.0[0] & Self::NEEDS_CSUM != 0).then(|| (self.word(6), self.word(8))),
            // hdr_len is an unreliable hint (virtio 1.3, 5.1.6.2.1): the parsed length counts.
            gso: gso.map(|(feature, protocol)| Gso {
                feature,
                protocol,
                size: self.word(4),
                header_length: None,
                l3_offset: None,
            }),
        })
    }
}

/// The virtio-net header that asks for the offloads of `train`, for a receiver that takes it
/// unsegmented.
#[must_use]
pub fn virtio_net_header<S: ?Sized>(train: &Train<'_, S>) -> [u8; 12] {
    let mut header = [0; 12];
    let mut put =
        |at: usize, value: usize| header[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes());
    if let Some(segmentation) = &train.segmentation {
        put(2, segmentation.header_length);
        put(4, segmentation.size);
    }
    if let ChecksumState::Partial { start, field } = train.checksum {
        put(6, start);
        put(8, field - start);
        header[0] = VirtioNetHeader::NEEDS_CSUM;
    }
    header[1] = match &train.segmentation {
        None => 0,
        Some(segmentation) => match (segmentation.protocol, segmentation.version) {
            (L4Protocol::Tcp, IpVersion::V4) => VirtioNetHeader::GSO_TCPV4,
            (L4Protocol::Tcp, IpVersion::V6) => VirtioNetHeader::GSO_TCPV6,
            (L4Protocol::Udp, _) => VirtioNetHeader::GSO_UDP_L4,
        },
    };
    header
}

/// Sets the segmentation of a train if the frame's own headers agree with all of it, and no segment
/// is too long.
#[inline(never)]
fn segment<S: ?Sized>(gso: Gso, train: &mut Train<'_, S>) -> Result<(), TransmitError> {
    let headers = &train.headers;
    let (Some(l3), Some(l4)) = (headers.l3, headers.l4) else {
        return Err(TransmitError::Segmentation);
    };
    let header_length = headers.payload_offset();
    let partial = ChecksumState::Partial {
        start: l4.offset,
        field: l4.offset + gso.protocol.checksum_offset(),
    };
    let version_agrees = match gso.feature {
        Feature::Tso4 => l3.version == IpVersion::V4,
        Feature::Tso6 => l3.version == IpVersion::V6,
        _ => true,
    };
    let is =
        |given: Option<u16>, parsed: usize| given.is_none_or(|given| usize::from(given) == parsed);
    let agreed = version_agrees
        && l4.protocol == gso.protocol
        && train.checksum == partial
        && gso.size > 0
        && is(gso.header_length, header_length)
        && is(gso.l3_offset, l3.offset)
        && train.length > header_length;
    if !agreed {
        return Err(TransmitError::Segmentation);
    }
    let size = usize::from(gso.size);
    let segmentation =
        Segmentation::new(headers, train.header_bytes, size).ok_or(TransmitError::Segmentation)?;
    if header_length + size > MAX_FRAME {
        return Err(TransmitError::TooLong(header_length + size));
    }
    if train.length > header_length + MAX_SEGMENTS * size {
        return Err(TransmitError::Segmentation);
    }
    train.segmentation = Some(segmentation);
    Ok(())
}

#[cfg(test)]
mod tests;
