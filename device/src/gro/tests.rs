//! Segmenting an aggregate gives the original frames, and frames that must not be coalesced are
//! not.

use proptest::prelude::*;

use super::*;
use crate::{
    abi::{GsoType, TxHeader},
    testing::{VecMover, chain, parse_chain, pattern},
    train::{Segmentation, finish, finished},
};

/// Offsets of the fields that tests change in frames of [`tcp`].
const TTL: usize = 14 + 8;
const FLAGS_AT: usize = 14 + 20 + FLAGS;

/// The parts of a segment that tests vary.
#[derive(Clone, Copy)]
struct Of {
    sequence: u32,
    id: u16,
    flags: u8,
    options: bool,
}

const PLAIN: Of = Of {
    sequence: 0,
    id: 0,
    flags: 0,
    options: false,
};

/// An IPv4 TCP frame of one stream, with valid checksums.
fn tcp(of: Of, payload: &[u8]) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1])
        .ipv4([192, 0, 2, 2], [192, 0, 2, 1], 64)
        .tcp(1000, 2000, of.sequence, 512)
        .ack(9);
    let builder = if of.options {
        let options = [
            etherparse::TcpOptionElement::Noop,
            etherparse::TcpOptionElement::Noop,
            etherparse::TcpOptionElement::Timestamp(7, 8),
        ];
        builder.options(&options).expect("they fit")
    } else {
        builder
    };
    let mut frame = Vec::new();
    builder
        .write(&mut frame, payload)
        .expect("a vector takes everything");
    frame[18..20].copy_from_slice(&of.id.to_be_bytes());
    frame[FLAGS_AT] |= of.flags;
    repair(&mut frame);
    frame
}

/// Puts valid checksums into an IPv4 TCP frame.
fn repair(frame: &mut [u8]) {
    let headers = Headers::parse(&frame[..frame.len().min(SNAPSHOT)], frame.len());
    let l4 = headers.l4.expect("TCP");
    frame[24..26].fill(0);
    let mut sum = Checksum::new();
    sum.add(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.finish().to_be_bytes());
    frame[l4.offset + CHECKSUM..][..2].fill(0);
    let mut sum = headers
        .pseudo_header(frame, l4.payload_end - l4.offset)
        .expect("TCP");
    sum.add(&frame[l4.offset..l4.payload_end]);
    frame[l4.offset + CHECKSUM..][..2].copy_from_slice(&sum.finish().to_be_bytes());
}

/// The frame in a tunnel.
fn in_tunnel(frame: &[u8], id: u16) -> Vec<u8> {
    let mut outer = frame[14..34].to_vec();
    let length = (frame.len() - 14 + 20) as u16;
    outer[2..4].copy_from_slice(&length.to_be_bytes());
    outer[4..6].copy_from_slice(&id.to_be_bytes());
    outer[9] = 4;
    outer[10..12].fill(0);
    let mut sum = Checksum::new();
    sum.add(&outer);
    outer[10..12].copy_from_slice(&sum.finish().to_be_bytes());
    [&frame[..14], &outer, &frame[14..]].concat()
}

/// Coalesces all frames if the rules allow it.
fn coalesce_all(frames: &[Vec<u8>]) -> Option<Coalesced> {
    let mut coalesced = Coalesced::new(TcpSegment::new(&frames[0])?, Vec::new());
    for frame in &frames[1..] {
        if !coalesced.merge(&TcpSegment::new(frame)?, usize::MAX) {
            return None;
        }
    }
    coalesced.seal();
    Some(coalesced)
}

fn coalesces(frames: &[Vec<u8>]) -> bool {
    coalesce_all(frames).is_some()
}

/// The wire frames that a sender with segmentation offload makes of the aggregate.
fn segmented(coalesced: &Coalesced) -> Vec<Vec<u8>> {
    let whole = coalesced.train();
    let aggregate = whole.aggregate.expect("an aggregate");
    let mut frame = finish(&VecMover, &whole, 0);
    let headers = *whole.headers();
    let l4 = headers.l4.expect("TCP");
    // The stack hands over a partial checksum: the pseudo-header sum.
    let pseudo_header_sum = headers
        .pseudo_header(&frame, frame.len() - l4.offset)
        .expect("TCP")
        .fold();
    put16(&mut frame, l4.offset + CHECKSUM, pseudo_header_sum.into());
    let header = TxHeader {
        flags: abi::TX_CSUM.into(),
        gso_type: match aggregate.version {
            IpVersion::V4 => GsoType::Tcp4,
            IpVersion::V6 => GsoType::Tcp6,
        }
        .into(),
        header_length: (l4.payload_offset as u16).into(),
        csum_start: (l4.offset as u16).into(),
        csum_offset: (CHECKSUM as u16).into(),
        gso_size: aggregate.size.into(),
        l3_offset: aggregate.l3_offset.into(),
        ..TxHeader::default()
    };
    let chain = chain(header, &frame);
    let train = parse_chain(&chain).expect("can be segmented");
    assert_eq!(train.segments(), usize::from(aggregate.count));
    (0..train.segments())
        .map(|index| finish(&VecMover, &train, index))
        .collect()
}

/// Segments of a stream: payloads of these lengths one after the other.
fn stream(lengths: &[usize], id: impl Fn(usize) -> u16, last_flags: u8) -> Vec<Vec<u8>> {
    let bytes = pattern(lengths.iter().sum());
    let mut at = 0;
    let frames = lengths.iter().enumerate().map(|(index, &length)| {
        let of = Of {
            sequence: 7 + at as u32,
            id: id(index),
            flags: if index + 1 == lengths.len() {
                last_flags
            } else {
                0
            },
            ..PLAIN
        };
        let frame = tcp(of, &bytes[at..at + length]);
        at += length;
        frame
    });
    frames.collect()
}

/// Two segments that may be coalesced, the second one changed.
fn changed(change: impl Fn(&mut Vec<u8>)) -> [Vec<u8>; 2] {
    let mut frames = stream(&[100, 100], |_| 0, 0);
    change(&mut frames[1]);
    let second = frames.pop().expect("two");
    [frames.pop().expect("two"), second]
}

#[test]
fn segments_coalesce_until_one_is_shorter_or_pushed() {
    assert!(coalesces(&stream(&[100, 100, 100, 40], |n| n as u16, PSH)));
    assert!(coalesces(&stream(&[100, 1], |_| 3, 0)));
    assert!(
        !coalesces(&stream(&[50, 100], |_| 0, 0)),
        "longer than the first"
    );
    assert!(
        !coalesces(&stream(&[100, 40, 40], |_| 0, 0)),
        "behind a shorter one"
    );
    let mut frames = stream(&[100, 100], |_| 0, PSH);
    frames.extend(stream(&[100, 100, 100], |_| 0, 0).pop());
    assert!(!coalesces(&frames), "behind a push");
}

#[test]
fn the_order_of_sequence_numbers_and_identifications_counts() {
    let mut frames = stream(&[100, 100, 100], |_| 0, 0);
    frames.swap(1, 2);
    assert!(!coalesces(&frames));
    let ids = |ids: [u16; 3]| coalesces(&stream(&[10; 3], |n| ids[n], 0));
    assert!(ids([8, 9, 10]) && ids([0xffff, 0, 1]) && ids([8, 8, 8]));
    assert!(!ids([8, 9, 9]) && !ids([8, 8, 9]) && !ids([8, 10, 11]) && !ids([8, 7, 6]));
}

#[test]
fn every_other_header_field_must_be_the_same() {
    assert!(coalesces(&changed(|_| {})));
    for at in (0..14)
        .chain([15, TTL])
        .chain(26..38)
        .chain(42..46)
        .chain([48, 49, 52, 53])
    {
        let frames = changed(|frame| {
            frame[at] ^= 1;
            if at > 14 {
                repair(frame);
            }
        });
        assert!(!coalesces(&frames), "byte {at}");
    }
    let other = tcp(
        Of {
            options: true,
            sequence: 107,
            ..PLAIN
        },
        &[1; 100],
    );
    assert!(!coalesces(&changed(|frame| *frame = other.clone())));
    let flags = |first: u8, second: u8| {
        let with = |sequence, flags| {
            let of = Of {
                sequence,
                flags,
                ..PLAIN
            };
            tcp(of, &[1; 100])
        };
        coalesces(&[with(7, first), with(107, second)])
    };
    assert!(flags(0, FIN) && flags(0, PSH) && flags(CWR, CWR));
    assert!(!flags(0, CWR) && !flags(CWR, 0) && !flags(PSH, 0) && !flags(0x40, 0));
}

#[test]
fn some_frames_are_never_coalesced() {
    let alone = |frame: &[u8]| TcpSegment::new(frame).is_none();
    assert!(!alone(&tcp(PLAIN, &[1])));
    assert!(alone(&tcp(PLAIN, &[])), "no payload");
    for flags in [SYN, RST, URG] {
        assert!(alone(&tcp(Of { flags, ..PLAIN }, &[1])), "flags {flags:#x}");
    }
    let broken = |at: usize| {
        let mut frame = tcp(PLAIN, &[1; 10]);
        frame[at] ^= 1;
        frame
    };
    assert!(alone(&broken(25)), "IP checksum");
    assert!(alone(&broken(50)), "TCP checksum");
    assert!(alone(&broken(60)), "payload");
    let mut fragment = tcp(PLAIN, &[1; 10]);
    fragment[20] |= 0x20;
    fragment[24..26].fill(0);
    let mut sum = Checksum::new();
    sum.add(&fragment[14..34]);
    fragment[24..26].copy_from_slice(&sum.finish().to_be_bytes());
    assert!(alone(&fragment));
    let train = finished(&fragment);
    assert_eq!(
        classify(train.headers(), train.header_bytes()),
        Class::Unknown
    );
}

#[test]
fn padding_is_left_out() {
    let mut frames = stream(&[3, 3, 2], |_| 0, 0);
    let plain = coalesce_all(&frames).expect("coalesced").frame;
    for frame in &mut frames {
        frame.resize(60, 0);
    }
    let coalesced = coalesce_all(&frames).expect("coalesced");
    assert_eq!(
        (coalesced.frame.clone(), coalesced.wire_bytes()),
        (plain, 180)
    );
}

#[test]
fn an_ip_packet_has_64_kib_at_most() {
    let frames = stream(&[1000; 66], |_| 0, 0);
    let mut coalesced = Coalesced::new(TcpSegment::new(&frames[0]).expect("first"), Vec::new());
    let fit = frames[1..].iter().take_while(|frame| {
        coalesced.merge(&TcpSegment::new(frame).expect("a segment"), usize::MAX)
    });
    assert_eq!(1 + fit.count(), (0xffff - 40) / 1000);
    let mut limited = Coalesced::new(TcpSegment::new(&frames[0]).expect("first"), Vec::new());
    let second = TcpSegment::new(&frames[1]).expect("second");
    assert!(!limited.merge(&second, 2053) && limited.merge(&second, 2054));
}

#[test]
fn tunnels_are_coalesced_by_their_inner_headers() {
    let inner = stream(&[100, 100, 30], |n| n as u16, PSH);
    let frames: Vec<_> = inner.iter().map(|frame| in_tunnel(frame, 5)).collect();
    let coalesced = coalesce_all(&frames).expect("coalesced");
    let train = coalesced.train();
    let aggregate = train.aggregate.expect("an aggregate");
    assert_eq!(aggregate.flags, abi::RX_FIXED_ID);
    assert_eq!((aggregate.l3_offset, aggregate.l4_offset), (34, 54));
    let frame = finish(&VecMover, &train, 0);
    let whole = TcpSegment::new(&frame).expect("right checksums and lengths everywhere");
    assert_eq!(whole.payload(), pattern(230));
    let other: Vec<_> = (0..)
        .zip(&inner)
        .map(|(id, frame)| in_tunnel(frame, id * id))
        .collect();
    assert!(!coalesces(&other));
}

proptest! {
    /// Segmenting the aggregate gives the wire frames.
    #[test]
    fn a_segmented_aggregate_is_its_frames(
        size in 1usize..400,
        count in 1usize..40,
        last in 1usize..400,
        id: u16,
        last_flags in prop::sample::select(vec![0, PSH, FIN, FIN | PSH]),
    ) {
        let mut lengths = vec![size; count];
        lengths.push(last.min(size));
        let frames = stream(&lengths, |n| id.wrapping_add(n as u16), last_flags);
        let coalesced = coalesce_all(&frames).expect("coalesced");
        prop_assert_eq!(segmented(&coalesced), frames);
    }

    /// Coalescing the segments of a train in place gives the same as one by one.
    #[test]
    fn in_place_and_one_by_one_are_the_same(
        size in 1usize..400,
        count in 1usize..40,
        last in 1usize..400,
        limit in 60usize..20_000,
    ) {
        let mut lengths = vec![size; count];
        lengths.push(last.min(size));
        let frames = stream(&lengths, |n| n as u16, PSH);
        let whole = coalesce_all(&frames).expect("coalesced");
        let mut train = whole.train();
        // As from a sender.
        train.aggregate = None;
        train.segmentation = Segmentation::new(train.headers(), train.header_bytes(), size);
        let mut at = 0;
        while at < frames.len() {
            let Some(run) = run(&train, at, limit) else {
                prop_assert!(limit < 54 + size, "{at} of {}", frames.len());
                return Ok(());
            };
            let mut buffer = [0; SNAPSHOT];
            let direct = coalesced(&train, at, run, &mut buffer).expect("a run");
            let expected = coalesce_all(&frames[at..at + run]).expect("coalesced");
            let expected_train = expected.train();
            prop_assert_eq!(direct.aggregate, expected_train.aggregate);
            prop_assert_eq!(
                finish(&VecMover, &direct, 0),
                finish(&VecMover, &expected_train, 0)
            );
            at += run;
            // It is as long as fits.
            prop_assert!(at == frames.len() || direct.length + size > limit);
        }
    }
}
