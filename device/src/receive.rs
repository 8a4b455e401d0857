//! From a [`Train`] to posted receive buffers: reserve, copy the payload, put the headers with the final
//! checksum, commit.
//!
//! A frame is placed whole or not at all: the device makes sure that enough buffers exist before it takes
//! one, and all chains of a frame become visible together (docs/abi.md, "Receive").

pub(crate) mod faulty;

use zerocopy::IntoBytes;

use crate::{
    abi::{self, HashType, RxHeader},
    checksum::Checksum,
    features::{Feature, FeatureSet},
    frame::{Headers, L4Protocol, SNAPSHOT},
    memory::{Mover, ReceiveRing},
    rss::Hash,
    train::{ChecksumState, Head, Segment, Train},
};

/// Chains that one frame may take.
pub const MAX_CHAINS: usize = 64;

/// Bytes of the receive header at the start of every chain.
pub const RX_HEADER: usize = size_of::<RxHeader>();

/// Bytes of `struct virtio_net_hdr_mrg_rxbuf`.
const VIRTIO_NET_HEADER: usize = 12;

/// How frames are laid into the chains of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Plain virtio-net with mergeable buffers: a header in the first chain only.
    VirtioNet,
    /// One descriptor of this many bytes per chain, receive header included.
    Linear {
        /// Length of the descriptor.
        size: u32,
    },
    /// A header fragment and a payload buffer per chain.
    Split {
        /// Length of descriptor 0, receive header included.
        header_size: u32,
        /// Length of descriptor 1.
        page_size: u32,
        /// Frames of at most this many bytes stay whole in descriptor 0.
        threshold: u32,
    },
}

/// Counters of one receive queue. Frames are wire frames: every segment counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "named and explained in struct zcnic_queue_stats"
)]
pub struct ReceiveCounters {
    pub frames: u64,
    pub bytes: u64,
    pub split: u64,
    pub csum_bad: u64,
    pub no_buffer: u64,
    pub stopped: u64,
    pub too_long: u64,
    pub bad_chain: u64,
    /// Frames that a hash was computed for; not part of `struct zcnic_queue_stats`.
    pub hashed: u64,
}

/// What became of (part of) a train.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Segments placed.
    pub frames: u32,
    /// Of these, the ones whose headers and payload were put apart.
    pub split: u32,
    /// Of these, the ones that have a payload but were not split.
    pub unsplit: u32,
    /// The segment for which buffers were missing, if the ring ran out; it and all behind it are not placed
    /// and not counted: the caller retries or drops them.
    pub blocked_at: Option<usize>,
    /// Segments dropped and counted here (queue stopped, frame too long).
    pub dropped: u32,
}

/// What is told of a frame beyond its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Annotation {
    /// Number of the queue, for the receive header.
    pub queue: u16,
    /// Hash, if one was computed.
    pub hash: Option<Hash>,
    /// Offloads that are switched on.
    pub offloads: FeatureSet,
}

/// The device's side of one receive queue. Queues start stopped.
#[derive(Debug, Default)]
pub struct ReceiveQueue {
    layout: Option<Layout>,
    next_frame: u32,
    counters: ReceiveCounters,
    scratch: Scratch,
}

/// Buffers reused from frame to frame, so that placing a frame allocates nothing.
#[derive(Debug)]
struct Scratch {
    extents: Vec<Extent>,
    written: Vec<u32>,
    /// The head of a frame that is not as its sender wrote it.
    head: [u8; SNAPSHOT],
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            extents: Vec::new(),
            written: Vec::new(),
            head: [0; SNAPSHOT],
        }
    }
}

/// `length` frame bytes from `frame_offset` on go to `offset` of descriptor `descriptor` of chain `chain`.
#[derive(Clone, Copy, Debug)]
struct Extent {
    chain: usize,
    descriptor: usize,
    offset: usize,
    frame_offset: usize,
    length: usize,
}

/// Whether the L4 checksum was verified, and how it came out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Unknown,
    Good,
    Bad,
}

enum Reservation {
    /// In one chain: the first bytes, this many, go to descriptor 0 behind the chain's header, the others to
    /// the start of descriptor 1.
    Single(usize),
    /// As the scratch's extents say.
    Spread,
    NoBuffer,
    TooLong,
}

impl ReceiveQueue {
    /// Begins to use posted chains.
    pub fn start(&mut self, layout: Layout) {
        self.layout = Some(layout);
    }

    /// Frames are dropped from now on; the ring's owner returns what is posted.
    pub fn stop(&mut self) {
        self.layout = None;
    }

    /// The layout of a started queue.
    #[must_use]
    pub fn layout(&self) -> Option<Layout> {
        self.layout
    }

    /// The counters since the device exists.
    #[must_use]
    pub fn counters(&self) -> &ReceiveCounters {
        &self.counters
    }

    /// Drops and counts segment `at`, for which buffers are missing ([`Delivered::blocked_at`]), and those
    /// behind it that are as long. Returns the segment to go on with: the last one may be shorter and fit.
    pub fn drop_blocked<S: ?Sized>(&mut self, train: &Train<'_, S>, at: usize) -> usize {
        let segments = train.segments();
        let next = if at + 1 < segments {
            segments - 1
        } else {
            segments
        };
        self.counters.no_buffer += (next - at) as u64;
        next
    }

    /// Places the train's segments from number `from` on until all are placed or buffers run out.
    pub fn deliver<M, R>(
        &mut self,
        mover: &M,
        ring: &mut R,
        train: &Train<'_, M::Source>,
        from: usize,
        note: &Annotation,
    ) -> Delivered
    where
        M: Mover,
        R: ReceiveRing<Target = M::Target>,
    {
        let mut delivered = Delivered::default();
        let Some(layout) = self.layout else {
            let dropped = train.segments() - from;
            self.counters.stopped += dropped as u64;
            delivered.dropped = dropped as u32;
            return delivered;
        };
        for index in from..train.segments() {
            let length = train.segment_length(index);
            let split_at = split_point(layout, train.headers(), length);
            let reservation = self.reserve(mover, ring, layout, split_at, length);
            let split = split_at.is_some_and(|at| at < length);
            let verdict = match reservation {
                Reservation::Single(at) => {
                    self.fill_single(mover, ring, train, index, layout, at, note)
                }
                Reservation::Spread => {
                    self.fill_spread(mover, ring, train, index, layout, split, note)
                }
                Reservation::NoBuffer => {
                    ring.commit(&[]);
                    delivered.blocked_at = Some(index);
                    return delivered;
                }
                Reservation::TooLong => {
                    ring.commit(&[]);
                    self.counters.too_long += 1;
                    delivered.dropped += 1;
                    continue;
                }
            };

            self.next_frame = self.next_frame.wrapping_add(1);
            self.counters.frames += 1;
            self.counters.bytes += length as u64;
            self.counters.split += u64::from(split);
            self.counters.csum_bad += u64::from(verdict == Verdict::Bad);
            self.counters.hashed += u64::from(note.hash.is_some());
            delivered.frames += 1;
            delivered.split += u32::from(split);
            delivered.unsplit += u32::from(!split && length > train.headers().payload_offset());
        }
        delivered
    }

    /// Reserves the chains of one frame and lays its bytes out over them. Chains of the wrong shape are
    /// returned: at the head at once, so that they can't block the ring, later ones together with the frame.
    fn reserve<M, R>(
        &mut self,
        mover: &M,
        ring: &mut R,
        layout: Layout,
        split_at: Option<usize>,
        length: usize,
    ) -> Reservation
    where
        M: Mover,
        R: ReceiveRing<Target = M::Target>,
    {
        let Scratch {
            extents, written, ..
        } = &mut self.scratch;
        extents.clear();
        written.clear();
        let mut done = 0;
        while done < length || written.is_empty() {
            if written.len() == MAX_CHAINS {
                return Reservation::TooLong;
            }
            if !ring.reserve() {
                return Reservation::NoBuffer;
            }
            let chain = written.len();
            let targets = ring.chain(chain);
            if !fits(layout, mover, targets) {
                // Those that go back with the frame are counted with it.
                if chain == 0 {
                    self.counters.bad_chain += 1;
                    ring.commit(&[0]);
                } else {
                    written.push(0);
                }
                continue;
            }
            if chain == 0
                && let Some(at) = single(layout, mover, targets, split_at, length)
            {
                return Reservation::Single(at);
            }
            let before = done;
            // Room at the start of the chain that a header takes.
            let reserved = match layout {
                Layout::VirtioNet if done == 0 => VIRTIO_NET_HEADER,
                Layout::VirtioNet => 0,
                _ => RX_HEADER,
            };
            let mut skip = reserved;
            for (descriptor, target) in targets.iter().enumerate() {
                let room = mover.target_len(target);
                let offset = skip.min(room);
                skip -= offset;
                // On a split chain only the headers go to descriptor 0.
                let until = match split_at {
                    Some(at) if descriptor == 0 => at,
                    _ => length,
                };
                let here = (room - offset).min(until.saturating_sub(done));
                if here > 0 {
                    extents.push(Extent {
                        chain,
                        descriptor,
                        offset,
                        frame_offset: done,
                        length: here,
                    });
                    done += here;
                }
            }
            written.push((reserved + done - before) as u32);
        }
        let returned = written.iter().filter(|length| **length == 0).count();
        self.counters.bad_chain += returned as u64;
        Reservation::Spread
    }

    /// Places a frame that goes into one chain: its bytes up to `at` into descriptor 0, the others into 1.
    #[expect(clippy::too_many_arguments, reason = "what it takes to place a frame")]
    fn fill_single<M, R>(
        &mut self,
        mover: &M,
        ring: &mut R,
        train: &Train<'_, M::Source>,
        index: usize,
        layout: Layout,
        at: usize,
        note: &Annotation,
    ) -> Verdict
    where
        M: Mover,
        R: ReceiveRing<Target = M::Target>,
    {
        let targets = ring.chain(0);
        let header_length = layout.header_length();
        let mut segment = train.segment(index, &mut self.scratch.head);
        let head_length = segment.head.len();
        let copy = |from: usize, to: usize, sum: &mut Checksum| {
            // Two pieces at most, because the frame lies in two descriptors at most.
            for (descriptor, offset, start, end) in [
                (0, header_length, from, to.min(at)),
                (1, 0, from.max(at), to),
            ] {
                if start < end {
                    mover.copy(
                        train.source(),
                        segment.body + start - head_length,
                        &targets[descriptor],
                        offset + start - if descriptor == 0 { 0 } else { at },
                        end - start,
                        sum,
                    );
                }
            }
        };
        let (mut covered, mut padding) = (Checksum::default(), Checksum::default());
        let covered_end = segment.l4_end.max(head_length);
        if head_length < segment.length {
            copy(head_length, covered_end, &mut covered);
            copy(covered_end, segment.length, &mut padding);
        }
        let verdict = finish_checksum(train.headers(), &mut segment, &covered, &padding);

        let (length, head) = (segment.length, &*segment.head);
        let (first, second) = head.split_at(head_length.min(at));
        mover.put(&targets[0], header_length, first);
        if !second.is_empty() {
            mover.put(&targets[1], 0, second);
        }
        if layout == Layout::VirtioNet {
            mover.put(&targets[0], 0, &virtio_net_header(verdict, note, 1));
        } else {
            let split = matches!(layout, Layout::Split { .. }) && at < length;
            let flags = receive_flags(split, verdict, note) | abi::RX_FIRST | abi::RX_LAST;
            let header = RxHeader {
                flags: flags.into(),
                frame_id: self.next_frame.into(),
                header_length: (at as u32).into(),
                payload_length: ((length - at) as u32).into(),
                frame_length: (length as u32).into(),
                ..receive_header(note)
            };
            mover.put(&targets[0], 0, header.as_bytes());
        }
        ring.commit(&[(header_length + length) as u32]);
        verdict
    }

    /// Places a frame as the extents say, which may be over several chains.
    #[expect(clippy::too_many_arguments, reason = "what it takes to place a frame")]
    fn fill_spread<M, R>(
        &mut self,
        mover: &M,
        ring: &mut R,
        train: &Train<'_, M::Source>,
        index: usize,
        layout: Layout,
        split: bool,
        note: &Annotation,
    ) -> Verdict
    where
        M: Mover,
        R: ReceiveRing<Target = M::Target>,
    {
        let mut buffer = [0; SNAPSHOT];
        let mut segment = train.segment(index, &mut buffer);
        let verdict = self.fill(mover, ring, train, &mut segment);
        match layout {
            Layout::VirtioNet => self.put_virtio_net_header(mover, ring, verdict, note),
            _ => self.put_receive_headers(mover, ring, segment.length, split, verdict, note),
        }
        ring.commit(&self.scratch.written);
        verdict
    }

    /// Copies the payload and puts the head with its final checksum.
    fn fill<M, R>(
        &self,
        mover: &M,
        ring: &R,
        train: &Train<'_, M::Source>,
        segment: &mut Segment<'_>,
    ) -> Verdict
    where
        M: Mover,
        R: ReceiveRing<Target = M::Target>,
    {
        let head_length = segment.head.len();
        let copy = |range: std::ops::Range<usize>, sum: &mut Checksum| {
            for part in parts(&self.scratch.extents, range) {
                mover.copy(
                    train.source(),
                    segment.body + part.frame_offset - head_length,
                    &ring.chain(part.chain)[part.descriptor],
                    part.offset,
                    part.length,
                    sum,
                );
            }
        };
        // Two runs: what the L4 checksum covers, and the padding behind it.
        let covered_end = segment.l4_end.max(head_length);
        let (mut covered, mut padding) = (Checksum::default(), Checksum::default());
        copy(head_length..covered_end, &mut covered);
        copy(covered_end..segment.length, &mut padding);

        let verdict = finish_checksum(train.headers(), segment, &covered, &padding);
        for part in parts(&self.scratch.extents, 0..head_length) {
            let bytes = &segment.head[part.frame_offset..part.frame_offset + part.length];
            mover.put(&ring.chain(part.chain)[part.descriptor], part.offset, bytes);
        }
        verdict
    }

    fn put_receive_headers<M, R>(
        &self,
        mover: &M,
        ring: &R,
        frame_length: usize,
        split: bool,
        verdict: Verdict,
        note: &Annotation,
    ) where
        M: Mover,
        R: ReceiveRing<Target = M::Target>,
    {
        let Scratch {
            extents, written, ..
        } = &self.scratch;
        let common = receive_flags(split, verdict, note);
        let last = written.iter().rposition(|&length| length > 0).unwrap_or(0);
        let used = written
            .iter()
            .enumerate()
            .filter(|(_, length)| **length > 0);
        for (number, (chain, _)) in used.enumerate() {
            let in_descriptor = |descriptor| -> u32 {
                let here = extents
                    .iter()
                    .filter(|e| e.chain == chain && e.descriptor == descriptor);
                here.map(|e| e.length as u32).sum()
            };
            let mut flags = common;
            if number == 0 {
                flags |= abi::RX_FIRST;
            }
            if chain == last {
                flags |= abi::RX_LAST;
            }
            let header = RxHeader {
                flags: flags.into(),
                chain: (number as u16).into(),
                frame_id: self.next_frame.into(),
                header_length: in_descriptor(0).into(),
                payload_length: in_descriptor(1).into(),
                frame_length: (frame_length as u32).into(),
                ..receive_header(note)
            };
            mover.put(&ring.chain(chain)[0], 0, header.as_bytes());
        }
    }

    fn put_virtio_net_header<M, R>(&self, mover: &M, ring: &R, verdict: Verdict, note: &Annotation)
    where
        M: Mover,
        R: ReceiveRing<Target = M::Target>,
    {
        let buffers = self
            .scratch
            .written
            .iter()
            .filter(|length| **length > 0)
            .count();
        let header = virtio_net_header(verdict, note, buffers as u16);
        let mut put = 0;
        for target in ring.chain(0) {
            let here = mover.target_len(target).min(VIRTIO_NET_HEADER - put);
            mover.put(target, 0, &header[put..put + here]);
            put += here;
        }
    }
}

impl Layout {
    /// Bytes of the header at the start of a frame's first chain.
    fn header_length(self) -> usize {
        match self {
            Self::VirtioNet => VIRTIO_NET_HEADER,
            Self::Linear { .. } | Self::Split { .. } => RX_HEADER,
        }
    }
}

/// `struct virtio_net_hdr_mrg_rxbuf` of a frame in `buffers` chains.
#[inline]
fn virtio_net_header(verdict: Verdict, note: &Annotation, buffers: u16) -> [u8; VIRTIO_NET_HEADER] {
    /// `VIRTIO_NET_HDR_F_DATA_VALID` (virtio 1.3, 5.1.6.4).
    const DATA_VALID: u8 = 2;
    let mut header = [0; VIRTIO_NET_HEADER];
    if verdict == Verdict::Good && note.offloads.has(Feature::RxCsum) {
        header[0] = DATA_VALID;
    }
    header[10..12].copy_from_slice(&buffers.to_le_bytes());
    header
}

/// What the receive headers of all chains of a frame have in common.
#[inline]
fn receive_header(note: &Annotation) -> RxHeader {
    let hash = note.hash.filter(|_| note.offloads.has(Feature::RxHash));
    RxHeader {
        hash: hash.map_or(0, |hash| hash.value).into(),
        hash_type: hash.map_or(HashType::None, |hash| hash.kind).into(),
        queue: note.queue.into(),
        ..RxHeader::default()
    }
}

/// The flags that all chains of a frame have in common.
#[inline]
fn receive_flags(split: bool, verdict: Verdict, note: &Annotation) -> u16 {
    let split = if split { abi::RX_SPLIT } else { 0 };
    let verdict = match verdict {
        Verdict::Good => abi::RX_CSUM_GOOD,
        Verdict::Bad => abi::RX_CSUM_BAD,
        Verdict::Unknown => 0,
    };
    if note.offloads.has(Feature::RxCsum) {
        split | verdict
    } else {
        split
    }
}

/// Whether a frame fits into the chain with these descriptors, which has the right shape; if so, how many of
/// its bytes go to descriptor 0.
#[inline]
fn single<M: Mover>(
    layout: Layout,
    mover: &M,
    targets: &[M::Target],
    split_at: Option<usize>,
    length: usize,
) -> Option<usize> {
    let room = |index: usize| mover.target_len(&targets[index]);
    let header_length = layout.header_length();
    match (targets.len(), split_at) {
        (1, None) => (header_length + length <= room(0)).then_some(length),
        (2, Some(at)) => (header_length + at <= room(0) && length - at <= room(1)).then_some(at),
        _ => None,
    }
}

/// Where a frame is split on a queue of this layout; `None`: it stays in one piece.
#[inline]
fn split_point(layout: Layout, headers: &Headers, length: usize) -> Option<usize> {
    match layout {
        Layout::Split {
            header_size,
            threshold,
            ..
        } => {
            if length <= threshold as usize {
                return Some(length);
            }
            Some(headers.split_point(header_size as usize - RX_HEADER))
        }
        _ => None,
    }
}

/// Whether a chain has the shape that the queue was started with.
#[inline]
fn fits<M: Mover>(layout: Layout, mover: &M, targets: &[M::Target]) -> bool {
    let is = |index: usize, size: u32| {
        targets
            .get(index)
            .is_some_and(|target| mover.target_len(target) == size as usize)
    };
    match layout {
        Layout::VirtioNet => {
            targets
                .iter()
                .map(|target| mover.target_len(target))
                .sum::<usize>()
                > VIRTIO_NET_HEADER
        }
        Layout::Linear { size } => targets.len() == 1 && is(0, size),
        Layout::Split {
            header_size,
            page_size,
            ..
        } => targets.len() == 2 && is(0, header_size) && is(1, page_size),
    }
}

/// The parts of the extents that hold frame bytes `range`.
fn parts(extents: &[Extent], range: std::ops::Range<usize>) -> impl Iterator<Item = Extent> + '_ {
    extents.iter().filter_map(move |extent| {
        let start = extent.frame_offset.max(range.start);
        let end = (extent.frame_offset + extent.length).min(range.end);
        (start < end).then(|| Extent {
            offset: extent.offset + start - extent.frame_offset,
            frame_offset: start,
            length: end - start,
            ..*extent
        })
    })
}

/// Completes the checksum of a frame if it is owed, and checks it: `covered` is the sum of the bytes behind
/// the head that it covers, `padding` that of those behind them.
#[inline]
fn finish_checksum(
    headers: &Headers,
    segment: &mut Segment<'_>,
    covered: &Checksum,
    padding: &Checksum,
) -> Verdict {
    if let ChecksumState::Owed { start, field } = segment.checksum {
        let mut body = *covered;
        body.add_checksum(*padding);
        if let Head::Own(head) = &mut segment.head {
            insert_checksum(head, start, field, &body);
        }
    }
    // Also of a checksum that was inserted: the sender may have begun it wrongly, or elsewhere.
    verify(headers, segment, covered)
}

/// Completes the checksum that the sender began: `head` from `start` on and `body` are covered.
pub(crate) fn insert_checksum(head: &mut [u8], start: usize, field: usize, body: &Checksum) {
    let mut sum = Checksum::default();
    sum.add(&head[start.min(head.len())..]);
    sum.add_checksum(*body);
    // 0 means "no checksum" in UDP, so its equal 0xffff is sent (RFC 768); TCP takes either.
    let value = match sum.finish() {
        0 => 0xffff,
        value => value,
    };
    head[field..field + 2].copy_from_slice(&value.to_be_bytes());
}

/// Checks the L4 checksum of a frame, of whose bytes behind the head `covered` is the sum of those that it
/// covers.
#[inline]
fn verify(headers: &Headers, segment: &Segment<'_>, covered: &Checksum) -> Verdict {
    let Some(l4) = headers.l4 else {
        return Verdict::Unknown;
    };
    let head: &[u8] = &segment.head;
    let field = l4.offset + l4.protocol.checksum_offset();
    if l4.protocol == L4Protocol::Udp && head[field..field + 2] == [0, 0] {
        return Verdict::Unknown;
    }
    let Some(mut sum) = headers.pseudo_header(head, segment.l4_end - l4.offset) else {
        return Verdict::Unknown;
    };
    sum.add(&head[l4.offset..segment.l4_end.min(head.len())]);
    sum.add_checksum(*covered);
    if sum.finish() == 0 {
        Verdict::Good
    } else {
        Verdict::Bad
    }
}

#[cfg(test)]
mod tests;
