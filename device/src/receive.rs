//! From a [`Train`] to posted receive buffers: reserve, copy the payload, put the headers with the final
//! checksum, commit.
//!
//! A frame is placed whole or not at all: the device makes sure that enough buffers exist before it takes
//! one, and all chains of a frame become visible together (docs/abi.md, "Receive").

mod coalesce;
pub(crate) mod faulty;
mod layout;
mod untagged;
mod verdict;

use self::{
    coalesce::Held,
    layout::{
        VIRTIO_NET_HEADER, fits, receive_flags, receive_header, single, split_point,
        virtio_net_header, words,
    },
    verdict::{Verdict, finish_checksum},
};
pub use self::{coalesce::Settled, layout::Layout};
use crate::{
    abi::{self, RxHeader},
    checksum::Checksum,
    features::{Feature, FeatureSet},
    memory::{Mover, ReceiveRing},
    rss::Hash,
    train::{Aggregate, Changes, Segment, Train},
};

/// Chains that one frame may take.
pub const MAX_CHAINS: usize = 64;

/// Bytes of the receive header at the start of every chain.
pub const RX_HEADER: usize = size_of::<RxHeader>();

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
    pub gro_frames: u64,
    pub gro_bytes: u64,
    pub gro_wire_frames: u64,
    pub gro_wire_bytes: u64,
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

/// A frame that was placed.
#[derive(Clone, Copy)]
pub(crate) struct PlacedFrame {
    split: bool,
    /// It has a payload.
    payload: bool,
}

impl Delivered {
    /// Adds what became of other segments; which were not placed is not looked at.
    pub fn merge(&mut self, other: &Self) {
        self.frames += other.frames;
        self.split += other.split;
        self.unsplit += other.unsplit;
        self.dropped += other.dropped;
    }

    pub(crate) fn add(&mut self, placed: PlacedFrame) {
        self.frames += 1;
        self.split += u32::from(placed.split);
        self.unsplit += u32::from(!placed.split && placed.payload);
    }
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
    /// When it arrived, in nanoseconds of the port's clock; 0 unless `Timestamp` is on.
    pub time: u64,
    /// The VLAN tag that was taken out of it.
    pub vlan: Option<u16>,
}

/// The device's side of one receive queue. Queues start stopped.
#[derive(Debug, Default)]
pub struct ReceiveQueue {
    layout: Option<Layout>,
    /// Chains that one frame may take.
    max_chains: usize,
    next_frame: u32,
    counters: ReceiveCounters,
    scratch: Scratch,
    held: Held,
}

/// Buffers reused from frame to frame, so that placing a frame allocates nothing.
#[derive(Debug, Default)]
struct Scratch {
    extents: Vec<Extent>,
    written: Vec<u32>,
    changes: Changes,
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
    /// Begins to use posted chains, at most `max_chains` with one frame.
    pub fn start(&mut self, layout: Layout, max_chains: usize) {
        self.layout = Some(layout);
        self.max_chains = max_chains.min(MAX_CHAINS);
    }

    /// Frames are dropped from now on; the ring's owner returns what is posted.
    pub fn stop(&mut self) {
        self.layout = None;
        self.counters.stopped += self.held.forget();
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
    #[inline]
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
        if note.offloads.has(Feature::Vlan)
            && let Some(delivered) = self.deliver_untagged(mover, ring, train, from, note)
        {
            return delivered;
        }
        self.deliver_as_is(mover, ring, train, from, note)
    }

    #[inline]
    fn deliver_as_is<M, R>(
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

            let payload = length > train.headers().payload_offset();
            let frame = PlacedFrame { split, payload };
            self.count_placed(frame, length, verdict, note);
            delivered.add(frame);
        }
        delivered
    }

    /// Counts a frame of `length` bytes that was placed, and numbers the next.
    fn count_placed(
        &mut self,
        frame: PlacedFrame,
        length: usize,
        verdict: Verdict,
        note: &Annotation,
    ) {
        self.next_frame = self.next_frame.wrapping_add(1);
        self.counters.frames += 1;
        self.counters.bytes += length as u64;
        self.counters.split += u64::from(frame.split);
        self.counters.csum_bad += u64::from(verdict == Verdict::Bad);
        self.counters.hashed += u64::from(note.hash.is_some());
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
            if written.len() == self.max_chains {
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
        let mut segment = train.segment(index, &mut self.scratch.changes);
        let head_length = segment.head.sent().len();
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
            ring.copying_to(0);
            copy(head_length, covered_end, &mut covered);
            copy(covered_end, segment.length, &mut padding);
        }
        let verdict = finish_checksum(train.headers(), &mut segment, &covered, &padding);

        let (length, head) = (segment.length, &segment.head);
        let (first, second) = head.sent().split_at(head_length.min(at));
        mover.put(&targets[0], header_length, first);
        if !second.is_empty() {
            mover.put(&targets[1], 0, second);
        }
        for (offset, word) in head.changes() {
            if offset + 2 <= at {
                mover.put(&targets[0], header_length + offset, &word);
            } else {
                for (offset, byte) in (offset..).zip(word) {
                    match offset.checked_sub(at) {
                        None => mover.put(&targets[0], header_length + offset, &[byte]),
                        Some(offset) => mover.put(&targets[1], offset, &[byte]),
                    }
                }
            }
        }
        if layout == Layout::VirtioNet {
            mover.put(&targets[0], 0, &virtio_net_header(verdict, note, 1));
        } else {
            let split = matches!(layout, Layout::Split { .. }) && at < length;
            let flags = receive_flags(split, verdict, note, train.aggregate.as_ref())
                | abi::RX_FIRST
                | abi::RX_LAST;
            let header = RxHeader {
                flags: flags.into(),
                frame_id: self.next_frame.into(),
                header_length: (at as u32).into(),
                payload_length: ((length - at) as u32).into(),
                frame_length: (length as u32).into(),
                ..receive_header(note, train.aggregate.as_ref())
            };
            mover.put_words(&targets[0], 0, words(header));
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
        let mut changes = Changes::default();
        let mut segment = train.segment(index, &mut changes);
        let verdict = self.fill(mover, ring, train, &mut segment);
        match layout {
            Layout::VirtioNet => self.put_virtio_net_header(mover, ring, verdict, note),
            _ => {
                let whole = (segment.length, train.aggregate.as_ref());
                self.put_receive_headers(mover, ring, whole, split, verdict, note);
            }
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
        let head_length = segment.head.sent().len();
        let copy = |range: std::ops::Range<usize>, sum: &mut Checksum| {
            for part in parts(&self.scratch.extents, range) {
                ring.copying_to(part.chain);
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
        let head = &segment.head;
        for part in parts(&self.scratch.extents, 0..head_length) {
            let bytes = &head.sent()[part.frame_offset..part.frame_offset + part.length];
            mover.put(&ring.chain(part.chain)[part.descriptor], part.offset, bytes);
        }
        for (offset, word) in head.changes() {
            for part in parts(&self.scratch.extents, offset..offset + 2) {
                let bytes = &word[part.frame_offset - offset..][..part.length];
                mover.put(&ring.chain(part.chain)[part.descriptor], part.offset, bytes);
            }
        }
        verdict
    }

    fn put_receive_headers<M, R>(
        &self,
        mover: &M,
        ring: &R,
        (frame_length, aggregate): (usize, Option<&Aggregate>),
        split: bool,
        verdict: Verdict,
        note: &Annotation,
    ) where
        M: Mover,
        R: ReceiveRing<Target = M::Target>,
    {
        let common = receive_flags(split, verdict, note, aggregate);
        let mut chains = self
            .scratch
            .extents
            .chunk_by(|a, b| a.chain == b.chain)
            .enumerate()
            .peekable();
        while let Some((number, extents)) = chains.next() {
            let in_descriptor = |descriptor| -> u32 {
                let here = extents.iter().filter(|e| e.descriptor == descriptor);
                here.map(|e| e.length as u32).sum()
            };
            let mut flags = common;
            if number == 0 {
                flags |= abi::RX_FIRST;
            }
            if chains.peek().is_none() {
                flags |= abi::RX_LAST;
            }
            let header = RxHeader {
                flags: flags.into(),
                chain: (number as u16).into(),
                frame_id: self.next_frame.into(),
                header_length: in_descriptor(0).into(),
                payload_length: in_descriptor(1).into(),
                frame_length: (frame_length as u32).into(),
                ..receive_header(note, aggregate)
            };
            mover.put_words(&ring.chain(extents[0].chain)[0], 0, words(header));
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

#[cfg(test)]
mod tests;
