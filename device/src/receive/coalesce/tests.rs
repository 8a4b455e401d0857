//! Delivery, timing and counters of a queue with hardware GRO.

use std::num::Wrapping;

use proptest::prelude::*;
use zerocopy::FromBytes;

use super::*;
use crate::{
    abi::{self, GsoType, RxHeader, TxHeader},
    features::FeatureSet,
    frame::Headers,
    receive::{MAX_CHAINS, ReceiveCounters},
    testing::{NOTE, SPLIT, VecMover, VecRing, chain, parse_chain, pattern, tcp4, udp6},
    train::finish,
};

const LINEAR: Layout = Layout::Linear { size: 4096 };
const PSH: u8 = 8;
const MILLISECOND: u64 = 1_000_000;

/// A queue with its ring, and a clock.
struct Bench {
    queue: ReceiveQueue,
    ring: VecRing,
    now: u64,
    delivered: Delivered,
}

/// A frame as the driver receives it.
#[derive(Debug, PartialEq)]
struct Received {
    frame: Vec<u8>,
    header: RxHeader,
}

impl Received {
    fn segments(&self) -> u16 {
        self.header.seg_count.get()
    }
}

impl Bench {
    fn new(layout: Layout) -> Self {
        let mut queue = ReceiveQueue::default();
        queue.start(layout, 18);
        Self {
            queue,
            ring: VecRing::default(),
            now: 0,
            delivered: Delivered::default(),
        }
    }

    fn with_buffers(layout: Layout) -> Self {
        let mut bench = Self::new(layout);
        bench.post(256);
        bench
    }

    fn post(&mut self, count: usize) {
        match self.queue.layout {
            Some(Layout::Split { .. }) => self.ring.post(count, &[256, 4096]),
            _ => self.ring.post(count, &[4096]),
        }
    }

    fn send(&mut self, train: &Train<'_, [u8]>, waits: bool) -> Option<usize> {
        let (queue, ring) = (&mut self.queue, &mut self.ring);
        let all = 0..train.segments();
        let one = queue.coalesce(&VecMover, ring, train, all, &NOTE, waits, self.now);
        self.delivered.merge(&one);
        self.settle();
        one.blocked_at
    }

    fn frame(&mut self, frame: &[u8]) {
        assert_eq!(self.send(&finished(frame), false), None);
    }

    fn settle(&mut self) {
        let delivered = &mut self.delivered;
        self.queue.settled(|one| delivered.merge(&one.delivered));
    }

    fn after(&mut self, milliseconds: u64) {
        self.now += milliseconds * MILLISECOND;
        self.queue
            .release(&VecMover, &mut self.ring, false, self.now);
        self.settle();
    }

    /// The frames received since the last call.
    fn received(&mut self) -> Vec<Received> {
        let mut received = Vec::<Received>::new();
        for (length, chain) in std::mem::take(&mut self.ring.used) {
            let (header, first) = RxHeader::read_from_prefix(&chain[0]).expect("a header");
            let (headers, body) = (header.header_length.get(), header.payload_length.get());
            assert_eq!(length, 64 + headers + body);
            if header.flags.get() & abi::RX_FIRST != 0 {
                let frame = Vec::new();
                received.push(Received { frame, header });
            }
            let last = received.last_mut().expect("a first chain comes first");
            last.frame.extend_from_slice(&first[..headers as usize]);
            if let Some(page) = chain.get(1) {
                last.frame.extend_from_slice(&page[..body as usize]);
            }
        }
        received
    }

    /// The numbers of wire frames in the frames received since the last call.
    fn counts(&mut self) -> Vec<u16> {
        self.received().iter().map(Received::segments).collect()
    }
}

/// A segment with valid checksums: stream number, sequence number, flags, payload.
fn segment(stream: u16, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = tcp4(payload);
    frame[34..36].copy_from_slice(&stream.to_be_bytes());
    frame[38..42].copy_from_slice(&sequence.to_be_bytes());
    frame[47] |= flags;
    put_checksum(&mut frame);
    frame
}

fn put_checksum(frame: &mut [u8]) {
    let headers = Headers::parse(&frame[..frame.len().min(SNAPSHOT)], frame.len());
    let l4 = headers.l4.expect("TCP");
    frame[l4.offset + 16..][..2].fill(0);
    let mut sum = headers
        .pseudo_header(frame, frame.len() - l4.offset)
        .expect("TCP");
    sum.add(&frame[l4.offset..]);
    frame[l4.offset + 16..][..2].copy_from_slice(&sum.finish().to_be_bytes());
}

/// A train as a sender with segmentation offload hands it over.
fn train_chain(flags: u8, size: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = segment(1000, 7, flags, &[]);
    frame.extend_from_slice(payload);
    let length = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    let header = TxHeader {
        flags: abi::TX_CSUM.into(),
        gso_type: GsoType::Tcp4.into(),
        header_length: 54.into(),
        csum_start: 34.into(),
        csum_offset: 16.into(),
        gso_size: size.into(),
        l3_offset: 14.into(),
        ..TxHeader::default()
    };
    chain(header, &frame)
}

#[test]
fn segments_become_one_frame_when_one_is_pushed() {
    for layout in [LINEAR, SPLIT] {
        let mut bench = Bench::with_buffers(layout);
        for n in 0..4u32 {
            let flags = if n == 3 { PSH } else { 0 };
            bench.frame(&segment(1, n * 100, flags, &pattern(100)));
        }
        let [one] = &bench.received()[..] else {
            panic!("one frame");
        };
        assert_eq!(one.frame[54..], pattern(100).repeat(4));
        assert_eq!(one.header.seg_size.get(), 100);
        assert_eq!(
            (one.segments(), one.header.gso_type),
            (4, GsoType::Tcp4.into())
        );
        assert_eq!(
            (one.header.l3_offset.get(), one.header.l4_offset.get()),
            (14, 34)
        );
        let flags = one.header.flags.get();
        assert_ne!(flags & abi::RX_AGGREGATED & !abi::RX_CSUM_BAD, 0);
        assert_ne!(flags & abi::RX_CSUM_GOOD, 0);
        assert_ne!(flags & abi::RX_FIXED_ID, 0, "all had the same");
        let split = if layout == SPLIT { 4 } else { 0 };
        let expected = ReceiveCounters {
            frames: 4,
            bytes: 4 * 154,
            split,
            gro_frames: 1,
            gro_bytes: 454,
            gro_wire_frames: 4,
            gro_wire_bytes: 4 * 154,
            ..ReceiveCounters::default()
        };
        assert_eq!(*bench.queue.counters(), expected);
        assert_eq!(bench.delivered.frames, 4);
        assert!(!bench.queue.holds());
    }
}

#[test]
fn a_lone_segment_is_delivered_unchanged() {
    let mut bench = Bench::with_buffers(LINEAR);
    let frame = segment(1, 0, 0, &pattern(100));
    bench.frame(&frame);
    assert!(bench.received().is_empty() && bench.queue.holds());
    assert_eq!(bench.queue.release_at(), Some(QUIET));
    bench.after(39);
    assert!(bench.received().is_empty());
    bench.after(1);
    let received = bench.received();
    assert_eq!(received[0].frame, frame);
    assert_eq!(
        (received[0].segments(), bench.queue.counters().gro_frames),
        (0, 0)
    );
    assert_eq!(bench.queue.release_at(), None);
}

#[test]
fn on_a_busy_queue_a_segment_waits_for_a_bounded_time() {
    let mut bench = Bench::with_buffers(LINEAR);
    bench.frame(&segment(1, 0, 0, &pattern(100)));
    for _ in 0..14 {
        bench.after(10);
        bench.frame(&udp6(&[1]));
        assert_eq!(bench.counts(), [0], "the datagram");
    }
    bench.after(10);
    assert_eq!(bench.counts(), [0], "the segment");
}

#[test]
fn streams_are_distinguished_and_keep_their_order() {
    let mut bench = Bench::with_buffers(LINEAR);
    for stream in 0..20 {
        bench.frame(&segment(stream, 0, 0, &pattern(100)));
    }
    for stream in 0..20 {
        bench.frame(&segment(stream, 100, PSH, &pattern(100)));
    }
    let received = bench.received();
    let ports = received
        .iter()
        .map(|one| u16::from_be_bytes([one.frame[34], one.frame[35]]));
    assert!(ports.eq(0..20));
    assert!(received.iter().all(|one| one.segments() == 2));
}

#[test]
fn nothing_overtakes_its_own_stream() {
    let first = || segment(1, 0, 0, &pattern(100));
    let mut bad = segment(1, 100, 0, &pattern(100));
    bad[60] ^= 1;
    let mut fragment = segment(1, 100, 0, &pattern(100));
    fragment[20] |= 0x20;
    for frame in [
        segment(1, 100, 0, &[]),
        segment(1, 100, 2, &[]),
        segment(1, 300, PSH, &pattern(100)),
        bad,
        fragment,
    ] {
        let mut bench = Bench::with_buffers(LINEAR);
        bench.frame(&first());
        bench.frame(&frame);
        let frames: Vec<_> = bench.received().into_iter().map(|one| one.frame).collect();
        assert_eq!(frames, [first(), frame]);
    }
    let mut bench = Bench::with_buffers(LINEAR);
    bench.frame(&first());
    bench.frame(&udp6(&[1]));
    assert_eq!(bench.counts(), [0], "a datagram has no reason to wait");
    assert!(bench.queue.holds());
}

#[test]
fn a_pushed_train_is_delivered_at_once_from_where_it_lies() {
    for (layout, chains) in [(LINEAR, 4), (SPLIT, 4)] {
        let mut bench = Bench::with_buffers(layout);
        let chain = train_chain(PSH, 1000, &pattern(14_500));
        assert_eq!(
            bench.send(&parse_chain(&chain).expect("a train"), false),
            None
        );
        assert_eq!(bench.ring.used.len(), chains);
        let [one] = &bench.received()[..] else {
            panic!("one frame");
        };
        assert_eq!(
            (one.segments(), &one.frame[54..]),
            (15, &pattern(14_500)[..])
        );
        assert!(!bench.queue.holds() && bench.queue.held.bytes == 0);
        assert_eq!(bench.queue.counters().bytes, 14_500 + 15 * 54);
    }
}

#[test]
fn a_train_follows_held_segments_of_its_stream() {
    let mut bench = Bench::with_buffers(SPLIT);
    let train = train_chain(PSH, 100, &pattern(250));
    bench.frame(&segment(1000, 7u32.wrapping_sub(100), 0, &pattern(100)));
    let train = parse_chain(&train).expect("a train");
    assert_eq!(bench.send(&train, false), None);
    let one = bench.received();
    // The train's identifications start at the first segment's, so they don't continue.
    assert_eq!(
        one.iter().map(Received::segments).collect::<Vec<_>>(),
        [2, 2]
    );
}

#[test]
fn an_aggregate_takes_no_more_chains_than_the_driver_can_have() {
    for layout in [LINEAR, SPLIT] {
        let mut bench = Bench::with_buffers(layout);
        bench.queue.max_chains = 3;
        let chain = train_chain(PSH, 1000, &pattern(40_000));
        assert_eq!(
            bench.send(&parse_chain(&chain).expect("a train"), false),
            None
        );
        let received = bench.received();
        let bytes: Vec<u8> = received
            .iter()
            .flat_map(|one| one.frame[54..].to_vec())
            .collect();
        assert_eq!(bytes, pattern(40_000));
        assert!(received.iter().all(|one| one.frame.len() <= 54 + 3 * 4096));
        assert_eq!(bench.queue.counters().frames, 40);
        assert_eq!(bench.queue.counters().too_long, 0);
    }
}

#[test]
fn held_bytes_and_streams_are_bounded() {
    let mut bench = Bench::new(LINEAR);
    bench.post(4096);
    let streams = MAX_STREAMS as u16;
    for stream in 0..streams + 10 {
        bench.frame(&segment(stream, 0, 0, &[1]));
    }
    assert_eq!(bench.queue.held.held.len(), MAX_STREAMS);
    let oldest = bench.received();
    let ports = oldest
        .iter()
        .map(|one| u16::from_be_bytes([one.frame[34], one.frame[35]]));
    assert!(ports.eq(0..10));
    for stream in 0..2000 {
        bench.frame(&segment(stream, 0, 0, &[1; 3000]));
        assert!(bench.queue.held.bytes <= MAX_BYTES);
    }
    bench.after(40);
    assert_eq!(
        (bench.queue.held.bytes, bench.queue.held.streams.len()),
        (0, 0)
    );
    assert_eq!(
        bench.queue.counters().frames,
        u64::from(streams) + 10 + 2000
    );
}

#[test]
fn without_buffers_frames_wait_or_are_dropped_and_counted() {
    let mut bench = Bench::new(LINEAR);
    bench.frame(&segment(1, 0, 0, &pattern(100)));
    let last = segment(1, 100, PSH, &pattern(100));
    assert_eq!(bench.send(&finished(&last), true), None, "it was taken");
    let other = segment(2, 0, PSH, &pattern(100));
    assert_eq!(bench.send(&finished(&other), true), Some(0));
    assert_eq!(bench.queue.counters().no_buffer, 0);
    bench.post(2);
    assert_eq!(bench.send(&finished(&other), true), None);
    assert_eq!(bench.counts(), [2, 0]);

    bench.frame(&segment(1, 200, 0, &pattern(100)));
    bench.frame(&segment(1, 300, PSH, &pattern(100)));
    assert_eq!(bench.queue.counters().no_buffer, 2);
    assert_eq!((bench.delivered.frames, bench.delivered.dropped), (3, 2));
    assert!(!bench.queue.holds());
}

#[test]
fn frames_wait_for_buffers_for_a_bounded_time() {
    let mut bench = Bench::new(LINEAR);
    bench.frame(&segment(1, 0, 0, &pattern(100)));
    for (milliseconds, holds) in [(40, true), (609, true), (1, false)] {
        bench.now += milliseconds * MILLISECOND;
        bench
            .queue
            .release(&VecMover, &mut bench.ring, true, bench.now);
        assert_eq!(bench.queue.holds(), holds, "after {milliseconds} ms more");
    }
    assert_eq!(bench.queue.counters().no_buffer, 1);
}

#[test]
fn a_stop_drops_and_counts_held_segments() {
    let mut bench = Bench::with_buffers(LINEAR);
    bench.frame(&segment(1, 0, 0, &pattern(100)));
    bench.frame(&segment(1, 100, 0, &pattern(100)));
    bench.queue.stop();
    assert_eq!(
        (bench.queue.counters().stopped, bench.queue.holds()),
        (2, false)
    );
    bench.queue.start(LINEAR, MAX_CHAINS);
    bench.after(200);
    assert!(bench.received().is_empty());
}

#[test]
fn switching_gro_off_releases_held_segments() {
    let mut bench = Bench::with_buffers(LINEAR);
    bench.frame(&segment(1, 0, 0, &pattern(100)));
    let off = Annotation {
        offloads: FeatureSet::PLAIN,
        ..NOTE
    };
    let next = segment(1, 100, 0, &pattern(100));
    let (queue, ring) = (&mut bench.queue, &mut bench.ring);
    queue.coalesce(&VecMover, ring, &finished(&next), 0..1, &off, false, 0);
    assert_eq!(bench.counts(), [0, 0]);
    assert!(!bench.queue.holds());
}

/// Frames of some streams, interleaved, valid and invalid.
fn traffic() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let one = (
        0u16..3,
        1usize..300,
        prop::sample::select(vec![0u8, 0, 0, 0, PSH, 2, 0x80]),
        0u8..12,
    );
    prop::collection::vec(one, 1..60).prop_map(|all| {
        let mut next = [Wrapping(7u32); 3];
        let frames = all.into_iter().map(|(stream, length, flags, oddity)| {
            let sequence = &mut next[usize::from(stream)];
            let length = if oddity < 6 { 100 } else { length };
            let payload: Vec<u8> = (sequence.0..).take(length).map(|n| n as u8).collect();
            let mut frame = segment(stream, sequence.0, flags, &payload);
            *sequence += length as u32;
            match oddity {
                11 => frame[54] ^= 1,
                10 => frame = udp6(&payload),
                _ => {}
            }
            frame
        });
        frames.collect()
    })
}

proptest! {
    /// Each stream's bytes arrive in the order in which they were sent, and every wire frame is
    /// counted once.
    #[test]
    fn streams_come_whole_and_in_order(frames in traffic(), linear: bool) {
        let mut bench = Bench::with_buffers(if linear { LINEAR } else { SPLIT });
        for frame in &frames {
            bench.frame(frame);
        }
        bench.after(40);
        prop_assert!(!bench.queue.holds() && bench.queue.held.bytes == 0);
        let counters = *bench.queue.counters();
        prop_assert_eq!(counters.frames, frames.len() as u64);
        prop_assert_eq!(counters.bytes, frames.iter().map(|one| one.len() as u64).sum::<u64>());
        prop_assert_eq!(bench.delivered.frames as usize, frames.len());
        let bytes = |all: &mut dyn Iterator<Item = &Vec<u8>>| {
            let mut streams: [Vec<u8>; 3] = Default::default();
            for frame in all.filter(|frame| frame[23] == 6 && frame[12] == 8) {
                streams[usize::from(frame[35])].extend_from_slice(&frame[54..]);
            }
            streams
        };
        let received = bench.received();
        let sent = bytes(&mut frames.iter());
        prop_assert_eq!(bytes(&mut received.iter().map(|one| &one.frame)), sent);
        let wire: u64 = received.iter().map(|one| u64::from(one.segments().max(1))).sum();
        prop_assert_eq!(wire, frames.len() as u64);
    }

    /// Aggregates are delivered in the order of the segments that closed them, also if they wait
    /// for buffers.
    #[test]
    fn aggregates_keep_the_order_of_their_ends(
        steps in prop::collection::vec((0u16..40, any::<bool>(), 0usize..3), 1..200),
    ) {
        let mut bench = Bench::new(LINEAR);
        let mut next = [7u32; 40];
        let mut ends = Vec::new();
        for (stream, ends_here, buffers) in steps {
            let sequence = &mut next[usize::from(stream)];
            let frame = segment(stream, *sequence, if ends_here { PSH } else { 0 }, &[1; 10]);
            *sequence += 10;
            if ends_here {
                ends.push((stream, *sequence));
            }
            bench.post(buffers);
            while bench.send(&finished(&frame), true).is_some() {
                bench.post(1);
            }
        }
        bench.post(256);
        bench.after(40);
        let pushed: Vec<_> = bench.received().iter().map(|one| &one.frame).filter_map(|frame| {
            let field = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
            let sequence = u32::from(field(38)) << 16 | u32::from(field(40));
            let end = sequence + (frame.len() - 54) as u32;
            (frame[47] & PSH != 0).then_some((field(34), end))
        }).collect();
        prop_assert_eq!(pushed, ends);
        prop_assert_eq!(bench.queue.counters().no_buffer, 0);
    }

    /// A train gives the same frames, headers and counters as its segments one by one.
    #[test]
    fn a_train_is_its_segments(
        size in 1u16..2000,
        length in 1usize..60_000,
        flags in prop::sample::select(vec![0u8, PSH, 1, 9, 0x80, 0x88]),
        max_chains in 1usize..18,
        held: bool,
    ) {
        let length = length.min(usize::from(size) * 200);
        let chain = train_chain(flags, size, &pattern(length));
        let train = parse_chain(&chain).expect("a train");
        let run = |whole: bool| {
            let mut bench = Bench::with_buffers(SPLIT);
            bench.post(256);
            bench.queue.max_chains = max_chains;
            if held {
                let payload = pattern(usize::from(size));
                bench.frame(&segment(1000, 7u32.wrapping_sub(size.into()), 0, &payload));
            }
            if whole {
                assert_eq!(bench.send(&train, false), None);
            } else {
                for index in 0..train.segments() {
                    bench.frame(&finish(&VecMover, &train, index));
                }
            }
            bench.after(40);
            (bench.received(), *bench.queue.counters(), bench.delivered)
        };
        prop_assert_eq!(run(true), run(false));
    }
}
