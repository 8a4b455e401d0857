//! From a [`Train`] to posted receive buffers: reserve chains, copy the payload, put the headers
//! with the final checksum, commit.
//!
//! A frame is placed whole or not at all: the device reserves enough buffers first, and all chains
//! of a frame become visible together (docs/abi.md, "Receive").

mod coalesce;
mod fate;
pub(crate) mod faulty;
mod layout;
mod place;
mod verdict;
mod vlan;

pub(crate) use self::place::{Placed, PlacedFrame};
use self::{coalesce::HeldSegments, place::Scratch, verdict::ChecksumVerdict};
pub use self::{coalesce::Settled, fate::Fate, layout::Layout};
use crate::{
    abi::RxHeader,
    features::{Feature, FeatureSet},
    memory::{Mover, ReceiveRing},
    rss::Hash,
    train::Train,
};

/// The most chains that one frame may take.
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
    pub unsplit: u64,
    pub long_headers: u64,
    pub csum_bad: u64,
    pub no_buffer: u64,
    pub stopped: u64,
    pub too_long: u64,
    pub unsplit_too_long: u64,
    pub bad_chain: u64,
    pub gro_frames: u64,
    pub gro_bytes: u64,
    pub gro_wire_frames: u64,
    pub gro_wire_bytes: u64,
    /// Frames with an RSS hash; not part of `struct zcnic_queue_stats`.
    pub hashed: u64,
}

/// The result of delivering a train or a part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Segments placed.
    pub frames: u32,
    /// Placed segments that were split into headers and payload.
    pub split: u32,
    /// Placed segments with a payload that were not split.
    pub unsplit: u32,
    /// The segment that the ring had too few buffers for. It and all behind it are neither placed
    /// nor counted: the caller retries or drops them.
    pub blocked_at: Option<usize>,
    /// Segments dropped and counted (queue stopped, frame too long).
    pub dropped: u32,
}

impl Delivered {
    /// Adds the counts of other segments; `blocked_at` stays.
    pub fn merge(&mut self, other: &Self) {
        self.frames += other.frames;
        self.split += other.split;
        self.unsplit += other.unsplit;
        self.dropped += other.dropped;
    }

    /// Adds the result of segment `index`.
    #[inline]
    fn take(&mut self, index: usize, placed: Placed) {
        match placed {
            Placed::Frame(frame) => self.add(frame),
            Placed::NoBuffer => self.blocked_at = Some(index),
            Placed::TooLong => self.dropped += 1,
        }
    }

    #[inline]
    pub(crate) fn add(&mut self, placed: PlacedFrame) {
        self.frames += 1;
        self.split += u32::from(placed.split);
        self.unsplit += u32::from(!placed.split && placed.payload);
    }
}

/// Metadata of a frame, for its receive header.
#[derive(Clone, Copy, Debug)]
pub struct Annotation {
    /// Number of the queue, for the receive header.
    pub queue: u16,
    /// RSS hash, if there is one.
    pub hash: Option<Hash>,
    /// Offloads that are switched on.
    pub offloads: FeatureSet,
    /// When it arrived, in nanoseconds of the port's clock; 0 unless `Timestamp` is on.
    pub time: u64,
    /// The VLAN tag that was stripped.
    pub vlan: Option<u16>,
}

/// The device's end of one receive queue. Queues start stopped.
#[derive(Debug, Default)]
pub struct ReceiveQueue {
    layout: Option<Layout>,
    /// The most chains that one frame may take.
    max_chains: usize,
    next_frame: u32,
    counters: ReceiveCounters,
    scratch: Scratch,
    held: HeldSegments,
}

impl ReceiveQueue {
    /// Starts the queue: frames go to posted chains, at most `max_chains` per frame.
    pub fn start(&mut self, layout: Layout, max_chains: usize) {
        self.layout = Some(layout);
        self.max_chains = max_chains.clamp(1, MAX_CHAINS);
    }

    /// Stops the queue: frames are dropped, held segments included. The ring's owner returns the
    /// posted chains.
    pub fn stop(&mut self) {
        self.layout = None;
        self.counters.stopped += self.held.drop_all();
    }

    /// The layout of a started queue.
    #[must_use]
    pub fn layout(&self) -> Option<Layout> {
        self.layout
    }

    /// The counters since the device was created.
    #[must_use]
    pub fn counters(&self) -> &ReceiveCounters {
        &self.counters
    }

    /// Drops and counts segment `at`, which the ring had too few buffers for
    /// ([`Delivered::blocked_at`]), and the segments behind it that are as long. Returns the next
    /// segment: the last one may be shorter and fit.
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

    /// Places the train's segments from number `from` on until the ring has too few buffers.
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
        if let (Some(layout), None, 0, false) = (
            self.layout,
            &train.segmentation,
            from,
            note.offloads.has(Feature::Vlan),
        ) {
            // Most trains are single frames, which need no loop. This test comes first, so that the
            // result of one frame stays in registers.
            let mut delivered = Delivered::default();
            let placed = self.deliver_segment(mover, ring, layout, train, 0, note);
            delivered.take(0, placed);
            return delivered;
        }
        self.deliver_train(mover, ring, train, from, note)
    }

    #[inline(never)]
    fn deliver_train<M, R>(
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
            && let Some(delivered) = self.deliver_stripped(mover, ring, train, from, note)
        {
            return delivered;
        }
        self.deliver_as_is(mover, ring, train, from, note)
    }

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
            let placed = self.deliver_segment(mover, ring, layout, train, index, note);
            delivered.take(index, placed);
            if delivered.blocked_at.is_some() {
                break;
            }
        }
        delivered
    }

    /// Counts a placed frame of `length` bytes, and increments the frame number.
    #[inline]
    fn count_placed(
        &mut self,
        frame: PlacedFrame,
        length: usize,
        verdict: ChecksumVerdict,
        note: &Annotation,
    ) {
        self.next_frame = self.next_frame.wrapping_add(1);
        self.counters.frames += 1;
        self.counters.bytes += length as u64;
        // Branches, not sums of booleans, which the compiler would turn into vector instructions.
        if frame.split {
            self.counters.split += 1;
        }
        if verdict == ChecksumVerdict::Bad {
            self.counters.csum_bad += 1;
        }
        if note.hash.is_some() {
            self.counters.hashed += 1;
        }
    }
}

#[cfg(test)]
mod tests;
