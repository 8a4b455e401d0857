use proptest::prelude::*;

use super::*;
use crate::frame::generate::frames;

/// A frame with these addresses and, unless `None`, TCP or UDP with these ports.
fn frame(source: &[u8], destination: &[u8], l4: Option<(u8, u16, u16)>) -> Vec<u8> {
    let (protocol, ports) = l4.map_or((59, (0, 0)), |(protocol, from, to)| (protocol, (from, to)));
    let mut l4 = vec![0; 20];
    l4[..2].copy_from_slice(&ports.0.to_be_bytes());
    l4[2..4].copy_from_slice(&ports.1.to_be_bytes());
    match protocol {
        6 => l4[12] = 0x50,
        _ => l4[5] = 20,
    }
    let mut frame = vec![0; 12];
    if source.len() == 4 {
        frame.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0]);
    } else {
        // Flow label 0x12345.
        frame.extend([0x86, 0xdd, 0x60, 0x01, 0x23, 0x45, 0, 20, protocol, 64]);
    }
    frame.extend(source);
    frame.extend(destination);
    frame.extend(l4);
    frame
}

fn hash(context: &RssContext, frame: &[u8]) -> Option<Hash> {
    context.hash(&Headers::parse(frame, frame.len()), frame)
}

fn request(fields: [u16; FLOW_TYPES], symmetric: u16) -> RssSet {
    RssSet {
        symmetric: symmetric.into(),
        fields: fields.map(U16::new),
        key: DEFAULT_KEY,
        ..RssSet::default()
    }
}

fn context(fields: [u16; FLOW_TYPES], symmetric: RssSymmetric) -> RssContext {
    let set = request(fields, symmetric.into());
    RssContext::from_request(&set, &[U16::new(0)], 1).unwrap()
}

/// Toeplitz by its definition: the key shifts by one for each bit of input.
fn by_definition(key: &[u8; RSS_KEY_SIZE], input: &[u8]) -> u32 {
    let key_bit = |bit: usize| u32::from(key[bit / 8] >> (7 - bit % 8) & 1);
    let mut hash = 0;
    for bit in (0..input.len() * 8).filter(|bit| input[bit / 8] >> (7 - bit % 8) & 1 == 1) {
        hash ^= (bit..bit + 32).fold(0, |window, bit| window << 1 | key_bit(bit));
    }
    hash
}

/// Microsoft, "Verifying the RSS Hash Calculation": destination, source, hash of the addresses,
/// hash with TCP ports.
#[test]
fn published_vectors_ipv4() {
    let vectors = [
        (
            "161.142.100.80",
            1766,
            "66.9.149.187",
            2794,
            0x323e_8fc2,
            0x51cc_c178,
        ),
        (
            "65.69.140.83",
            4739,
            "199.92.111.2",
            14230,
            0xd718_262a,
            0xc626_b0ea,
        ),
        (
            "12.22.207.184",
            38024,
            "24.19.198.95",
            12898,
            0xd2d0_a5de,
            0x5c2b_394a,
        ),
        (
            "209.142.163.6",
            2217,
            "38.27.205.30",
            48228,
            0x8298_9176,
            0xafc7_327f,
        ),
        (
            "202.188.127.2",
            1303,
            "153.39.163.191",
            44251,
            0x5d18_09c5,
            0x10e8_28a2,
        ),
    ];
    let context = RssContext::spread(4);
    for (destination, destination_port, source, source_port, addresses, with_ports) in vectors {
        let octets = |address: &str| address.parse::<std::net::Ipv4Addr>().unwrap().octets();
        let (source, destination) = (octets(source), octets(destination));
        check_vector(
            &context,
            (&source, source_port),
            (&destination, destination_port),
            (addresses, with_ports),
            [HashType::Ipv4, HashType::Tcp4, HashType::Udp4],
        );
    }
}

#[test]
fn published_vectors_ipv6() {
    let vectors = [
        (
            "3ffe:2501:200:3::1",
            1766,
            "3ffe:2501:200:1fff::7",
            2794,
            0x2cc1_8cd5,
            0x4020_7d3d,
        ),
        (
            "ff02::1",
            4739,
            "3ffe:501:8::260:97ff:fe40:efab",
            14230,
            0x0f0c_461c,
            0xdde5_1bbf,
        ),
        (
            "fe80::200:f8ff:fe21:67cf",
            38024,
            "3ffe:1900:4545:3:200:f8ff:fe21:67cf",
            44251,
            0x4b61_e985,
            0x02d1_feef,
        ),
    ];
    let context = RssContext::spread(4);
    for (destination, destination_port, source, source_port, addresses, with_ports) in vectors {
        let octets = |address: &str| address.parse::<std::net::Ipv6Addr>().unwrap().octets();
        let (source, destination) = (octets(source), octets(destination));
        check_vector(
            &context,
            (&source, source_port),
            (&destination, destination_port),
            (addresses, with_ports),
            [HashType::Ipv6, HashType::Tcp6, HashType::Udp6],
        );
    }
}

fn check_vector(
    context: &RssContext,
    (source, source_port): (&[u8], u16),
    (destination, destination_port): (&[u8], u16),
    (addresses, with_ports): (u32, u32),
    [ip, tcp, udp]: [HashType; 3],
) {
    let hash = |l4| hash(context, &frame(source, destination, l4)).unwrap();
    let expect = |value, kind| Hash { value, kind };
    assert_eq!(hash(None), expect(addresses, ip));
    assert_eq!(
        hash(Some((6, source_port, destination_port))),
        expect(with_ports, tcp)
    );
    assert_eq!(
        hash(Some((17, source_port, destination_port))),
        expect(with_ports, udp)
    );
}

const A: [u8; 4] = [10, 1, 2, 3];
const B: [u8; 4] = [192, 168, 7, 250];

#[test]
fn fields_select_the_input() {
    let key = DEFAULT_KEY;
    let udp = frame(&A, &B, Some((17, 0x1122, 0x3344)));
    let cases = [
        (FIELD_IP_SRC, &[10, 1, 2, 3][..], HashType::Ipv4),
        (FIELD_IP_DST, &[192, 168, 7, 250], HashType::Ipv4),
        (IP, &[10, 1, 2, 3, 192, 168, 7, 250], HashType::Ipv4),
        (FIELD_L4_SRC, &[0x11, 0x22], HashType::Udp4),
        (FIELD_L4_DST, &[0x33, 0x44], HashType::Udp4),
        (
            FIELD_IP_DST | FIELD_L4_SRC,
            &[192, 168, 7, 250, 0x11, 0x22],
            HashType::Udp4,
        ),
    ];
    for (fields, input, kind) in cases {
        let context = context([0, 0, fields, 0, 0, 0, 0, 0], RssSymmetric::Asymmetric);
        let value = by_definition(&key, input);
        assert_eq!(
            hash(&context, &udp),
            Some(Hash { value, kind }),
            "{fields:#x}"
        );
        // Other flow types have no fields, so no hash.
        assert_eq!(hash(&context, &frame(&A, &B, Some((6, 1, 2)))), None);
        assert_eq!(hash(&context, &frame(&A, &B, None)), None);
        assert_eq!(
            hash(&context, &frame(&[1; 16], &[2; 16], Some((17, 1, 2)))),
            None
        );
    }
}

#[test]
fn the_flow_label_comes_last() {
    let mut fields = [0; FLOW_TYPES];
    fields[usize::from(u8::from(FlowType::Tcp6))] = IP | L4 | FIELD_FLOW_LABEL;
    let context = context(fields, RssSymmetric::Asymmetric);
    let input = [&[1; 16][..], &[2; 16], &[0, 5, 0, 6], &[0, 1, 0x23, 0x45]].concat();
    let value = by_definition(&DEFAULT_KEY, &input);
    let expected = Some(Hash {
        value,
        kind: HashType::Tcp6,
    });
    assert_eq!(
        hash(&context, &frame(&[1; 16], &[2; 16], Some((6, 5, 6)))),
        expected
    );
}

#[test]
fn fragments_hash_as_ip_and_other_frames_not_at_all() {
    let context = RssContext::spread(4);
    let whole = frame(&A, &B, Some((6, 1, 2)));
    let mut fragment = whole.clone();
    fragment[20] = 0x20;
    let ip = hash(&context, &frame(&A, &B, None));
    assert_eq!(hash(&context, &fragment), ip);
    assert_ne!(hash(&context, &whole), ip);

    let mut arp = whole;
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    assert_eq!(hash(&context, &arp), None);
    assert_eq!(context.queue(None), 0);
}

/// The formulas of kernel uapi/linux/ethtool.h, `RXH_XFRM_SYM_XOR` and `RXH_XFRM_SYM_OR_XOR`.
#[test]
fn symmetric_transforms() {
    let there = frame(&A, &B, Some((6, 0x1122, 0x3344)));
    let back = frame(&B, &A, Some((6, 0x3344, 0x1122)));
    let xor = [10 ^ 192, 1 ^ 168, 2 ^ 7, 3 ^ 250];
    let or = [10 | 192, 1 | 168, 2 | 7, 3 | 250];
    let (port_xor, port_or) = ([0x11 ^ 0x33, 0x22 ^ 0x44], [0x11 | 0x33, 0x22 | 0x44]);
    let cases = [
        (
            RssSymmetric::SymXor,
            [&xor[..], &xor, &port_xor, &port_xor].concat(),
        ),
        (
            RssSymmetric::SymOrXor,
            [&or[..], &xor, &port_or, &port_xor].concat(),
        ),
    ];
    for (symmetric, input) in cases {
        let context = context(DEFAULT_FIELDS, symmetric);
        let value = by_definition(&DEFAULT_KEY, &input);
        assert_eq!(
            hash(&context, &there),
            Some(Hash {
                value,
                kind: HashType::Tcp4
            })
        );
        assert_eq!(hash(&context, &back), hash(&context, &there));
    }
    let context = context(DEFAULT_FIELDS, RssSymmetric::Asymmetric);
    assert_ne!(hash(&context, &back), hash(&context, &there));
}

#[test]
fn the_low_bits_choose_the_entry() {
    let table: Vec<U16> = [4, 3, 2, 1, 0, 1, 2, 3].map(U16::new).to_vec();
    let context = RssContext::from_request(&request(DEFAULT_FIELDS, 0), &table, 5).unwrap();
    let queue = |value| {
        context.queue(Some(Hash {
            value,
            kind: HashType::Ipv4,
        }))
    };
    assert_eq!([0, 1, 7, 8, 0xffff_fffc].map(queue), [4, 3, 3, 4, 0]);
    assert_eq!(context.queue(None), 4);
    assert_eq!(context.highest_queue(), 4);
}

#[test]
fn spread_reaches_every_queue_evenly() {
    for queues in [0, 1, 2, 3, 8, 100, 128, u16::MAX] {
        let table = RssContext::spread(queues).table;
        assert!(table.len().is_power_of_two() && (8..=512).contains(&table.len()));
        let expected = usize::from(queues.max(1)).min(table.len());
        let reached: std::collections::BTreeSet<_> = table.into_iter().collect();
        assert_eq!(reached.len(), expected, "{queues} queues");
    }
}

#[test]
fn unacceptable_requests_name_the_field() {
    let refused = |set: &RssSet, table: &[u16]| {
        let table: Vec<U16> = table.iter().copied().map(U16::new).collect();
        RssContext::from_request(set, &table, 4)
            .map_err(|invalid| invalid.offset)
            .unwrap_err()
    };
    let fields = |index, bits| {
        let mut fields = [0; FLOW_TYPES];
        fields[index] = bits;
        fields
    };
    let good = request(DEFAULT_FIELDS, 0);
    assert!(RssContext::from_request(&good, &[U16::new(3); 512], 4).is_ok());
    assert_eq!(refused(&request(DEFAULT_FIELDS, 3), &[0]), 26);
    for table in [&[][..], &[0; 3], &[0; 1024]] {
        assert_eq!(refused(&good, table), 28);
    }
    assert_eq!(refused(&good, &[0, 1, 2, 4]), size_of::<RssSet>() + 6);
    for (index, bits, symmetric) in [
        (0, FIELD_L4_SRC, 0),
        (1, FIELD_FLOW_LABEL, 0),
        (3, FIELD_L4_DST, 0),
        (5, 0x20, 0),
        (6, FIELD_IP_SRC, 0),
        (7, FIELD_IP_SRC, 0),
        (1, FIELD_IP_SRC, 1),
        (2, IP | FIELD_L4_DST, 2),
        (4, IP | FIELD_FLOW_LABEL, 1),
    ] {
        let set = request(fields(index, bits), symmetric);
        assert_eq!(
            refused(&set, &[0]),
            32 + 2 * index,
            "{bits:#x} for flow type {index}"
        );
    }
}

proptest! {
    #[test]
    fn hash_is_toeplitz_by_definition(
        key: [u8; RSS_KEY_SIZE], input in proptest::collection::vec(any::<u8>(), 0..=MAX_INPUT),
    ) {
        prop_assert_eq!(Toeplitz::new(&key).hash(&input), by_definition(&key, &input));
    }

    #[test]
    fn any_frame_has_a_queue_of_the_table(frame in frames(), queues in 1..200u16) {
        let context = RssContext::spread(queues);
        let headers = Headers::parse(&frame, frame.len());
        let hash = context.hash(&headers, &frame);
        prop_assert!(hash.is_some());
        prop_assert!(context.queue(hash) < queues);
    }
}
