//! Where frames are split: every shape of headers that is parsed, with every room for headers.

use zcnic_device::frame::{Headers, L4Protocol};

const NEXT_FRAGMENT: u8 = 44;

/// A frame, and where its L2, L3 and L4 headers end; the last two only where there are any.
struct Shape {
    frame: Vec<u8>,
    ends: Vec<usize>,
    protocol: Option<L4Protocol>,
}

/// Ethernet with this many VLAN tags.
fn ethernet(tags: usize, ether_type: u16) -> Vec<u8> {
    let mut frame = vec![2; 12];
    for tag in 0..tags as u16 {
        frame.extend([0x8100, tag].map(u16::to_be_bytes).concat());
    }
    frame.extend(ether_type.to_be_bytes());
    frame
}

/// TCP headers of every length, a UDP header, and a protocol that is not parsed.
fn transports() -> Vec<(u8, Vec<u8>, Option<L4Protocol>)> {
    let tcp = |words: u8| {
        let mut header = vec![0; 4 * usize::from(words)];
        header[12] = words << 4;
        (6, header, Some(L4Protocol::Tcp))
    };
    let mut all: Vec<_> = (5..=15).map(tcp).collect();
    all.push((
        17,
        vec![0, 1, 0, 2, 0, 8 + PAYLOAD as u8, 0, 0],
        Some(L4Protocol::Udp),
    ));
    all.push((99, Vec::new(), None));
    all
}

/// Bytes behind all headers.
const PAYLOAD: usize = 30;

fn ipv4(
    tags: usize,
    words: u8,
    fragment: bool,
    transport: &(u8, Vec<u8>, Option<L4Protocol>),
) -> Shape {
    let (number, l4, protocol) = transport;
    let mut frame = ethernet(tags, 0x0800);
    let l2 = frame.len();
    let length = 4 * usize::from(words) + l4.len() + PAYLOAD;
    frame.push(0x40 | words);
    frame.push(0);
    frame.extend((length as u16).to_be_bytes());
    frame.extend([
        0,
        1,
        if fragment { 0x20 } else { 0x40 },
        0,
        64,
        *number,
        0,
        0,
    ]);
    frame.resize(l2 + 4 * usize::from(words), 1);
    finish(frame, vec![l2], l4, protocol.filter(|_| !fragment))
}

fn ipv6(
    tags: usize,
    extensions: &[(u8, u8)],
    transport: &(u8, Vec<u8>, Option<L4Protocol>),
) -> Shape {
    let (number, l4, protocol) = transport;
    let mut frame = ethernet(tags, 0x86dd);
    let l2 = frame.len();
    let mut chain = Vec::new();
    for (index, (_, units)) in extensions.iter().enumerate() {
        let next = extensions.get(index + 1).map_or(*number, |(next, _)| *next);
        // More fragments, in a fragment header.
        let fragment = u8::from(extensions[index].0 == NEXT_FRAGMENT);
        let mut header = vec![next, *units, 0, fragment];
        header.resize(8 + 8 * usize::from(*units), 0);
        chain.extend(header);
    }
    let fragment = extensions.iter().any(|(kind, _)| *kind == NEXT_FRAGMENT);
    let length = chain.len() + l4.len() + PAYLOAD;
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((length as u16).to_be_bytes());
    frame.extend([extensions.first().map_or(*number, |(kind, _)| *kind), 64]);
    frame.extend([3; 32]);
    frame.extend(chain);
    finish(frame, vec![l2], l4, protocol.filter(|_| !fragment))
}

/// Adds the transport header and the payload behind an IP header that is complete.
fn finish(
    mut frame: Vec<u8>,
    mut ends: Vec<usize>,
    l4: &[u8],
    protocol: Option<L4Protocol>,
) -> Shape {
    ends.push(frame.len());
    frame.extend(l4);
    if protocol.is_some() {
        ends.push(frame.len());
    }
    frame.extend([0x5a; PAYLOAD]);
    Shape {
        frame,
        ends,
        protocol,
    }
}

/// Every combination of tags, IP headers and transport headers.
fn shapes() -> Vec<Shape> {
    let chains: [&[(u8, u8)]; 6] = [
        &[],
        &[(0, 0)],
        &[(60, 3)],
        &[(0, 1), (60, 0)],
        &[(43, 2), (60, 1)],
        &[(0, 0), (NEXT_FRAGMENT, 0)],
    ];
    let mut shapes = Vec::new();
    for tags in 0..=2 {
        for transport in transports() {
            for words in 5..=15 {
                shapes.push(ipv4(tags, words, false, &transport));
                shapes.push(ipv4(tags, words, true, &transport));
            }
            shapes.extend(chains.map(|chain| ipv6(tags, chain, &transport)));
        }
        let mut frame = ethernet(tags, 0x88b5);
        let ends = vec![frame.len()];
        frame.extend([0x5a; PAYLOAD]);
        shapes.push(Shape {
            frame,
            ends,
            protocol: None,
        });
    }
    shapes
}

#[test]
fn a_split_is_at_the_last_end_of_a_header_that_fits() {
    let shapes = shapes();
    assert_eq!(shapes.len(), 3 * (13 * (22 + 6) + 1));
    for Shape {
        frame,
        ends,
        protocol,
    } in &shapes
    {
        let headers = Headers::parse(frame, frame.len());
        assert_eq!(headers.l4.map(|l4| l4.protocol), *protocol, "{frame:x?}");
        assert_eq!(headers.payload_offset(), ends[ends.len() - 1], "{frame:x?}");
        for room in 0..=frame.len() {
            let fitting = ends.iter().rev().find(|end| **end <= room);
            let expected = fitting.copied().unwrap_or(room);
            assert_eq!(
                headers.split_point(room),
                expected,
                "{room} bytes of room: {frame:x?}"
            );
        }
    }
}

#[test]
fn a_truncated_frame_is_split_within_its_bytes() {
    for Shape { frame, ends, .. } in &shapes() {
        for length in 0..=frame.len() {
            let headers = Headers::parse(&frame[..length], length);
            let at = headers.split_point(usize::MAX);
            assert!(
                at <= length.min(ends[ends.len() - 1]),
                "split at {at} of {length} bytes"
            );
        }
    }
}
