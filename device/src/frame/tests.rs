use etherparse::{LinkExtSlice, NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::generate::frames;
use super::*;

/// Ethernet header with this EtherType, then `rest`.
fn ethernet(ether_type: u16, rest: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x5a, 0x43, 0x4e, 0, 0, 1, 0x5a, 0x43, 0x4e, 0, 0, 2];
    frame.extend(ether_type.to_be_bytes());
    frame.extend(rest);
    frame
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0x12];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([
        0, 1, 0x40, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
    ]);
    packet.extend(payload);
    packet
}

fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x6a, 0xb1, 0x23, 0x45];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next_header, 64]);
    packet.extend([0x20; 16]);
    packet.extend([0xfe; 16]);
    packet.extend(payload);
    packet
}

const TCP: [u8; 20] = [
    0x03, 0xe8, 0x07, 0xd0, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 2, 0, 0, 0, 0, 0,
];
const UDP: [u8; 10] = [0x03, 0xe8, 0x07, 0xd0, 0, 10, 0, 0, 0xaa, 0xbb];

fn parse(frame: &[u8]) -> Headers {
    Headers::parse(frame, frame.len())
}

#[test]
fn tcp_over_ipv4() {
    let frame = ethernet(0x0800, &ipv4(6, &[&TCP[..], b"payload"].concat()));
    let expected = Headers {
        l2_end: 14,
        ether_type: 0x0800,
        vlan: None,
        l3: Some(L3 {
            version: IpVersion::V4,
            offset: 14,
            payload_offset: 34,
            payload_end: 61,
            protocol: 6,
            tos: 0x12,
            flow_label: 0,
            fragment: false,
        }),
        l4: Some(L4 {
            protocol: L4Protocol::Tcp,
            offset: 34,
            payload_offset: 54,
            payload_end: 61,
            source_port: 1000,
            destination_port: 2000,
        }),
    };
    let headers = parse(&frame);
    assert_eq!(headers, expected);
    assert_eq!(headers.payload_offset(), 54);
    assert_eq!(
        headers.ether_destination(&frame),
        Some([0x5a, 0x43, 0x4e, 0, 0, 1])
    );
    assert_eq!(
        headers.ether_source(&frame),
        Some([0x5a, 0x43, 0x4e, 0, 0, 2])
    );
    let addresses = (&[192, 0, 2, 1][..], &[192, 0, 2, 2][..]);
    assert_eq!(headers.addresses(&frame), Some(addresses));
    // The last boundary that fits.
    let rooms = [
        (1536, 54),
        (54, 54),
        (53, 34),
        (34, 34),
        (33, 14),
        (14, 14),
        (13, 13),
        (0, 0),
    ];
    for (room, point) in rooms {
        assert_eq!(headers.split_point(room), point, "room {room}");
    }
}

#[test]
fn udp_over_ipv6_in_a_tag() {
    let frame = ethernet(
        0x8100,
        &[&[0x2f, 0xfe, 0x86, 0xdd], &ipv6(17, &UDP)[..]].concat(),
    );
    let headers = parse(&frame);
    assert_eq!((headers.l2_end, headers.ether_type), (18, 0x86dd));
    assert_eq!(headers.vlan, Some(0x2ffe));
    let l3 = headers.l3.unwrap();
    assert_eq!((l3.tos, l3.flow_label), (0xab, 0x12345));
    let l4 = headers.l4.unwrap();
    assert_eq!((l4.offset, l4.payload_offset, l4.payload_end), (58, 66, 68));
    assert_eq!(
        headers.addresses(&frame),
        Some((&[0x20; 16][..], &[0xfe; 16][..]))
    );
}

#[test]
fn tags_beyond_two_are_payload() {
    let tag = [0, 5, 0x81, 0x00];
    let inner = [&[0, 6, 0x08, 0x00], &ipv4(17, &UDP)[..]].concat();
    let two = parse(&ethernet(0x88a8, &[&tag[..], &inner].concat()));
    assert_eq!(
        (two.vlan, two.l2_end, two.l4.is_some()),
        (Some(5), 22, true)
    );
    let three = parse(&ethernet(0x88a8, &[&tag[..], &tag, &inner].concat()));
    assert_eq!(
        (three.vlan, three.l2_end, three.ether_type),
        (Some(5), 22, 0x8100)
    );
    assert_eq!(three.l3, None);
}

#[test]
fn short_frames_end_at_the_last_whole_header() {
    let frame = ethernet(0x8100, &[&[0, 1, 0x08, 0x00], &ipv4(6, &TCP)[..]].concat());
    for length in 0..frame.len() {
        let headers = parse(&frame[..length]);
        let expected = match length {
            0..14 => 0,
            14..18 => 14,
            18..38 => 18,
            _ => 38,
        };
        assert_eq!(headers.payload_offset(), expected, "{length} bytes");
        assert_eq!(headers.l4, None);
    }
    assert_eq!(parse(&frame).payload_offset(), 58);
}

#[test]
fn headers_beyond_the_snapshot_are_not_parsed() {
    // 14 + 40 + 24 * 8 = 246: the options end within the snapshot, TCP does not.
    let options = [&[6, 23][..], &[0; 190]].concat();
    let mut frame = ethernet(0x86dd, &ipv6(60, &[&options[..], &TCP].concat()));
    let headers = parse(&frame);
    assert_eq!((headers.payload_offset(), headers.l4), (246, None));
    assert_eq!(headers.l3.unwrap().protocol, 6);
    frame.truncate(SNAPSHOT);
    assert_eq!(Headers::parse(&frame, 246 + 20), headers);
}

#[test]
fn padding_is_not_payload() {
    for packet in [
        ethernet(0x0800, &ipv4(17, &UDP)),
        ethernet(0x86dd, &ipv6(17, &UDP)),
    ] {
        let padded = [&packet[..], &[0; 18]].concat();
        let headers = parse(&padded);
        assert_eq!(headers.l3.unwrap().payload_end, packet.len());
        assert_eq!(headers.l4.unwrap().payload_end, packet.len());
    }
}

#[test]
fn inconsistent_headers_have_no_l4() {
    type Damage = (&'static str, fn(&mut Vec<u8>), bool);
    let ipv4_damages: [Damage; 9] = [
        ("version", |frame| frame[14] = 0x65, false),
        ("header length", |frame| frame[14] = 0x44, false),
        ("header beyond the frame", |frame| frame[14] = 0x4f, false),
        (
            "total length below the header's",
            |frame| frame[17] = 19,
            false,
        ),
        (
            "total length beyond the frame",
            |frame| frame[17] += 1,
            true,
        ),
        ("more fragments", |frame| frame[20] = 0x20, true),
        ("fragment offset", |frame| frame[21] = 1, true),
        ("data offset", |frame| frame[46] = 0x4f, true),
        ("options beyond the packet", |frame| frame[46] = 0x60, true),
    ];
    for (name, damage, has_l3) in ipv4_damages {
        let mut frame = ethernet(0x0800, &ipv4(6, &TCP));
        damage(&mut frame);
        let headers = parse(&frame);
        assert_eq!((headers.l3.is_some(), headers.l4), (has_l3, None), "{name}");
    }
    let ipv6_damages: [Damage; 4] = [
        ("version", |frame| frame[14] = 0x40, false),
        (
            "payload length beyond the frame",
            |frame| frame[19] += 1,
            true,
        ),
        ("UDP length beyond the packet", |frame| frame[59] += 1, true),
        ("UDP length below the header's", |frame| frame[59] = 7, true),
    ];
    for (name, damage, has_l3) in ipv6_damages {
        let mut frame = ethernet(0x86dd, &ipv6(17, &UDP));
        damage(&mut frame);
        let headers = parse(&frame);
        assert_eq!((headers.l3.is_some(), headers.l4), (has_l3, None), "{name}");
    }
}

#[test]
fn extension_headers() {
    let fragment = |high, low| [6, 0, high, low, 1, 2, 3, 4];
    let l4_behind = |first, extension: &[u8]| {
        let headers = parse(&ethernet(0x86dd, &ipv6(first, &[extension, &TCP].concat())));
        let l3 = headers.l3.unwrap();
        assert_eq!(l3.payload_offset, 54 + extension.len());
        assert_eq!(l3.protocol, 6);
        (l3.fragment, headers.l4.is_some())
    };
    assert_eq!(l4_behind(44, &fragment(0, 0)), (false, true), "atomic");
    assert_eq!(
        l4_behind(44, &fragment(0, 6)),
        (false, true),
        "reserved bits"
    );
    assert_eq!(l4_behind(44, &fragment(0, 1)), (true, false), "first");
    assert_eq!(l4_behind(44, &fragment(0, 8)), (true, false), "last");
    assert_eq!(
        l4_behind(43, &[6, 0, 4, 0, 0, 0, 0, 0]),
        (false, true),
        "arrived"
    );
    assert_eq!(
        l4_behind(43, &[6, 0, 4, 1, 0, 0, 0, 0]),
        (false, false),
        "on its way"
    );
    assert_eq!(
        l4_behind(51, &[6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (false, true)
    );
}

#[test]
fn extension_headers_end_with_the_packet() {
    let mut frame = ethernet(0x86dd, &ipv6(60, &[6, 1, 0, 0, 0, 0, 0, 0]));
    // The extension header's length field reaches into the padding.
    frame.extend([0; 8]);
    frame.extend(TCP);
    let l3 = parse(&frame).l3.unwrap();
    assert_eq!(
        (l3.payload_offset, l3.payload_end, l3.protocol),
        (54, 62, 60)
    );
}

#[test]
fn extension_headers_are_bounded() {
    let chain = |count: usize| {
        let mut extensions = [60, 0, 0, 0, 0, 0, 0, 0].repeat(count);
        extensions[count * 8 - 8] = 6;
        parse(&ethernet(
            0x86dd,
            &ipv6(60, &[&extensions[..], &TCP].concat()),
        ))
    };
    assert!(chain(MAX_IPV6_EXTENSIONS - 1).l4.is_some());
    assert!(chain(MAX_IPV6_EXTENSIONS + 1).l4.is_none());
    assert!(chain(20).l3.is_some());
}

/// Where `part` starts in `frame`.
fn offset_in(frame: &[u8], part: &[u8]) -> usize {
    part.as_ptr() as usize - frame.as_ptr() as usize
}

/// The headers of the frame as etherparse parses them.
fn oracle(frame: &[u8]) -> Headers {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let tags: Vec<_> = packet
        .link_exts
        .iter()
        .map(|tag| match tag {
            LinkExtSlice::Vlan(tag) => tag,
            LinkExtSlice::Macsec(_) => unreachable!("not generated"),
        })
        .collect();
    let vlan = tags
        .first()
        .map(|tag| u16::from_be_bytes([tag.slice()[0], tag.slice()[1]]));
    let (l3, ether_type) = match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let (header, payload) = (ip.header(), ip.payload());
            let payload_offset = offset_in(frame, payload.payload);
            let l3 = L3 {
                version: IpVersion::V4,
                offset: offset_in(frame, header.slice()),
                payload_offset,
                payload_end: payload_offset + payload.payload.len(),
                protocol: payload.ip_number.0,
                tos: header.dcp().value() << 2 | header.ecn().value(),
                flow_label: 0,
                fragment: payload.fragmented,
            };
            (l3, 0x0800)
        }
        NetSlice::Ipv6(ip) => {
            let (header, payload) = (ip.header(), ip.payload());
            let payload_offset = offset_in(frame, payload.payload);
            let l3 = L3 {
                version: IpVersion::V6,
                offset: offset_in(frame, header.slice()),
                payload_offset,
                payload_end: payload_offset + payload.payload.len(),
                protocol: payload.ip_number.0,
                tos: header.traffic_class(),
                flow_label: header.flow_label().value(),
                fragment: payload.fragmented,
            };
            (l3, 0x86dd)
        }
        NetSlice::Arp(_) => unreachable!("not generated"),
    };
    let l4 = packet.transport.as_ref().map(|transport| {
        let (protocol, header, payload, ports) = match transport {
            TransportSlice::Tcp(tcp) => {
                let ports = (tcp.source_port(), tcp.destination_port());
                (L4Protocol::Tcp, tcp.header_slice(), tcp.payload(), ports)
            }
            TransportSlice::Udp(udp) => {
                let ports = (udp.source_port(), udp.destination_port());
                (L4Protocol::Udp, udp.header_slice(), udp.payload(), ports)
            }
            _ => unreachable!("not generated"),
        };
        let offset = offset_in(frame, header);
        L4 {
            protocol,
            offset,
            payload_offset: offset + header.len(),
            payload_end: offset + header.len() + payload.len(),
            source_port: ports.0,
            destination_port: ports.1,
        }
    });
    Headers {
        l2_end: 14 + 4 * tags.len(),
        ether_type,
        vlan,
        l3: Some(l3),
        l4,
    }
}

/// The checksum that etherparse puts into the L4 header.
fn oracle_checksum(frame: &[u8]) -> u16 {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    match (
        packet.net.as_ref().unwrap(),
        packet.transport.as_ref().unwrap(),
    ) {
        (NetSlice::Ipv4(ip), TransportSlice::Tcp(tcp)) => tcp
            .calc_checksum_ipv4(ip.header().source(), ip.header().destination())
            .unwrap(),
        (NetSlice::Ipv6(ip), TransportSlice::Tcp(tcp)) => tcp
            .calc_checksum_ipv6(ip.header().source(), ip.header().destination())
            .unwrap(),
        (NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) => {
            let (source, destination) = (ip.header().source(), ip.header().destination());
            let header = udp.to_header();
            header
                .calc_checksum_ipv4_raw(source, destination, udp.payload())
                .unwrap()
        }
        (NetSlice::Ipv6(ip), TransportSlice::Udp(udp)) => {
            let (source, destination) = (ip.header().source(), ip.header().destination());
            let header = udp.to_header();
            header
                .calc_checksum_ipv6_raw(source, destination, udp.payload())
                .unwrap()
        }
        _ => unreachable!("not generated"),
    }
}

fn check_bounds(headers: &Headers, header_bytes: &[u8], frame_len: usize) {
    let header_bytes_length = header_bytes.len().min(frame_len).min(SNAPSHOT);
    assert!(headers.l2_end <= header_bytes_length);
    let mut deepest = headers.l2_end;
    if let Some(l3) = headers.l3 {
        assert_eq!(l3.offset, headers.l2_end);
        assert!(l3.offset < l3.payload_offset && l3.payload_offset <= header_bytes_length);
        assert!(l3.payload_offset <= l3.payload_end && l3.payload_end <= frame_len);
        assert!(headers.addresses(header_bytes).is_some());
        deepest = l3.payload_offset;
    }
    if let Some(l4) = headers.l4 {
        let l3 = headers.l3.unwrap();
        assert!(!l3.fragment);
        assert_eq!(l4.offset, l3.payload_offset);
        assert!(l4.offset < l4.payload_offset && l4.payload_offset <= header_bytes_length);
        assert!(l4.payload_offset <= l4.payload_end && l4.payload_end <= l3.payload_end);
        assert!(
            headers
                .pseudo_header(header_bytes, l4.payload_end - l4.offset)
                .is_some()
        );
        deepest = l4.payload_offset;
    }
    assert_eq!(headers.payload_offset(), deepest);
    assert_eq!(headers.split_point(usize::MAX), deepest);
    for room in 0..=deepest {
        assert!(headers.split_point(room) <= room);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 1024 }))]

    #[test]
    fn arbitrary_bytes_stay_in_bounds(
        header_bytes in proptest::collection::vec(any::<u8>(), 0..300), frame_len in 0..400usize,
    ) {
        check_bounds(&Headers::parse(&header_bytes, frame_len), &header_bytes, frame_len);
    }

    #[test]
    fn damaged_frames_stay_in_bounds(
        mut frame in frames(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        length in any::<prop::sample::Index>(),
        missing in prop_oneof![Just(0), 0..70_000usize],
    ) {
        for (at, byte) in damage {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        frame.truncate(length.index(frame.len() + 1));
        let frame_len = frame.len() + missing;
        let headers = Headers::parse(&frame, frame_len);
        check_bounds(&headers, &frame, frame_len);
        // Other header bytes than the parsed ones must not panic.
        let shorter = &frame[..frame.len() / 2];
        let _ = headers.addresses(shorter);
        let _ = headers.pseudo_header(shorter, frame_len);
    }

    #[test]
    fn parsing_agrees_with_etherparse(frame in frames()) {
        let headers = parse(&frame);
        prop_assert_eq!(headers, oracle(&frame));
        let header_bytes = &frame[..frame.len().min(SNAPSHOT)];
        prop_assert_eq!(Headers::parse(header_bytes, frame.len()), headers);
    }

    #[test]
    fn l4_checksums_agree_with_etherparse(frame in frames()) {
        let headers = parse(&frame);
        let Some(l4) = headers.l4 else {
            return Ok(());
        };
        let mut sum = headers.pseudo_header(&frame, l4.payload_end - l4.offset).unwrap();
        // Generated frames have 0 where the checksum goes.
        sum.add(&frame[l4.offset..l4.payload_end]);
        let finished = match (l4.protocol, sum.finish()) {
            (L4Protocol::Udp, 0) => 0xffff,
            (_, checksum) => checksum,
        };
        prop_assert_eq!(finished, oracle_checksum(&frame));
    }
}
