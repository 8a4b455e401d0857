use zerocopy::FromBytes;

use super::*;
use crate::{
    abi::{self, GsoType, HashType},
    features::FeatureSet,
    frame::Headers,
    testing::{NOTE, SPLIT, VecMover, VecRing, chain, parse_chain, pattern, tcp4, udp6},
    train::Train,
};

fn queue(layout: Layout) -> ReceiveQueue {
    let mut queue = ReceiveQueue::default();
    queue.start(layout, MAX_CHAINS);
    queue
}

fn train(chain: &[u8]) -> Train<'_, [u8]> {
    parse_chain(chain).expect("is sent")
}

/// Delivers a finished frame.
fn deliver(queue: &mut ReceiveQueue, ring: &mut VecRing, frame: &[u8]) -> Delivered {
    let chain = chain(abi::TxHeader::default(), frame);
    queue.deliver(&VecMover, ring, &train(&chain), 0, &NOTE)
}

/// Receive header, bytes behind it in descriptor 0, bytes in descriptor 1, checked against the used
/// length.
fn read(used: &(u32, Vec<Vec<u8>>)) -> (RxHeader, &[u8], &[u8]) {
    let (length, descriptors) = used;
    let (header, rest) = RxHeader::read_from_prefix(&descriptors[0]).expect("64 bytes");
    let header_length = header.header_length.get() as usize;
    let payload_length = header.payload_length.get() as usize;
    assert_eq!(*length as usize, RX_HEADER + header_length + payload_length);
    let payload = descriptors
        .get(1)
        .map_or(&[][..], |page| &page[..payload_length]);
    (header, &rest[..header_length], payload)
}

fn flags(header: RxHeader) -> u16 {
    header.flags.get()
}

#[test]
fn a_linear_chain_holds_header_and_frame() {
    let (mut queue, mut ring) = (queue(Layout::Linear { size: 2048 }), VecRing::default());
    ring.post(2, &[2048]);
    let frame = tcp4(&pattern(100));
    let delivered = deliver(&mut queue, &mut ring, &frame);
    assert_eq!((delivered.frames, delivered.unsplit), (1, 1));
    let (header, bytes, _) = read(&ring.used[0]);
    assert_eq!(bytes, frame);
    assert_eq!(
        flags(header),
        abi::RX_FIRST | abi::RX_LAST | abi::RX_CSUM_GOOD | abi::RX_TIMESTAMP
    );
    assert_eq!((header.queue.get(), header.frame_length.get()), (3, 154));
    assert_eq!(header.timestamp_ns.get(), NOTE.time);
    assert_eq!(ring.posted.len(), 1);
}

#[test]
fn a_split_chain_keeps_headers_and_even_one_byte_of_payload_apart() {
    let (mut queue, mut ring) = (queue(SPLIT), VecRing::default());
    ring.post(1, &[256, 4096]);
    let frame = tcp4(&[42]);
    assert_eq!(deliver(&mut queue, &mut ring, &frame).split, 1);
    let (header, headers, payload) = read(&ring.used[0]);
    assert_eq!((headers, payload), (&frame[..54], &[42][..]));
    assert_ne!(flags(header) & abi::RX_SPLIT, 0);
    assert!(ring.used[0].1[1][1..].iter().all(|byte| *byte == 0xee));
}

#[test]
fn a_frame_without_payload_is_neither_split_nor_unsplit() {
    let (mut queue, mut ring) = (queue(SPLIT), VecRing::default());
    ring.post(1, &[256, 4096]);
    let delivered = deliver(&mut queue, &mut ring, &tcp4(&[]));
    assert_eq!(
        (delivered.frames, delivered.split, delivered.unsplit),
        (1, 0, 0)
    );
    assert_eq!(flags(read(&ring.used[0]).0) & abi::RX_SPLIT, 0);
}

#[test]
fn frames_up_to_the_threshold_stay_whole_in_descriptor_0() {
    let layout = Layout::Split {
        header_size: 256,
        page_size: 4096,
        threshold: 100,
        l4_only: true,
    };
    let (mut queue, mut ring) = (queue(layout), VecRing::default());
    ring.post(2, &[256, 4096]);
    deliver(&mut queue, &mut ring, &tcp4(&pattern(100 - 54)));
    deliver(&mut queue, &mut ring, &tcp4(&pattern(101 - 54)));
    let (at, above) = (read(&ring.used[0]), read(&ring.used[1]));
    assert_eq!((at.1.len(), at.2.len()), (100, 0));
    assert_eq!((above.1.len(), above.2.len()), (54, 47));
}

#[test]
fn payload_goes_on_in_the_pages_of_follow_on_chains_that_appear_together() {
    let (mut queue, mut ring) = (queue(SPLIT), VecRing::default());
    ring.post(3, &[256, 4096]);
    let payload = pattern(9000);
    let frame = tcp4(&payload);
    assert_eq!(deliver(&mut queue, &mut ring, &frame).frames, 1);
    assert_eq!(ring.commits, [3]);
    let chains: Vec<_> = ring.used.iter().map(read).collect();
    let ends = [abi::RX_FIRST, 0, abi::RX_LAST];
    let mut payloads = Vec::new();
    for (number, (header, headers, page)) in chains.iter().enumerate() {
        assert_eq!(
            flags(*header) & (abi::RX_FIRST | abi::RX_LAST),
            ends[number]
        );
        assert_eq!(
            (header.chain.get() as usize, header.frame_id.get()),
            (number, 0)
        );
        assert_eq!(headers.is_empty(), number > 0);
        payloads.extend_from_slice(page);
    }
    assert_eq!(payloads, payload);
}

#[test]
fn headers_that_do_not_fit_the_fragment_are_split_at_the_last_boundary_that_does() {
    let layout = Layout::Split {
        header_size: 64 + 40,
        page_size: 4096,
        threshold: 0,
        l4_only: false,
    };
    let (mut queue, mut ring) = (queue(layout), VecRing::default());
    ring.post(1, &[104, 4096]);
    let frame = tcp4(&pattern(10));
    deliver(&mut queue, &mut ring, &frame);
    let (_, headers, payload) = read(&ring.used[0]);
    assert_eq!((headers, payload), (&frame[..34], &frame[34..]));
}

#[test]
fn a_frame_that_is_not_split_stays_out_of_payload_buffers() {
    let (mut queue, mut ring) = (queue(SPLIT), VecRing::default());
    ring.post(4, &[256, 4096]);
    let mut frame = tcp4(&pattern(500));
    frame[23] = 1;
    assert_eq!(deliver(&mut queue, &mut ring, &frame).unsplit, 1);
    let mut bytes = Vec::new();
    for used in &ring.used {
        let (header, headers, payload) = read(used);
        assert_eq!(flags(header) & abi::RX_SPLIT, 0);
        assert!(payload.is_empty());
        bytes.extend_from_slice(headers);
    }
    assert_eq!((bytes, ring.used.len()), (frame, 3));
    assert_eq!(queue.counters().unsplit, 1);
}

#[test]
fn too_few_buffers_take_none() {
    let (mut queue, mut ring) = (queue(SPLIT), VecRing::default());
    ring.post(2, &[256, 4096]);
    let frame = tcp4(&pattern(9000));
    let delivered = deliver(&mut queue, &mut ring, &frame);
    assert_eq!((delivered.blocked_at, delivered.frames), (Some(0), 0));
    assert_eq!((ring.used.len(), ring.posted.len()), (0, 2));
    let chain = chain(abi::TxHeader::default(), &frame);
    assert_eq!(queue.drop_blocked(&train(&chain), 0), 1);
    assert_eq!(queue.counters().no_buffer, 1);
    assert_eq!(
        deliver(&mut queue, &mut ring, &tcp4(&pattern(4000))).frames,
        1
    );
}

#[test]
fn chains_of_the_wrong_shape_are_returned_unused_and_block_nothing() {
    let (mut queue, mut ring) = (queue(SPLIT), VecRing::default());
    ring.post(1, &[256]);
    ring.post(1, &[256, 4096]);
    ring.post(1, &[256, 2048]);
    ring.post(1, &[]);
    ring.post(1, &[256, 4096]);
    let payload = pattern(5000);
    assert_eq!(deliver(&mut queue, &mut ring, &tcp4(&payload)).frames, 1);
    let lengths: Vec<u32> = ring.used.iter().map(|used| used.0).collect();
    assert_eq!(lengths, [0, 64 + 54 + 4096, 0, 0, 64 + 904]);
    assert_eq!(queue.counters().bad_chain, 3);
    let last = read(&ring.used[4]).0;
    assert_eq!(
        (last.chain.get(), flags(last) & abi::RX_LAST),
        (1, abi::RX_LAST)
    );
}

#[test]
fn a_stopped_queue_drops_and_counts_every_segment() {
    let (mut queue, mut ring) = (ReceiveQueue::default(), VecRing::default());
    ring.post(1, &[256, 4096]);
    let delivered = deliver(&mut queue, &mut ring, &tcp4(&pattern(10)));
    assert_eq!((delivered.dropped, queue.counters().stopped), (1, 1));
    assert_eq!(ring.posted.len(), 1);
}

#[test]
fn a_frame_that_needs_too_many_chains_is_dropped() {
    let layout = Layout::Split {
        header_size: 256,
        page_size: 128,
        threshold: 0,
        l4_only: true,
    };
    let (mut queue, mut ring) = (queue(layout), VecRing::default());
    ring.post(100, &[256, 128]);
    let delivered = deliver(&mut queue, &mut ring, &tcp4(&pattern(9000)));
    assert_eq!((delivered.dropped, queue.counters().too_long), (1, 1));
    assert_eq!(ring.posted.len(), 100);
}

#[test]
fn wrong_checksums_are_delivered_and_marked() {
    let (mut queue, mut ring) = (queue(SPLIT), VecRing::default());
    ring.post(2, &[256, 4096]);
    for frame in [tcp4(&pattern(100)), udp6(&pattern(101))] {
        let mut wrong = frame.clone();
        *wrong.last_mut().expect("has payload") ^= 1;
        deliver(&mut queue, &mut ring, &wrong);
        let used = ring.used.last().expect("was delivered");
        let (header, headers, payload) = read(used);
        assert_eq!([headers, payload].concat(), wrong);
        assert_eq!(
            flags(header) & (abi::RX_CSUM_GOOD | abi::RX_CSUM_BAD),
            abi::RX_CSUM_BAD
        );
    }
    assert_eq!(queue.counters().csum_bad, 2);
}

#[test]
fn padding_behind_the_packet_is_delivered_but_not_summed() {
    let (mut queue, mut ring) = (queue(SPLIT), VecRing::default());
    ring.post(1, &[256, 4096]);
    let frame = [tcp4(&[7]), vec![0xa5; 5]].concat();
    deliver(&mut queue, &mut ring, &frame);
    let (header, headers, payload) = read(&ring.used[0]);
    assert_eq!([headers, payload].concat(), frame);
    assert_ne!(flags(header) & abi::RX_CSUM_GOOD, 0);
}

#[test]
fn udp_without_a_checksum_gets_no_verdict() {
    let (mut queue, mut ring) = (queue(SPLIT), VecRing::default());
    ring.post(1, &[256, 4096]);
    let mut frame = udp6(&pattern(10));
    frame[14 + 40 + 6..14 + 40 + 8].fill(0);
    deliver(&mut queue, &mut ring, &frame);
    let verdicts = abi::RX_CSUM_GOOD | abi::RX_CSUM_BAD;
    assert_eq!(flags(read(&ring.used[0]).0) & verdicts, 0);
}

/// A UDP frame whose checksum is 0, with a partial checksum.
fn udp6_that_sums_to_zero() -> (Vec<u8>, abi::TxHeader) {
    let mut frame = udp6(&[0, 0]);
    let field = 14 + 40 + 6;
    // The checksum over a payload of zeroes, as payload, makes the sum all ones.
    let checksum: [u8; 2] = frame[field..field + 2].try_into().expect("two bytes");
    frame[field + 2..].copy_from_slice(&checksum);
    let headers = Headers::parse(&frame, frame.len());
    let pseudo = headers.pseudo_header(&frame, 10).expect("is UDP").fold();
    frame[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
    let header = abi::TxHeader {
        flags: abi::TX_CSUM.into(),
        csum_start: 54.into(),
        csum_offset: 6.into(),
        ..Default::default()
    };
    (frame, header)
}

#[test]
fn a_udp_checksum_of_zero_goes_out_as_all_ones() {
    let (mut queue, mut ring) = (queue(SPLIT), VecRing::default());
    ring.post(1, &[256, 4096]);
    let (frame, header) = udp6_that_sums_to_zero();
    let chain = chain(header, &frame);
    queue.deliver(&VecMover, &mut ring, &train(&chain), 0, &NOTE);
    let (header, headers, _) = read(&ring.used[0]);
    assert_eq!(&headers[60..62], [0xff, 0xff]);
    assert_ne!(flags(header) & abi::RX_CSUM_GOOD, 0);
}

/// Sends a TCP frame with 100 bytes of payload and some padding, its checksum field set to
/// `partial` of the pseudo-header sum, for insertion at `[start, field]`. Returns whether the
/// verdict is good and whether the checksum is valid.
fn completed(
    partial: impl Fn(u16) -> u16,
    [start, field]: [u16; 2],
    padding: &[u8],
) -> (bool, bool) {
    let (mut queue, mut ring) = (queue(SPLIT), VecRing::default());
    ring.post(1, &[256, 4096]);
    let mut frame = tcp4(&pattern(100));
    let length = frame.len() - 34;
    let headers = Headers::parse(&frame, frame.len());
    let pseudo = headers.pseudo_header(&frame, length).expect("is TCP");
    frame[50..52].copy_from_slice(&partial(pseudo.fold()).to_be_bytes());
    frame.extend(padding);
    let header = abi::TxHeader {
        flags: abi::TX_CSUM.into(),
        csum_start: start.into(),
        csum_offset: (field - start).into(),
        ..Default::default()
    };
    queue.deliver(
        &VecMover,
        &mut ring,
        &train(&chain(header, &frame)),
        0,
        &NOTE,
    );
    let (header, headers, payload) = read(&ring.used[0]);
    let bytes = [headers, payload].concat();
    let mut sum = Headers::parse(&bytes, bytes.len())
        .pseudo_header(&bytes, length)
        .expect("is TCP");
    sum.add(&bytes[34..34 + length]);
    let verdict = flags(header) & (abi::RX_CSUM_GOOD | abi::RX_CSUM_BAD);
    assert!(verdict.is_power_of_two(), "one verdict");
    (verdict == abi::RX_CSUM_GOOD, sum.finish() == 0)
}

#[test]
fn an_inserted_checksum_is_verified() {
    let valid = |sum| sum;
    for (expected, partial, at, padding) in [
        (true, &valid as &dyn Fn(u16) -> u16, [34, 50], &[][..]),
        (false, &|sum| sum ^ 0x100, [34, 50], &[]),
        (false, &|_| 0, [34, 50], &[]),
        // Over other bytes, or elsewhere: over the checksum in part, over an address.
        (false, &valid, [36, 50], &[]),
        (false, &valid, [34, 49], &[]),
        (false, &valid, [14, 28], &[]),
        // The inserted checksum covers the frame up to its end, the protocol's only the datagram.
        (true, &valid, [34, 50], &[0; 3]),
        (false, &valid, [34, 50], &[1, 2, 3]),
    ] {
        let verified = completed(partial, at, padding);
        assert_eq!(
            verified,
            (expected, expected),
            "{at:?}, padding {padding:?}"
        );
    }
}

#[test]
fn a_train_stops_at_the_segment_without_buffers_and_goes_on_from_there() {
    let (mut queue, mut ring) = (queue(SPLIT), VecRing::default());
    ring.post(2, &[256, 4096]);
    let payload = pattern(500);
    let frame = tcp4(&payload);
    let header = abi::TxHeader {
        flags: abi::TX_CSUM.into(),
        gso_type: GsoType::Tcp4.into(),
        header_length: 54.into(),
        csum_start: 34.into(),
        csum_offset: 16.into(),
        gso_size: 100.into(),
        l3_offset: 14.into(),
        ..Default::default()
    };
    let chain = chain(header, &frame);
    let train = train(&chain);
    let first = queue.deliver(&VecMover, &mut ring, &train, 0, &NOTE);
    assert_eq!((first.frames, first.blocked_at), (2, Some(2)));
    ring.post(3, &[256, 4096]);
    let rest = queue.deliver(&VecMover, &mut ring, &train, 2, &NOTE);
    assert_eq!((rest.frames, rest.blocked_at), (3, None));
    let stream: Vec<u8> = ring
        .used
        .iter()
        .flat_map(|used| read(used).2.to_vec())
        .collect();
    assert_eq!(stream, payload);
    for (number, used) in ring.used.iter().enumerate() {
        let (header, headers, payload) = read(used);
        assert_eq!(header.frame_id.get() as usize, number);
        let bytes = [headers, payload].concat();
        let mut sum = Headers::parse(&bytes, bytes.len())
            .pseudo_header(&bytes, bytes.len() - 34)
            .expect("is TCP");
        sum.add(&bytes[34..]);
        assert_eq!(sum.finish(), 0, "checksum of segment {number}");
    }
}

#[test]
fn plain_buffers_merge_behind_one_virtio_net_header() {
    let (mut queue, mut ring) = (queue(Layout::VirtioNet), VecRing::default());
    ring.post(3, &[512]);
    let frame = tcp4(&pattern(1000));
    assert_eq!(deliver(&mut queue, &mut ring, &frame).frames, 1);
    let lengths: Vec<u32> = ring.used.iter().map(|used| used.0).collect();
    assert_eq!(lengths, [512, 512, 42]);
    let first = &ring.used[0].1[0];
    assert_eq!(&first[..12], [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0]);
    let bytes: Vec<u8> = ring
        .used
        .iter()
        .flat_map(|(length, chain)| chain[0][..*length as usize].to_vec())
        .skip(12)
        .collect();
    assert_eq!(bytes, frame);
}

#[test]
fn offloads_that_are_off_leave_no_trace() {
    let (mut queue, mut ring) = (queue(SPLIT), VecRing::default());
    ring.post(1, &[256, 4096]);
    let note = Annotation {
        hash: Some(Hash {
            value: 1,
            kind: HashType::Tcp4,
        }),
        offloads: FeatureSet::default(),
        time: 0,
        ..NOTE
    };
    let chain = chain(abi::TxHeader::default(), &tcp4(&pattern(10)));
    queue.deliver(&VecMover, &mut ring, &train(&chain), 0, &note);
    let header = read(&ring.used[0]).0;
    assert_eq!(flags(header) & (abi::RX_CSUM_GOOD | abi::RX_CSUM_BAD), 0);
    assert_eq!((header.hash.get(), header.hash_type), (0, 0));
    assert_eq!(
        (flags(header) & abi::RX_TIMESTAMP, header.timestamp_ns.get()),
        (0, 0)
    );
}
