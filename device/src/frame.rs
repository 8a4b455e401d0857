//! Finds the headers of an Ethernet frame, for steering, header/data split, checksums and
//! segmentation.
//!
//! Parsing stops without an error at the first byte that makes no sense: a NIC delivers frames that
//! it does not understand. Tunnels are not entered.

use std::ops::Range;

use crate::checksum::Checksum;

/// The most bytes from the start of a frame that the device reads for its decisions. Headers beyond
/// are not parsed.
pub const SNAPSHOT: usize = 256;

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_HEADER: usize = 14;

/// EtherType of IPv4.
pub const ETHER_TYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHER_TYPE_IPV6: u16 = 0x86dd;
/// EtherType of an IEEE 802.1Q tag.
pub const ETHER_TYPE_VLAN: u16 = 0x8100;
/// EtherType of an IEEE 802.1ad service tag.
pub const ETHER_TYPE_SERVICE_VLAN: u16 = 0x88a8;

/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;

/// IP protocol number of IPv4 in IP.
pub const PROTOCOL_IPV4: u8 = 4;
/// IP protocol number of IPv6 in IP.
pub const PROTOCOL_IPV6: u8 = 41;

/// Bytes of a VLAN tag.
pub(crate) const VLAN_TAG: usize = 4;
/// Where the outer VLAN tag is.
pub(crate) const VLAN_OFFSET: usize = 12;
const MAX_VLAN_TAGS: usize = 2;

const IPV4_HEADER: usize = 20;
/// More fragments, or a fragment offset that is not zero (RFC 791).
const IPV4_FRAGMENT: u16 = 0x3fff;

const IPV6_HEADER: usize = 40;
const IPV6_EXTENSION: usize = 8;
/// Bounds the work for one frame; the snapshot has no room for more extension headers with content.
const MAX_IPV6_EXTENSIONS: usize = 8;
const PROTOCOL_HOP_BY_HOP: u8 = 0;
const PROTOCOL_ROUTING: u8 = 43;
const PROTOCOL_FRAGMENT: u8 = 44;
const PROTOCOL_AUTHENTICATION: u8 = 51;
const PROTOCOL_DESTINATION: u8 = 60;
/// More fragments, or a fragment offset that is not zero (RFC 8200, section 4.5).
const IPV6_FRAGMENT: u16 = 0xfff9;

const TCP_HEADER: usize = 20;
const MAX_TCP_HEADER: usize = 60;
const UDP_HEADER: usize = 8;

/// Offsets of one frame's headers, and the header fields that decisions need.
///
/// Offsets count from the first byte of the frame. Header offsets lie within the parsed header
/// bytes, ends of payloads within the frame. Accessors with a `header_bytes` parameter expect the
/// parsed bytes; for other bytes they return something else or `None`.
///
/// ```
/// use zcnic_device::frame::{Headers, L4Protocol};
///
/// // UDP over IPv4, 192.0.2.2:1000 to 192.0.2.1:2000.
/// let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00];
/// frame.extend([0x45, 0, 0, 30, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 2, 192, 0, 2, 1]);
/// frame.extend([0x03, 0xe8, 0x07, 0xd0, 0, 10, 0, 0, b'h', b'i']);
///
/// let headers = Headers::parse(&frame, frame.len());
/// let l4 = headers.l4.expect("a UDP header");
/// assert_eq!((l4.protocol, l4.destination_port), (L4Protocol::Udp, 2000));
/// assert_eq!(&frame[headers.payload_offset()..], b"hi");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Headers {
    /// End of the Ethernet header and its tags; 0 if the frame has no room for them.
    pub l2_end: usize,
    /// EtherType behind the tags; a length below 0x600 (IEEE 802.3).
    pub ether_type: u16,
    /// TCI of the outer VLAN tag.
    pub vlan: Option<u16>,
    /// The IP header.
    pub l3: Option<L3>,
    /// The TCP or UDP header; `None` for fragments and inconsistent headers.
    pub l4: Option<L4>,
}

/// The IP header, IPv4 options and IPv6 extension headers included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct L3 {
    /// IPv4 or IPv6.
    pub version: IpVersion,
    /// Where it starts.
    pub offset: usize,
    /// Where it ends, behind the last extension header parsed.
    pub payload_offset: usize,
    /// Where its payload ends by its own length field; padding follows. If the length field exceeds
    /// the frame, this is the frame's end, and there is no L4.
    pub payload_end: usize,
    /// Protocol of the payload.
    pub protocol: u8,
    /// IPv4 TOS, IPv6 traffic class.
    pub tos: u8,
    /// IPv6 flow label in the lower 20 bits; 0 with IPv4.
    pub flow_label: u32,
    /// Whether this is a fragment, the first one included, but not an atomic one (RFC 6946).
    pub fragment: bool,
}

/// Version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A whole TCP or UDP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct L4 {
    /// TCP or UDP.
    pub protocol: L4Protocol,
    /// Where it starts.
    pub offset: usize,
    /// Where it ends, TCP options included.
    pub payload_offset: usize,
    /// Where its payload ends. Checksums cover `offset..payload_end`.
    pub payload_end: usize,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
}

/// Protocols whose headers are parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L4Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl L4Protocol {
    /// The IP protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => PROTOCOL_TCP,
            Self::Udp => PROTOCOL_UDP,
        }
    }

    /// Where the checksum is, from the start of the L4 header.
    #[must_use]
    pub const fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
}

impl Headers {
    /// Parses `header_bytes`, the first bytes of a frame of `frame_len` bytes. Bytes beyond
    /// [`SNAPSHOT`] or the frame's end are ignored.
    #[must_use]
    #[inline(never)]
    pub fn parse(header_bytes: &[u8], frame_len: usize) -> Self {
        let mut headers = Self::default();
        headers.find(header_bytes, frame_len);
        headers
    }

    /// Like [`parse`](Self::parse), in place.
    #[inline(always)]
    pub(crate) fn find(&mut self, header_bytes: &[u8], frame_len: usize) {
        let header_bytes = &header_bytes[..header_bytes.len().min(frame_len).min(SNAPSHOT)];
        let headers = self;
        *headers = Self::default();
        let Some(ether_type) = be16(header_bytes, ETHERNET_HEADER - 2) else {
            return;
        };
        headers.ether_type = ether_type;
        headers.l2_end = ETHERNET_HEADER;
        for _ in 0..MAX_VLAN_TAGS {
            if !matches!(
                headers.ether_type,
                ETHER_TYPE_VLAN | ETHER_TYPE_SERVICE_VLAN
            ) {
                break;
            }
            let Some(&[tci_high, tci_low, type_high, type_low]) =
                array(header_bytes, headers.l2_end)
            else {
                break;
            };
            headers
                .vlan
                .get_or_insert(u16::from_be_bytes([tci_high, tci_low]));
            headers.ether_type = u16::from_be_bytes([type_high, type_low]);
            headers.l2_end += VLAN_TAG;
        }
        // Each version sets the fields by itself: a value returned from both arms would be moved
        // right after it was stored in parts (a store-to-load forwarding stall).
        match headers.ether_type {
            ETHER_TYPE_IPV4 => {
                headers.take(
                    header_bytes,
                    L3::parse_v4(header_bytes, headers.l2_end, frame_len),
                );
            }
            ETHER_TYPE_IPV6 => headers.find_v6(header_bytes, frame_len),
            _ => {}
        }
    }

    #[inline(never)]
    fn find_v6(&mut self, header_bytes: &[u8], frame_len: usize) {
        self.take(
            header_bytes,
            L3::parse_v6(header_bytes, self.l2_end, frame_len),
        );
    }

    /// Keeps an IP header, and parses the L4 header if one may follow.
    #[inline(always)]
    fn take(&mut self, header_bytes: &[u8], parsed: Option<(L3, bool)>) {
        if let Some((l3, has_l4)) = parsed {
            self.l3 = Some(l3);
            if has_l4 {
                self.l4 = L4::parse(header_bytes, &l3);
            }
        }
    }

    /// The headers of the IP packet inside this one, with this frame's Ethernet header, if
    /// `header_bytes`, the parsed bytes, contain them (IP in IP, RFC 2003 and RFC 2473). Only one
    /// tunnel is entered.
    pub(crate) fn inner(&self, header_bytes: &[u8]) -> Option<Self> {
        let outer = self.l3.filter(|l3| !l3.fragment && self.l4.is_none())?;
        let header_bytes = &header_bytes[..header_bytes.len().min(outer.payload_end).min(SNAPSHOT)];
        let (l3, has_l4) = match outer.protocol {
            PROTOCOL_IPV4 => L3::parse_v4(header_bytes, outer.payload_offset, outer.payload_end),
            PROTOCOL_IPV6 => L3::parse_v6(header_bytes, outer.payload_offset, outer.payload_end),
            _ => None,
        }?;
        let l4 = if has_l4 {
            L4::parse(header_bytes, &l3)
        } else {
            None
        };
        let l3 = Some(l3);
        Some(Self { l3, l4, ..*self })
    }

    /// The end of the deepest header that was parsed completely.
    #[must_use]
    #[inline]
    pub fn payload_offset(&self) -> usize {
        let (l2, l3, l4) = self.boundaries();
        l4.or(l3).unwrap_or(l2)
    }

    /// Where to split the frame if its headers may take at most `room` bytes: the last header
    /// boundary that fits, or `room` if not even the Ethernet header does.
    #[must_use]
    #[inline]
    pub fn split_point(&self, room: usize) -> usize {
        let (l2, l3, l4) = self.boundaries();
        [l4, l3]
            .into_iter()
            .flatten()
            .find(|end| *end <= room)
            .unwrap_or(l2.min(room))
    }

    /// The end of the TCP or UDP header; `None` if there is none that ends within `room` bytes.
    #[must_use]
    #[inline]
    pub fn l4_split_point(&self, room: usize) -> Option<usize> {
        self.l4
            .map(|l4| l4.payload_offset)
            .filter(|end| *end <= room)
    }

    /// Whether a frame of `length` bytes has no [`l4_split_point`](Self::l4_split_point) because
    /// its headers are longer than `room`, or than the bytes that are parsed.
    #[must_use]
    pub(crate) fn are_longer_than(&self, room: usize, length: usize) -> bool {
        if let Some(l4) = self.l4 {
            return l4.payload_offset > room;
        }
        // Where the last parsed header ends, one that the snapshot cuts off follows.
        let cut = |l3: L3| match l3.protocol {
            PROTOCOL_TCP => l3.payload_offset + MAX_TCP_HEADER > SNAPSHOT,
            PROTOCOL_UDP => l3.payload_offset + UDP_HEADER > SNAPSHOT,
            PROTOCOL_HOP_BY_HOP
            | PROTOCOL_ROUTING
            | PROTOCOL_DESTINATION
            | PROTOCOL_AUTHENTICATION
            | PROTOCOL_FRAGMENT => l3.version == IpVersion::V6,
            _ => false,
        };
        length > SNAPSHOT && self.l3.is_some_and(|l3| !l3.fragment && cut(l3))
    }

    /// Destination Ethernet address.
    #[must_use]
    #[inline]
    pub fn ether_destination(&self, header_bytes: &[u8]) -> Option<[u8; 6]> {
        array(header_bytes, 0).copied()
    }

    /// Source Ethernet address.
    #[must_use]
    pub fn ether_source(&self, header_bytes: &[u8]) -> Option<[u8; 6]> {
        array(header_bytes, 6).copied()
    }

    /// Source and destination IP address in network order: 4 or 16 bytes each.
    #[must_use]
    #[inline]
    pub fn addresses<'a>(&self, header_bytes: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let both = self.both_addresses(header_bytes)?;
        Some(both.split_at(both.len() / 2))
    }

    #[inline]
    fn both_addresses<'a>(&self, header_bytes: &'a [u8]) -> Option<&'a [u8]> {
        header_bytes.get(self.l3?.addresses())
    }

    /// Source and destination IPv4 address in one array.
    #[inline]
    pub(crate) fn addresses_v4<'a>(&self, header_bytes: &'a [u8]) -> Option<&'a [u8; 8]> {
        let l3 = self.l3.filter(|l3| l3.version == IpVersion::V4)?;
        array(header_bytes, l3.addresses().start)
    }

    /// The sum of the pseudo header for an L4 header and payload of `length` bytes: those of the
    /// frame itself, or of one of its segments.
    #[must_use]
    #[inline]
    pub fn pseudo_header(&self, header_bytes: &[u8], length: usize) -> Option<Checksum> {
        let mut sum = self.lengths_and_protocol(length)?;
        match self.addresses_v4(header_bytes) {
            // The compiler knows the length.
            Some(addresses) => sum.add(addresses),
            None => sum.add(self.both_addresses(header_bytes)?),
        }
        Some(sum)
    }

    /// The same, plus the bytes of L4 header and payload in `header_bytes` before `end`.
    #[must_use]
    #[inline]
    pub(crate) fn pseudo_header_and(
        &self,
        header_bytes: &[u8],
        length: usize,
        end: usize,
    ) -> Option<Checksum> {
        let (addresses, l4) = (self.l3?.addresses(), self.l4?);
        let mut sum = self.lengths_and_protocol(length)?;
        if addresses.end == l4.offset {
            // Addresses and L4 header are adjacent unless there are options or extension headers.
            sum.add(header_bytes.get(addresses.start..end)?);
        } else {
            sum.add(header_bytes.get(addresses)?);
            sum.add(header_bytes.get(l4.offset..end)?);
        }
        Some(sum)
    }

    /// The sum of length and protocol in a pseudo header. RFC 793 and RFC 768 count the length in
    /// 16 bits, RFC 8200 (section 8.1) in 32.
    #[inline]
    fn lengths_and_protocol(&self, length: usize) -> Option<Checksum> {
        let (l3, l4) = (self.l3?, self.l4?);
        let length = match l3.version {
            IpVersion::V4 => u32::from(u16::try_from(length).ok()?),
            IpVersion::V6 => u32::try_from(length).ok()?,
        };
        let [high, low] = [(length >> 16) as u16, length as u16];
        let words = [u16::from(l4.protocol.number()), high, low];
        let words = words.map(|word| u64::from(word.to_be()));
        let mut sum = Checksum::new();
        sum.add_native(words.iter().sum(), size_of::<[u16; 3]>());
        Some(sum)
    }

    /// Ends of the L2, L3 and L4 headers.
    #[inline]
    fn boundaries(&self) -> (usize, Option<usize>, Option<usize>) {
        (
            self.l2_end,
            self.l3.map(|l3| l3.payload_offset),
            self.l4.map(|l4| l4.payload_offset),
        )
    }
}

impl L3 {
    /// Where the addresses are, from the start of the frame.
    #[inline]
    fn addresses(&self) -> Range<usize> {
        match self.version {
            IpVersion::V4 => self.offset + 12..self.offset + 20,
            IpVersion::V6 => self.offset + 8..self.offset + 40,
        }
    }

    /// Parses an IPv4 header; also returns whether an L4 header may follow.
    #[inline(always)]
    fn parse_v4(header_bytes: &[u8], offset: usize, frame_len: usize) -> Option<(Self, bool)> {
        let header: &[u8; IPV4_HEADER] = array(header_bytes, offset)?;
        let header_length = usize::from(header[0] & 0x0f) * 4;
        let total_length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] >> 4 != 4 || header_length < IPV4_HEADER || total_length < header_length {
            return None;
        }
        let payload_offset = offset + header_length;
        if payload_offset > header_bytes.len() {
            return None;
        }
        let fragment = u16::from_be_bytes([header[6], header[7]]) & IPV4_FRAGMENT != 0;
        let whole = offset + total_length <= frame_len;
        let l3 = Self {
            version: IpVersion::V4,
            offset,
            payload_offset,
            payload_end: frame_len.min(offset + total_length),
            protocol: header[9],
            tos: header[1],
            flow_label: 0,
            fragment,
        };
        Some((l3, whole && !fragment))
    }

    /// Parses an IPv6 header and its extension headers; also returns whether an L4 header may
    /// follow.
    fn parse_v6(header_bytes: &[u8], offset: usize, frame_len: usize) -> Option<(Self, bool)> {
        let header: &[u8; IPV6_HEADER] = array(header_bytes, offset)?;
        let first = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        if first >> 28 != 6 {
            return None;
        }
        let payload_offset = offset + IPV6_HEADER;
        let end = payload_offset + usize::from(u16::from_be_bytes([header[4], header[5]]));
        let mut l3 = Self {
            version: IpVersion::V6,
            offset,
            payload_offset,
            payload_end: frame_len.min(end),
            protocol: header[6],
            tos: (first >> 20) as u8,
            flow_label: first & 0x000f_ffff,
            fragment: false,
        };
        let whole = end <= frame_len && l3.parse_extensions(header_bytes);
        Some((l3, whole && !l3.fragment))
    }

    /// Steps over the extension headers; returns whether an L4 header may follow.
    fn parse_extensions(&mut self, header_bytes: &[u8]) -> bool {
        for _ in 0..MAX_IPV6_EXTENSIONS {
            let unit = match self.protocol {
                PROTOCOL_HOP_BY_HOP | PROTOCOL_ROUTING | PROTOCOL_DESTINATION => 8,
                PROTOCOL_AUTHENTICATION => 4,
                PROTOCOL_FRAGMENT => 0,
                _ => return true,
            };
            let Some(extension) = array::<IPV6_EXTENSION>(header_bytes, self.payload_offset) else {
                return false;
            };
            // RFC 8200, section 4, counts 8-byte units beyond the first; RFC 4302, section 2.2,
            // counts 4-byte units minus 2.
            let length = IPV6_EXTENSION + usize::from(extension[1]) * unit;
            let end = self.payload_offset + length;
            if end > header_bytes.len() || end > self.payload_end {
                return false;
            }
            let protocol = self.protocol;
            self.protocol = extension[0];
            self.payload_offset = end;
            match protocol {
                PROTOCOL_FRAGMENT => {
                    let field = u16::from_be_bytes([extension[2], extension[3]]);
                    self.fragment |= field & IPV6_FRAGMENT != 0;
                }
                // With segments left, the L4 checksum covers another destination address than the
                // header's.
                PROTOCOL_ROUTING if extension[3] != 0 => return false,
                _ => {}
            }
            if self.fragment {
                return false;
            }
        }
        false
    }
}

impl L4 {
    #[inline(always)]
    fn parse(header_bytes: &[u8], l3: &L3) -> Option<Self> {
        let offset = l3.payload_offset;
        let available = header_bytes.get(offset..header_bytes.len().min(l3.payload_end))?;
        let (protocol, payload_offset, payload_end) = match l3.protocol {
            PROTOCOL_TCP => {
                let header: &[u8; TCP_HEADER] = array(available, 0)?;
                let length = usize::from(header[12] >> 4) * 4;
                if length < TCP_HEADER {
                    return None;
                }
                (L4Protocol::Tcp, offset + length, l3.payload_end)
            }
            PROTOCOL_UDP => {
                let header: &[u8; UDP_HEADER] = array(available, 0)?;
                let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
                if length < UDP_HEADER || offset + length > l3.payload_end {
                    return None;
                }
                (L4Protocol::Udp, offset + UDP_HEADER, offset + length)
            }
            _ => return None,
        };
        if payload_offset > offset + available.len() {
            return None;
        }
        Some(Self {
            protocol,
            offset,
            payload_offset,
            payload_end,
            source_port: be16(available, 0)?,
            destination_port: be16(available, 2)?,
        })
    }
}

#[inline]
fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<&[u8; N]> {
    bytes.get(offset..)?.first_chunk()
}

#[inline]
fn be16(bytes: &[u8], offset: usize) -> Option<u16> {
    array(bytes, offset).map(|bytes| u16::from_be_bytes(*bytes))
}

#[cfg(test)]
pub(crate) mod generate;
#[cfg(test)]
mod tests;
