//! TCP and UDP segmentation: the wire frames of one chain (docs/abi.md, "Transmit").

use etherparse::{SlicedPacket, TcpSlice, TransportSlice};

use super::up;
use crate::{
    driver::{Driver, Transport},
    frames::{Flow, pattern},
    receive::{Received, Shape},
    transmit::Packet,
    verify,
};

/// Payload, sequence numbers, identifications, lengths and checksums of every segment.
pub fn tcp_is_segmented_exactly<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 100);
    for flow in [Flow::tcp4(), Flow::tcp6(), Flow::tcp4().in_vlan(5)] {
        for (payload, size) in [
            (1, 1),
            (1000, 1000),
            (1001, 1000),
            (20_000, 1448),
            (60_000, 8960),
        ] {
            let flow = flow
                .clone()
                .tcp_header(|tcp| tcp.sequence_number = u32::MAX - 3000);
            assert_segmented(&mut sender, &mut receiver, &flow, payload, size);
        }
    }
}

/// UDP segments differ in lengths and checksums only.
pub fn udp_is_segmented_exactly<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 100);
    for flow in [Flow::udp4(), Flow::udp6()] {
        for (payload, size) in [(7, 3), (1200, 1200), (30_001, 1200)] {
            assert_segmented(&mut sender, &mut receiver, &flow, payload, size);
        }
    }
}

/// FIN and PSH on the last, CWR on the first (as Linux's `tcp_gso_segment()`), all others on all.
pub fn tcp_flags_go_to_the_right_segments<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 16);
    let flow = Flow::tcp4().tcp_header(|tcp| {
        (tcp.fin, tcp.psh, tcp.cwr, tcp.ece, tcp.urg) = (true, true, true, true, true);
    });
    sender.send(0, Packet::from(flow.frame(&pattern(300))).segmented(100));
    let segments = receiver.receive_all();
    let flags = segments.iter().map(|(_, segment)| {
        let tcp = tcp(&segment.frame);
        assert!(tcp.ece() && tcp.urg() && tcp.ack());
        (tcp.cwr(), tcp.psh(), tcp.fin())
    });
    let expected = [
        (true, false, false),
        (false, false, false),
        (false, true, true),
    ];
    assert_eq!(flags.collect::<Vec<_>>(), expected);
}

/// A train with too few buffers loses its end, and no segment before.
pub fn segments_fill_the_available_buffers<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 3);
    let payload = pattern(5000);
    sender.send(
        0,
        Packet::from(Flow::tcp4().frame(&payload)).segmented(1000),
    );
    let frames = receiver.receive_all();
    let payloads: Vec<u8> = frames
        .iter()
        .flat_map(|(_, got)| verify::l4_payload(&got.frame).to_vec())
        .collect();
    assert_eq!(payloads, payload[..3000]);
    assert_eq!(receiver.stats().1[0].rx_no_buffer.get(), 2);
}

/// Sends one segmented packet of `flow` and checks the segments that arrive against it.
pub fn assert_segmented<T: Transport>(
    sender: &mut Driver<T>,
    receiver: &mut Driver<T>,
    flow: &Flow,
    payload: usize,
    size: u16,
) {
    let payload = pattern(payload);
    let whole = flow.frame(&payload);
    receiver.post(0, Shape::SPLIT, 300 - receiver.posted(0));
    sender.send(
        0,
        Packet::from(&whole).segmented(size).scattered(&[200, 3000]),
    );
    let segments: Vec<Received> = receiver
        .receive_all()
        .into_iter()
        .map(|(_, got)| got)
        .collect();
    let pieces: Vec<&[u8]> = payload.chunks(usize::from(size)).collect();
    assert_eq!(segments.len(), pieces.len());
    for (number, (segment, piece)) in segments.iter().zip(pieces).enumerate() {
        // A segment is the frame that the flow would have sent by itself, except for counting
        // fields.
        let mut expected = flow.frame(piece);
        let parts = verify::dissect(&expected);
        let ((l3, _), l4) = (parts.l3.expect("IP"), parts.l4.expect("TCP or UDP"));
        if expected[l3] >> 4 == 4 {
            let id = u16::from_be_bytes([expected[l3 + 4], expected[l3 + 5]]);
            let id = id.wrapping_add(number as u16);
            expected[l3 + 4..l3 + 6].copy_from_slice(&id.to_be_bytes());
            let sum = l3 + 10..l3 + 12;
            assert!(
                verify::ip_checksum_is_right(&segment.frame),
                "IP checksum of segment {number}"
            );
            expected[sum.clone()].copy_from_slice(&segment.frame[sum]);
        }
        if l4.checksum == 16 {
            let sequence = tcp(&whole).sequence_number();
            let sequence = sequence.wrapping_add(number as u32 * u32::from(size));
            expected[l4.start + 4..l4.start + 8].copy_from_slice(&sequence.to_be_bytes());
        }
        assert_eq!(
            verify::l4_checksum_is_right(&segment.frame),
            Some(true),
            "segment {number}"
        );
        assert_eq!(
            segment.checksum(),
            Some(true),
            "verdict on segment {number}"
        );
        let sum = l4.start + l4.checksum..l4.start + l4.checksum + 2;
        expected[sum.clone()].copy_from_slice(&segment.frame[sum]);
        assert!(
            segment.frame == expected,
            "segment {number} of {} is not exact",
            segments.len()
        );
    }
}

fn tcp(frame: &[u8]) -> TcpSlice<'_> {
    match SlicedPacket::from_ethernet(frame).map(|packet| packet.transport) {
        Ok(Some(TransportSlice::Tcp(tcp))) => tcp,
        _ => panic!("not TCP"),
    }
}
