//! Generates valid frames of every kind that the parser supports, for property tests.
//!
//! Addresses and ports come from small pools, so that rules match some frames.

use etherparse::{
    EtherType, Ethernet2Header, IpAuthHeader, IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions,
    Ipv4Header, Ipv4Options, Ipv6Extensions, Ipv6FlowLabel, Ipv6FragmentHeader, Ipv6Header,
    Ipv6RawExtHeader, Ipv6RoutingExtensions, SingleVlanHeader, TcpHeader, UdpHeader, VlanId,
    VlanPcp,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

/// Frames with up to two VLAN tags, IPv4 with options, IPv6 with extension headers, fragments, TCP
/// with options, UDP, other protocols, and padding.
pub(crate) fn frames() -> impl Strategy<Value = Vec<u8>> {
    let ethernet = (ether_address(), ether_address(), vec(tag(), 0..=2));
    let payload = (prop_oneof![l4(), l4(), other_l4()], vec(any::<u8>(), 1..64));
    (ethernet, ip(), payload, 0..20usize).prop_map(|(ethernet, mut ip, (l4, payload), padding)| {
        let l4 = l4.bytes(&payload);
        ip.set_next_headers(l4.protocol);
        let ether_type = match ip {
            IpHeaders::Ipv4(..) => EtherType::IPV4,
            IpHeaders::Ipv6(..) => EtherType::IPV6,
        };
        ip.set_payload_len(l4.bytes.len()).unwrap();
        let mut frame = ethernet_header(ethernet, ether_type);
        ip.write(&mut frame).unwrap();
        frame.extend(l4.bytes);
        frame.extend(vec![0xa5; padding]);
        frame
    })
}

fn ether_address() -> impl Strategy<Value = [u8; 6]> {
    select(vec![
        [0x5a, 0x43, 0x4e, 0, 0, 1],
        [0x5a, 0x43, 0x4e, 0, 0, 2],
        [0x01, 0x00, 0x5e, 0, 0, 1],
        [0xff; 6],
    ])
}

/// Whether it is a service tag, and the tag.
fn tag() -> impl Strategy<Value = (bool, u16)> {
    (
        any::<bool>(),
        prop_oneof![select(vec![0, 1, 0xe001]), any::<u16>()],
    )
}

fn ethernet_header(
    (destination, source, tags): ([u8; 6], [u8; 6], Vec<(bool, u16)>),
    ether_type: EtherType,
) -> Vec<u8> {
    let types = tags.iter().map(|(service, _)| match service {
        true => EtherType::PROVIDER_BRIDGING,
        false => EtherType::VLAN_TAGGED_FRAME,
    });
    let mut types = types.chain([ether_type]);
    let mut frame = Vec::new();
    let header = Ethernet2Header {
        destination,
        source,
        ether_type: types.next().unwrap(),
    };
    header.write(&mut frame).unwrap();
    for ((_, tci), ether_type) in tags.iter().zip(types) {
        let tag = SingleVlanHeader {
            pcp: VlanPcp::try_new((tci >> 13) as u8).unwrap(),
            drop_eligible_indicator: tci & 0x1000 != 0,
            vlan_id: VlanId::try_new(tci & 0x0fff).unwrap(),
            ether_type,
        };
        tag.write(&mut frame).unwrap();
    }
    frame
}

fn ip() -> impl Strategy<Value = IpHeaders> {
    prop_oneof![ipv4(), ipv6()]
}

/// More fragments, and a fragment offset in units of 8 bytes; mostly neither.
fn fragment() -> impl Strategy<Value = (bool, u16)> {
    prop_oneof![4 => Just((false, 0)), 1 => (any::<bool>(), prop_oneof![Just(0), 0..0x2000u16])]
}

fn ipv4() -> impl Strategy<Value = IpHeaders> {
    let address = || (0..3u8).prop_map(|last| [192, 0, 2, last]);
    let options = (0..=10usize).prop_flat_map(|words| vec(any::<u8>(), words * 4));
    (address(), address(), any::<u8>(), fragment(), options).prop_map(
        |(source, destination, tos, (more_fragments, offset), options)| {
            let header = Ipv4Header {
                dscp: (tos >> 2).try_into().unwrap(),
                ecn: (tos & 3).try_into().unwrap(),
                more_fragments,
                fragment_offset: IpFragOffset::try_new(offset).unwrap(),
                time_to_live: 64,
                source,
                destination,
                options: Ipv4Options::try_from(options.as_slice()).unwrap(),
                ..Ipv4Header::default()
            };
            IpHeaders::Ipv4(header, Ipv4Extensions::default())
        },
    )
}

fn ipv6() -> impl Strategy<Value = IpHeaders> {
    let address =
        || (0..3u8).prop_map(|last| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    (
        address(),
        address(),
        any::<u8>(),
        0..1u32 << 20,
        extensions(),
    )
        .prop_map(
            |(source, destination, traffic_class, flow_label, extensions)| {
                let header = Ipv6Header {
                    traffic_class,
                    flow_label: Ipv6FlowLabel::try_new(flow_label).unwrap(),
                    hop_limit: 64,
                    source,
                    destination,
                    ..Ipv6Header::default()
                };
                IpHeaders::Ipv6(header, extensions)
            },
        )
}

fn extensions() -> impl Strategy<Value = Ipv6Extensions> {
    let raw = || {
        let payload = (0..3usize).prop_flat_map(|units| vec(any::<u8>(), 6 + units * 8));
        payload.prop_map(|payload| Ipv6RawExtHeader::new_raw(IpNumber(0), &payload).unwrap())
    };
    let routing = (raw(), option::of(raw())).prop_map(|(routing, last)| {
        // No segments left: the packet has arrived.
        let mut payload = routing.payload().to_vec();
        payload[1] = 0;
        Ipv6RoutingExtensions {
            routing: Ipv6RawExtHeader::new_raw(IpNumber(0), &payload).unwrap(),
            final_destination_options: last,
        }
    });
    let fragment = (fragment(), any::<u32>()).prop_map(|((more, offset), identification)| {
        let offset = IpFragOffset::try_new(offset).unwrap();
        Ipv6FragmentHeader::new(IpNumber(0), offset, more, identification)
    });
    let auth = (0..4usize)
        .prop_flat_map(|words| vec(any::<u8>(), words * 4))
        .prop_map(|icv| IpAuthHeader::new(IpNumber(0), 1, 2, &icv).unwrap());
    let rarely = 0.3;
    (
        option::weighted(rarely, raw()),
        option::weighted(rarely, raw()),
        option::weighted(rarely, routing),
        option::weighted(rarely, fragment),
        option::weighted(rarely, auth),
    )
        .prop_map(|(hop_by_hop, destination, routing, fragment, auth)| {
            let mut extensions = Ipv6Extensions {
                hop_by_hop_options: hop_by_hop,
                destination_options: destination,
                routing,
                fragment,
                auth,
            };
            if extensions.is_fragmenting_payload() {
                // Behind a fragment header is payload, which etherparse parses nevertheless.
                extensions.auth = None;
                if let Some(routing) = &mut extensions.routing {
                    routing.final_destination_options = None;
                }
            }
            extensions
        })
}

#[derive(Debug, Clone)]
enum L4 {
    Tcp {
        ports: (u16, u16),
        options: Vec<u8>,
    },
    /// With bytes behind the end of UDP's own length.
    Udp {
        ports: (u16, u16),
        trailer: usize,
    },
    Other(u8),
}

struct L4Bytes {
    protocol: IpNumber,
    bytes: Vec<u8>,
}

fn l4() -> BoxedStrategy<L4> {
    let port = || prop_oneof![3 => select(vec![80, 443, 5201]), 1 => any::<u16>()];
    let options = (0..=10usize).prop_flat_map(|words| vec(any::<u8>(), words * 4));
    let trailer = prop_oneof![3 => Just(0), 1 => 1..9usize];
    prop_oneof![
        ((port(), port()), options).prop_map(|(ports, options)| L4::Tcp { ports, options }),
        ((port(), port()), trailer).prop_map(|(ports, trailer)| L4::Udp { ports, trailer }),
    ]
    .boxed()
}

fn other_l4() -> BoxedStrategy<L4> {
    // GRE, ESP, SCTP.
    select(vec![47, 50, 132]).prop_map(L4::Other).boxed()
}

impl L4 {
    fn bytes(&self, payload: &[u8]) -> L4Bytes {
        let mut bytes = Vec::new();
        let protocol = match self {
            Self::Tcp {
                ports: (source, destination),
                options,
            } => {
                let mut header = TcpHeader::new(*source, *destination, 7, 512);
                header.options = options.as_slice().try_into().unwrap();
                header.write(&mut bytes).unwrap();
                bytes.extend(payload);
                IpNumber::TCP
            }
            Self::Udp {
                ports: (source_port, destination_port),
                trailer,
            } => {
                let header = UdpHeader {
                    source_port: *source_port,
                    destination_port: *destination_port,
                    length: (UdpHeader::LEN + payload.len()) as u16,
                    checksum: 0,
                };
                header.write(&mut bytes).unwrap();
                bytes.extend(payload);
                bytes.extend(vec![0x5a; *trailer]);
                IpNumber::UDP
            }
            Self::Other(protocol) => {
                bytes.extend(payload);
                IpNumber(*protocol)
            }
        };
        L4Bytes { protocol, bytes }
    }
}
