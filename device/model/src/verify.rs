//! Independent checks of frames, by etherparse and the published definitions, that share no code
//! with the device.

use etherparse::{NetSlice, SlicedPacket, TransportSlice, checksum::Sum16BitWords};

/// Offsets of the parts of a well-formed frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dissection {
    /// End of the Ethernet header and its tags.
    pub l2_end: usize,
    /// Start and end of the IP header with its extensions.
    pub l3: Option<(usize, usize)>,
    /// The TCP or UDP header.
    pub l4: Option<L4>,
}

/// A TCP or UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L4 {
    /// IP protocol number.
    pub protocol: u8,
    /// Where it starts.
    pub start: usize,
    /// Where its payload starts.
    pub end: usize,
    /// Where its checksum is, from its start.
    pub checksum: usize,
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Dissects a well-formed frame.
#[must_use]
pub fn dissect(frame: &[u8]) -> Dissection {
    let offset = |part: &[u8]| part.as_ptr().addr() - frame.as_ptr().addr();
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else {
        return Dissection {
            l2_end: 14.min(frame.len()),
            ..Default::default()
        };
    };
    let l2_end = packet
        .ether_payload()
        .map_or(frame.len(), |payload| offset(payload.payload));
    let l3 = packet
        .ip_payload()
        .map(|payload| (l2_end, offset(payload.payload)));
    let l4 = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let (start, end) = (offset(tcp.slice()), offset(tcp.payload()));
            Some(L4 {
                protocol: TCP,
                start,
                end,
                checksum: 16,
            })
        }
        Some(TransportSlice::Udp(udp)) => {
            let (start, end) = (offset(udp.slice()), offset(udp.payload()));
            Some(L4 {
                protocol: UDP,
                start,
                end,
                checksum: 6,
            })
        }
        _ => None,
    };
    Dissection { l2_end, l3, l4 }
}

impl Dissection {
    /// The end of the deepest header that ends within `room` bytes.
    #[must_use]
    pub fn split_point(&self, room: usize) -> usize {
        let ends = [self.l4.map(|l4| l4.end), self.l3.map(|(_, end)| end)];
        ends.into_iter()
            .flatten()
            .find(|end| *end <= room)
            .unwrap_or(self.l2_end)
    }
}

/// The L4 payload of a frame.
///
/// # Panics
///
/// It is neither TCP nor UDP.
#[must_use]
pub fn l4_payload(frame: &[u8]) -> &[u8] {
    &frame[dissect(frame).l4.expect("TCP or UDP").end..]
}

/// Whether the TCP or UDP checksum of a frame is valid; `None` if it has none.
#[must_use]
pub fn l4_checksum_is_right(frame: &[u8]) -> Option<bool> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (protocol, bytes) = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => (TCP, tcp.slice()),
        Some(TransportSlice::Udp(udp)) if udp.checksum() != 0 => (UDP, udp.slice()),
        _ => return None,
    };
    let sum = pseudo_header(packet.net.as_ref()?, protocol, bytes.len())?.add_slice(bytes);
    Some(sum.ones_complement() == 0)
}

/// Whether the IPv4 header checksum is valid; `true` for other frames.
#[must_use]
pub fn ip_checksum_is_right(frame: &[u8]) -> bool {
    match SlicedPacket::from_ethernet(frame) {
        Ok(SlicedPacket {
            net: Some(NetSlice::Ipv4(ip)),
            ..
        }) => {
            Sum16BitWords::new()
                .add_slice(ip.header().slice())
                .ones_complement()
                == 0
        }
        _ => true,
    }
}

/// The pseudo-header sum that a driver puts into a partial checksum's field.
#[must_use]
pub fn partial_checksum(frame: &[u8]) -> Option<[u8; 2]> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (protocol, length) = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => (TCP, tcp.slice().len()),
        Some(TransportSlice::Udp(udp)) => (UDP, udp.slice().len()),
        _ => return None,
    };
    let sum = pseudo_header(packet.net.as_ref()?, protocol, length)?;
    // The crate sums in the machine's byte order, so its bytes in memory are those of the frame.
    Some((!sum.ones_complement()).to_ne_bytes())
}

fn pseudo_header(net: &NetSlice<'_>, protocol: u8, length: usize) -> Option<Sum16BitWords> {
    let mut sum = Sum16BitWords::new();
    match net {
        NetSlice::Ipv4(ip) => {
            sum = sum
                .add_4bytes(ip.header().source())
                .add_4bytes(ip.header().destination());
        }
        NetSlice::Ipv6(ip) => {
            sum = sum
                .add_16bytes(ip.header().source())
                .add_16bytes(ip.header().destination());
        }
        NetSlice::Arp(_) => return None,
    }
    let length = u32::try_from(length).ok()?;
    Some(
        sum.add_2bytes([0, protocol])
            .add_4bytes(length.to_be_bytes()),
    )
}

/// The Toeplitz hash as "Verifying the RSS Hash Calculation" (Microsoft, NDIS) defines it, bit by
/// bit.
#[must_use]
pub fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let key_bit = |at: usize| {
        key.get(at / 8)
            .is_some_and(|byte| byte & (0x80 >> (at % 8)) != 0)
    };
    let mut hash = 0;
    for bit in (0..input.len() * 8).filter(|bit| input[bit / 8] & (0x80 >> (bit % 8)) != 0) {
        hash ^= (0..32).fold(0, |window, at| window << 1 | u32::from(key_bit(bit + at)));
    }
    hash
}

/// Hash input of an IP frame: source and destination address, then, if `ports`, both ports.
///
/// # Panics
///
/// It is not IP, or has no ports.
#[must_use]
pub fn hash_input(frame: &[u8], ports: bool) -> Vec<u8> {
    let packet = SlicedPacket::from_ethernet(frame).expect("well-formed");
    let mut input = match packet.net.as_ref().expect("IP") {
        NetSlice::Ipv4(ip) => [ip.header().source(), ip.header().destination()].concat(),
        NetSlice::Ipv6(ip) => [ip.header().source(), ip.header().destination()].concat(),
        NetSlice::Arp(_) => panic!("ARP is not hashed"),
    };
    if ports {
        let start = dissect(frame).l4.expect("TCP or UDP").start;
        input.extend_from_slice(&frame[start..start + 4]);
    }
    input
}
