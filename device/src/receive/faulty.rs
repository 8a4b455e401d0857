//! Placing single frames with faults ([`fault`](crate::fault)). Without fault rules no frame takes
//! this path.

use super::{
    Annotation, ChecksumVerdict, Fate, Layout, Placed, PlacedFrame, RX_HEADER, ReceiveQueue,
    layout::split_point,
    place::{Extent, Reservation, Scratch},
    vlan::stripped,
};
use crate::{
    features::Feature,
    frame::SNAPSHOT,
    memory::{Mover, ReceiveRing},
    train::{Changes, Train},
};

/// The reported verdict on a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongVerdict {
    /// Good becomes bad, anything else good.
    Inverted,
    /// Reported as valid.
    Good,
    /// Reported as invalid.
    Bad,
    /// No verdict is reported.
    Unknown,
}

/// Where a frame is split instead of behind its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WrongSplit {
    /// Everything is payload.
    Nothing,
    /// At this offset.
    At(usize),
    /// Where the header fragment ends.
    Full,
}

impl ChecksumVerdict {
    fn falsified(self, wrong: Option<WrongVerdict>) -> Self {
        match wrong {
            None => self,
            Some(WrongVerdict::Inverted) if self == Self::Good => Self::Bad,
            Some(WrongVerdict::Inverted | WrongVerdict::Good) => Self::Good,
            Some(WrongVerdict::Bad) => Self::Bad,
            Some(WrongVerdict::Unknown) => Self::Unknown,
        }
    }
}

/// The faults of one frame's placement ([`fault`](crate::fault)).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tweak {
    pub(crate) split: Option<WrongSplit>,
    pub(crate) verdict: Option<WrongVerdict>,
    /// Bytes missing from the last used length.
    pub(crate) short: u32,
}

impl ReceiveQueue {
    /// Fills reserved chains with segment `index` and counts it; the caller commits
    /// [`written`](Self::written). If the frame is not placed, its reserved chains are unchanged.
    #[expect(
        clippy::too_many_arguments,
        reason = "one frame, its chains and its metadata"
    )]
    pub(crate) fn place<M, R>(
        &mut self,
        mover: &M,
        ring: &mut R,
        layout: Layout,
        train: &Train<'_, M::Source>,
        index: usize,
        note: &Annotation,
        tweak: Option<&Tweak>,
    ) -> Placed
    where
        M: Mover,
        R: ReceiveRing<Target = M::Target>,
    {
        let mut header_bytes = [0; SNAPSHOT];
        if note.offloads.has(Feature::Vlan)
            && let Some((train, note)) = stripped(train, &mut header_bytes, note)
        {
            let placed = self.place_as_is(mover, ring, layout, &train, index, &note, tweak);
            self.count_stripped_tags(matches!(placed, Placed::Frame(_)).into());
            return placed;
        }
        self.place_as_is(mover, ring, layout, train, index, note, tweak)
    }

    #[expect(clippy::too_many_arguments, reason = "as of place")]
    fn place_as_is<M, R>(
        &mut self,
        mover: &M,
        ring: &mut R,
        layout: Layout,
        train: &Train<'_, M::Source>,
        index: usize,
        note: &Annotation,
        tweak: Option<&Tweak>,
    ) -> Placed
    where
        M: Mover,
        R: ReceiveRing<Target = M::Target>,
    {
        let mut changes = Changes::default();
        let mut segment = train.segment(index, &mut changes);
        let mut split_at = split_point(layout, train.headers(), segment.length);
        if let (Some(wrong), Layout::Split { header_size, .. }) =
            (tweak.and_then(|tweak| tweak.split), layout)
        {
            let room = header_size as usize - RX_HEADER;
            let at = match wrong {
                WrongSplit::Nothing => 0,
                WrongSplit::At(at) => at.min(room),
                WrongSplit::Full => room,
            };
            split_at = Some(at.min(segment.length));
        }
        match self.reserve(mover, ring, layout, split_at, segment.length) {
            Reservation::Spread => {}
            Reservation::Single(at) => self.spread_single(layout, at, segment.length),
            Reservation::NoBuffer => return Placed::NoBuffer,
            Reservation::TooLong => {
                self.count_too_long(layout, train.headers(), segment.length);
                return Placed::TooLong;
            }
        }
        let mut verdict = self.fill(mover, ring, train, &mut segment);
        let mut split = split_at.is_some_and(|at| at < segment.length);
        if let Some(tweak) = tweak {
            split &= tweak.split != Some(WrongSplit::Nothing);
            verdict = verdict.falsified(tweak.verdict);
        }
        match layout {
            Layout::VirtioNet => self.put_virtio_net_header(mover, ring, verdict, note),
            _ => {
                let whole = (segment.length, None);
                self.put_receive_headers(mover, ring, whole, split, verdict, note);
            }
        }
        if let (Some(tweak), Some(last)) = (
            tweak,
            self.scratch.written.iter_mut().rfind(|length| **length > 0),
        ) {
            *last = last.saturating_sub(tweak.short).max(1);
        }
        if !split {
            self.count_whole(layout, train.headers(), segment.length);
        }
        self.scratch.split = split_at.filter(|_| split);
        let payload = segment.length > train.headers().payload_offset();
        let frame = PlacedFrame { split, payload };
        self.count_placed(frame, segment.length, verdict, note);
        Placed::Frame(frame)
    }

    /// Describes a frame in one chain by extents, as a frame in several chains is.
    fn spread_single(&mut self, layout: Layout, at: usize, length: usize) {
        let header_length = layout.header_length();
        let Scratch {
            extents, written, ..
        } = &mut self.scratch;
        extents.clear();
        written.clear();
        written.push((header_length + length) as u32);
        let pieces = [(0, header_length, 0, at), (1, 0, at, length - at)];
        for (descriptor, offset, frame_offset, length) in pieces {
            if length > 0 {
                extents.push(Extent {
                    chain: 0,
                    descriptor,
                    offset,
                    frame_offset,
                    length,
                });
            }
        }
    }

    /// The used lengths of the chains that [`place`](Self::place) filled.
    pub(crate) fn written(&self) -> &[u32] {
        &self.scratch.written
    }

    /// The fate of the frame that [`place`](Self::place) placed last.
    pub(crate) fn placed_fate(&self) -> Fate {
        Fate::Placed {
            split: self.scratch.split,
        }
    }

    /// Counts frames without receive buffers.
    pub(crate) fn count_no_buffer(&mut self, frames: u64) {
        self.counters.no_buffer += frames;
    }

    /// Counts frames of a stopped queue.
    pub(crate) fn count_stopped(&mut self, frames: u64) {
        self.counters.stopped += frames;
    }
}
