use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::{
    checksum::Checksum,
    frame::Headers,
    testing::{Buffer, VecMover, chain, parse_chain, pattern, tcp4, udp6},
    train::{Changes, finish, unsegmented_into},
};

/// The transmit header for segmentation of this frame's payload into segments of `size` bytes.
fn gso(frame: &[u8], gso_type: GsoType, size: u16) -> abi::TxHeader {
    let headers = Headers::parse(frame, frame.len());
    let (l3, l4) = (headers.l3.expect("has IP"), headers.l4.expect("has L4"));
    abi::TxHeader {
        flags: abi::TX_CSUM.into(),
        gso_type: gso_type.into(),
        header_length: (l4.payload_offset as u16).into(),
        csum_start: (l4.offset as u16).into(),
        csum_offset: (l4.protocol.checksum_offset() as u16).into(),
        gso_size: size.into(),
        l3_offset: (l3.offset as u16).into(),
        ..Default::default()
    }
}

/// The bytes of segment `index`, with the checksum inserted as by a receiver.
fn wire(train: &Train<'_, [u8]>, index: usize) -> Vec<u8> {
    finish(&VecMover, train, index)
}

#[test]
fn a_frame_without_requests_is_a_train_of_one_untouched_segment() {
    let frame = tcp4(&pattern(1000));
    let chain = chain(abi::TxHeader::default(), &frame);
    let train = parse_chain(&chain).expect("is sent");
    assert_eq!((train.segments(), train.wire_bytes()), (1, frame.len()));
    assert_eq!(wire(&train, 0), frame);
    assert!(train.segment(0, &mut Changes::default()).partial.is_none());
}

#[test]
fn only_the_last_tcp_segment_pushes_and_only_the_first_reports_the_window_reduced() {
    const PSH: u8 = 0x08;
    const CWR: u8 = 0x80;
    let mut frame = tcp4(&pattern(250));
    frame[14 + 20 + 13] |= PSH | CWR;
    let chain = chain(gso(&frame, GsoType::Tcp4, 100), &frame);
    let train = parse_chain(&chain).expect("is sent");
    let flags: Vec<u8> = (0..3)
        .map(|index| wire(&train, index)[14 + 20 + 13] & (PSH | CWR))
        .collect();
    assert_eq!(flags, [CWR, 0, PSH]);
}

#[test]
fn a_train_counts_as_its_segments_on_the_wire() {
    let frame = tcp4(&pattern(250));
    let chain = chain(gso(&frame, GsoType::Tcp4, 100), &frame);
    let train = parse_chain(&chain).expect("is sent");
    let mut counters = TransmitCounters::default();
    counters.sent(&train);
    let bytes: usize = (0..3).map(|index| wire(&train, index).len()).sum();
    assert_eq!(
        counters,
        TransmitCounters {
            frames: 3,
            bytes: bytes as u64,
            errors: 0
        }
    );
}

fn refused(header: abi::TxHeader, frame: &[u8]) -> TransmitError {
    match parse_chain(&chain(header, frame)) {
        Ok(_) => panic!("{header:?} was accepted"),
        Err(error) => error,
    }
}

#[test]
fn the_transmit_header_must_agree_with_the_frame() {
    let frame = tcp4(&pattern(250));
    let good = gso(&frame, GsoType::Tcp4, 100);
    let wrong = [
        abi::TxHeader {
            gso_type: GsoType::Tcp6.into(),
            ..good
        },
        abi::TxHeader {
            gso_type: GsoType::Udp.into(),
            ..good
        },
        abi::TxHeader {
            gso_size: 0.into(),
            ..good
        },
        abi::TxHeader {
            header_length: 60.into(),
            ..good
        },
        abi::TxHeader {
            l3_offset: 18.into(),
            ..good
        },
        abi::TxHeader {
            csum_start: 20.into(),
            ..good
        },
        abi::TxHeader {
            csum_offset: 6.into(),
            ..good
        },
        abi::TxHeader {
            flags: 0.into(),
            ..good
        },
    ];
    for header in wrong {
        assert_eq!(
            refused(header, &frame),
            TransmitError::Segmentation,
            "{header:?}"
        );
    }
    let no_payload = tcp4(&[]);
    assert_eq!(
        refused(gso(&no_payload, GsoType::Tcp4, 100), &no_payload),
        TransmitError::Segmentation
    );
}

#[test]
fn unknown_flags_types_and_reserved_bytes_are_refused() {
    let frame = tcp4(&pattern(10));
    let mut tail = abi::TxHeader::default();
    tail.reserved1[17] = 1;
    for header in [
        abi::TxHeader {
            flags: 4.into(),
            ..Default::default()
        },
        abi::TxHeader {
            gso_type: 9,
            ..Default::default()
        },
        abi::TxHeader {
            reserved0: 1,
            ..Default::default()
        },
        tail,
    ] {
        assert_eq!(
            refused(header, &frame),
            TransmitError::Unsupported,
            "{header:?}"
        );
    }
}

#[test]
fn an_offload_that_was_not_negotiated_is_refused() {
    let frame = tcp4(&pattern(250));
    let chain = chain(gso(&frame, GsoType::Tcp4, 100), &frame);
    let mut snapshot = Snapshot::default();
    let result = parse(
        &VecMover,
        &chain[..],
        TransmitFormat::Zcnic,
        FeatureSet::default(),
        &mut snapshot,
    );
    assert_eq!(result.err(), Some(TransmitError::Unsupported));
}

#[test]
fn sizes_have_limits() {
    let header = abi::TxHeader::default();
    assert_eq!(refused(header, &[0; 13]), TransmitError::TooShort(45));
    assert_eq!(
        refused(header, &[0; MAX_FRAME + 1]),
        TransmitError::TooLong(MAX_FRAME + 1)
    );
    let frame = tcp4(&pattern(20000));
    let jumbo = gso(&frame, GsoType::Tcp4, 10000);
    assert_eq!(refused(jumbo, &frame), TransmitError::TooLong(10054));
    let tiny = gso(&frame, GsoType::Tcp4, 1);
    assert_eq!(refused(tiny, &frame), TransmitError::Segmentation);
}

#[test]
fn a_checksum_outside_the_snapshot_is_refused() {
    let frame = tcp4(&pattern(1000));
    for (start, offset) in [(300, 16), (0xffff, 0xffff), (34, 221)] {
        let header = abi::TxHeader {
            flags: abi::TX_CSUM.into(),
            csum_start: start.into(),
            csum_offset: offset.into(),
            ..Default::default()
        };
        let field = usize::from(start) + usize::from(offset);
        assert_eq!(
            refused(header, &frame),
            TransmitError::ChecksumOffset(field)
        );
    }
}

#[test]
fn virtio_net_headers_ask_for_the_same_things() {
    let frame = tcp4(&pattern(250));
    // flags NEEDS_CSUM, gso TCPv4 | ECN, hdr_len a lie, gso_size 100, csum_start 34, csum_offset
    // 16.
    let header = [1, 0x81, 0xff, 0xff, 100, 0, 34, 0, 16, 0, 0, 0];
    let chain = [&header[..], &frame].concat();
    let mut snapshot = Snapshot::default();
    let train = parse(
        &VecMover,
        &chain[..],
        TransmitFormat::VirtioNet,
        FeatureSet::ALL,
        &mut snapshot,
    )
    .expect("is sent");
    assert_eq!(train.segments(), 3);
}

/// Sources whose bytes from number `0` on are in another piece of memory.
struct Pieces(usize);

impl Mover for Pieces {
    type Source = [u8];
    type Target = Buffer;

    fn source_len(&self, source: &[u8]) -> usize {
        source.len()
    }

    fn piece_len(&self, source: &[u8], offset: usize) -> usize {
        let end = if offset < self.0 {
            self.0
        } else {
            source.len()
        };
        end - offset
    }

    fn target_len(&self, target: &Buffer) -> usize {
        VecMover.target_len(target)
    }

    fn snapshot(&self, source: &[u8], offset: usize, into: &mut [u8]) {
        VecMover.snapshot(source, offset, into);
    }

    fn copy(
        &self,
        source: &[u8],
        source_offset: usize,
        target: &Buffer,
        target_offset: usize,
        length: usize,
        sum: &mut Checksum,
    ) {
        VecMover.copy(source, source_offset, target, target_offset, length, sum);
    }

    fn put(&self, target: &Buffer, offset: usize, bytes: &[u8]) {
        VecMover.put(target, offset, bytes);
    }
}

#[test]
fn an_unsegmented_train_with_its_virtio_net_header_means_the_same_frames() {
    let payload = pattern(5000);
    let frames = [
        (tcp4(&payload), GsoType::Tcp4),
        (udp6(&payload), GsoType::Udp),
    ];
    for (frame, gso_type) in frames {
        let chain = chain(gso(&frame, gso_type, 700), &frame);
        let train = parse_chain(&chain).expect("is sent");
        let mut whole = Vec::new();
        unsegmented_into(&VecMover, &train, &mut whole);
        assert_eq!(whole, frame);
        let copy = [&virtio_net_header(&train)[..], &whole].concat();
        let mut snapshot = Snapshot::default();
        let format = TransmitFormat::VirtioNet;
        let again = parse(&VecMover, &copy[..], format, FeatureSet::ALL, &mut snapshot);
        let again = again.expect("is sent, too");
        assert_eq!(again.segments(), 8);
        for index in 0..8 {
            assert_eq!(wire(&again, index), wire(&train, index));
        }
    }
    let plain = chain(abi::TxHeader::default(), &tcp4(&[]));
    assert_eq!(
        virtio_net_header(&parse_chain(&plain).expect("is sent")),
        [0; 12]
    );
}

proptest! {
    /// The boundaries between pieces of memory make no difference.
    #[test]
    fn frames_parse_the_same_in_pieces(length in 0usize..1500, split in 0usize..1600, v6: bool, partial: bool) {
        let payload = pattern(length);
        let frame = if v6 { udp6(&payload) } else { tcp4(&payload) };
        let headers = Headers::parse(&frame, frame.len());
        let l4 = headers.l4.expect("TCP or UDP");
        let mut header = abi::TxHeader::default();
        if partial {
            header.flags = abi::TX_CSUM.into();
            header.csum_start = (l4.offset as u16).into();
            header.csum_offset = (l4.protocol.checksum_offset() as u16).into();
        }
        let chain = chain(header, &frame);
        let pieces = Pieces(split.min(chain.len()));
        let snapshot = &mut Snapshot::default();
        let train = parse(&pieces, &chain, TransmitFormat::Zcnic, FeatureSet::ALL, snapshot);
        let train = train.expect("is sent");
        let whole = parse_chain(&chain).expect("is sent");
        prop_assert_eq!(train.headers(), whole.headers());
        prop_assert_eq!(train.checksum, whole.checksum);
        prop_assert_eq!(wire(&train, 0), wire(&whole, 0));
    }

    /// The segments' payloads add up to the stream, and every segment is a valid frame.
    #[test]
    fn tcp_segments_are_valid_frames_that_add_up(length in 1usize..4000, size in 1u16..2000) {
        prop_assume!(length <= MAX_SEGMENTS * usize::from(size));
        let payload = pattern(length);
        let frame = tcp4(&payload);
        let chain = chain(gso(&frame, GsoType::Tcp4, size), &frame);
        let train = parse_chain(&chain).expect("is sent");
        let mut stream = Vec::new();
        for index in 0..train.segments() {
            let bytes = wire(&train, index);
            let packet = SlicedPacket::from_ethernet(&bytes).expect("parses");
            let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) = (packet.net, packet.transport) else {
                panic!("not TCP over IPv4");
            };
            let ip = ip.header().to_header();
            prop_assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            prop_assert_eq!(ip.identification, index as u16);
            prop_assert_eq!(tcp.sequence_number() as usize, 7 + stream.len());
            let expected = tcp.to_header().calc_checksum_ipv4(&ip, tcp.payload()).expect("fits");
            // Of the two zeroes the one is sent that differs from UDP's "no checksum", as Linux
            // does.
            prop_assert_eq!(tcp.checksum(), if expected == 0 { 0xffff } else { expected });
            stream.extend_from_slice(tcp.payload());
        }
        prop_assert_eq!(stream, payload);
    }

    #[test]
    fn udp_segments_are_valid_frames_that_add_up(length in 1usize..4000, size in 1u16..2000) {
        let payload = pattern(length);
        let frame = udp6(&payload);
        let chain = chain(gso(&frame, GsoType::Udp, size), &frame);
        let train = parse_chain(&chain).expect("is sent");
        let mut stream = Vec::new();
        for index in 0..train.segments() {
            let bytes = wire(&train, index);
            let packet = SlicedPacket::from_ethernet(&bytes).expect("parses");
            let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Udp(udp))) = (packet.net, packet.transport) else {
                panic!("not UDP over IPv6");
            };
            prop_assert_eq!(usize::from(udp.length()), 8 + udp.payload().len());
            let ip = ip.header().to_header();
            let expected = udp.to_header().calc_checksum_ipv6(&ip, udp.payload()).expect("fits");
            prop_assert_eq!(udp.checksum(), expected);
            stream.extend_from_slice(udp.payload());
        }
        prop_assert_eq!(stream, payload);
    }

    /// Any chain is a train within the limits, or an error.
    #[test]
    fn no_chain_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), frame in 0usize..100) {
        let mut hostile = chain(gso(&tcp4(&pattern(frame)), GsoType::Tcp4, 7), &tcp4(&pattern(frame)));
        for (at, byte) in bytes.iter().enumerate().filter(|(at, _)| at % 9 == 0) {
            if let Some(place) = hostile.get_mut(at) {
                *place = *byte;
            }
        }
        for chain in [&bytes, &hostile] {
            for format in [TransmitFormat::Zcnic, TransmitFormat::VirtioNet] {
                let mut snapshot = Snapshot::default();
                let train =
                    parse(&VecMover, &chain[..], format, FeatureSet::ALL, &mut snapshot);
                if let Ok(train) = train {
                    for index in 0..train.segments() {
                        wire(&train, index);
                    }
                }
            }
        }
    }
}
