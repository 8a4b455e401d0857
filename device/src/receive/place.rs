//! Placing one frame: reserve chains, copy the payload, put headers with the final checksum,
//! commit.

use super::{
    Annotation, ChecksumVerdict, Layout, RX_HEADER, ReceiveQueue,
    layout::{
        VIRTIO_NET_HEADER, Whole, fits, receive_flags, receive_header, single, split_point,
        virtio_net_header, whole, words,
    },
    verdict::finish_checksum,
};
use crate::{
    abi::{self, RxHeader},
    checksum::Checksum,
    frame::Headers,
    memory::{Mover, ReceiveRing},
    train::{Aggregate, Changes, Segment, Train},
};

/// The result of placing one frame.
#[derive(Clone, Copy)]
pub(crate) enum Placed {
    Frame(PlacedFrame),
    NoBuffer,
    /// Dropped and counted.
    TooLong,
}

/// A frame that was placed.
#[derive(Clone, Copy)]
pub(crate) struct PlacedFrame {
    pub(super) split: bool,
    /// It has a payload.
    pub(super) payload: bool,
}

/// Vectors reused from frame to frame, so that placing a frame allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) extents: Vec<Extent>,
    pub(super) written: Vec<u32>,
    /// Where the last frame that [`ReceiveQueue::place`] placed is split.
    pub(super) split: Option<usize>,
    changes: Changes,
}

/// `length` frame bytes from `frame_offset` on go to `offset` of descriptor `descriptor` of chain
/// `chain`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) chain: usize,
    pub(super) descriptor: usize,
    pub(super) offset: usize,
    pub(super) frame_offset: usize,
    pub(super) length: usize,
}

pub(super) enum Reservation {
    /// In one chain: this many bytes go to descriptor 0 behind the chain's header, the others to
    /// the start of descriptor 1.
    Single(usize),
    /// Over the extents in the scratch.
    Spread,
    NoBuffer,
    TooLong,
}

impl ReceiveQueue {
    /// Places and counts segment `index` of a train, and returns its chains. A frame that is not
    /// placed takes no chain.
    ///
    /// Not inlined into the loop over segments, which would set up for a train even if there is a
    /// single frame.
    #[inline(never)]
    pub(super) fn deliver_segment<M, R>(
        &mut self,
        mover: &M,
        ring: &mut R,
        layout: Layout,
        train: &Train<'_, M::Source>,
        index: usize,
        note: &Annotation,
    ) -> Placed
    where
        M: Mover,
        R: ReceiveRing<Target = M::Target>,
    {
        let length = train.segment_length(index);
        let split_at = split_point(layout, train.headers(), length);
        let split = split_at.is_some_and(|at| at < length);
        let verdict = match self.reserve(mover, ring, layout, split_at, length) {
            Reservation::Single(at) => {
                self.fill_single(mover, ring, train, index, layout, at, note)
            }
            Reservation::Spread => self.fill_spread(mover, ring, train, index, layout, split, note),
            Reservation::NoBuffer => {
                ring.commit(&[]);
                return Placed::NoBuffer;
            }
            Reservation::TooLong => {
                ring.commit(&[]);
                self.count_too_long(layout, train.headers(), length);
                return Placed::TooLong;
            }
        };
        if !split {
            self.count_whole(layout, train.headers(), length);
        }
        let payload = length > train.headers().payload_offset();
        let frame = PlacedFrame { split, payload };
        self.count_placed(frame, length, verdict, note);
        Placed::Frame(frame)
    }

    /// Counts a placed frame that was not split.
    #[inline]
    pub(super) fn count_whole(&mut self, layout: Layout, headers: &Headers, length: usize) {
        if let Some(reason) = whole(layout, headers, length) {
            self.counters.unsplit += 1;
            self.counters.long_headers += u64::from(reason == Whole::LongHeaders);
        }
    }

    /// Counts a dropped frame that needs more chains than a frame may take.
    #[cold]
    pub(super) fn count_too_long(&mut self, layout: Layout, headers: &Headers, length: usize) {
        match whole(layout, headers, length) {
            Some(_) => self.counters.unsplit_too_long += 1,
            None => self.counters.too_long += 1,
        }
    }

    /// Reserves the chains of one frame: one, if it fits.
    #[inline(always)]
    pub(super) fn reserve<M, R>(
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
        if !ring.reserve() {
            return Reservation::NoBuffer;
        }
        match single(layout, mover, ring.chain(0), split_at, length) {
            Some(at) => Reservation::Single(at),
            None => self.reserve_more(mover, ring, layout, split_at, length),
        }
    }

    /// Lays the bytes of a frame out over the reserved chain and as many more as it takes. Chains
    /// of the wrong shape are returned: at the front of the ring at once, so that they can't block
    /// it, later ones together with the frame.
    #[inline(never)]
    fn reserve_more<M, R>(
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
        let mut reserved = 1;
        let mut done = 0;
        while done < length || written.is_empty() {
            if written.len() == self.max_chains {
                return Reservation::TooLong;
            }
            let chain = written.len();
            if reserved == chain {
                if !ring.reserve() {
                    return Reservation::NoBuffer;
                }
                reserved += 1;
            }
            let targets = ring.chain(chain);
            if !fits(layout, mover, targets) {
                // Wrong chains that are returned with the frame are counted with it.
                if chain == 0 {
                    self.counters.bad_chain += 1;
                    ring.commit(&[0]);
                    reserved = 0;
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
            // Bytes of the chain's header.
            let header = match layout {
                Layout::VirtioNet if done == 0 => VIRTIO_NET_HEADER,
                Layout::VirtioNet => 0,
                _ => RX_HEADER,
            };
            let mut skip = header;
            for (descriptor, target) in targets.iter().enumerate() {
                let room = mover.target_len(target);
                let offset = skip.min(room);
                skip -= offset;
                // On a split chain only the headers go to descriptor 0.
                let until = match split_at {
                    Some(at) if descriptor == 0 => at,
                    // A frame that is not split stays out of descriptor 1.
                    Some(at) if done < at => done,
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
            written.push((header + done - before) as u32);
        }
        let returned = written.iter().filter(|length| **length == 0).count();
        self.counters.bad_chain += returned as u64;
        Reservation::Spread
    }

    /// Places a frame that fits one chain: its bytes up to `at` into descriptor 0, the others into
    /// 1. The payload is contiguous, because frames are not split behind their headers.
    #[expect(
        clippy::too_many_arguments,
        reason = "one frame, its chains and its metadata"
    )]
    #[inline]
    fn fill_single<M, R>(
        &mut self,
        mover: &M,
        ring: &mut R,
        train: &Train<'_, M::Source>,
        index: usize,
        layout: Layout,
        at: usize,
        note: &Annotation,
    ) -> ChecksumVerdict
    where
        M: Mover,
        R: ReceiveRing<Target = M::Target>,
    {
        let targets = ring.chain(0);
        let header_length = layout.header_length();
        let mut segment = train.segment(index, &mut self.scratch.changes);
        let (length, header_bytes_length) = (segment.length, segment.header_bytes.sent().len());
        let split = at < length;
        debug_assert!(
            !split || at <= header_bytes_length,
            "headers and payload are split"
        );
        let (mut covered, mut padding) = (Checksum::default(), Checksum::default());
        if header_bytes_length < length {
            let (target, offset) = if split {
                (&targets[1], header_bytes_length.saturating_sub(at))
            } else {
                (&targets[0], header_length + header_bytes_length)
            };
            let (source, body) = (train.source(), segment.body);
            // The checksum does not cover bytes behind the L4 payload.
            let covers = segment.l4_end.clamp(header_bytes_length, length) - header_bytes_length;
            ring.copying_to(0);
            mover.copy(source, body, target, offset, covers, &mut covered);
            let behind = length - header_bytes_length - covers;
            if behind > 0 {
                let (body, offset) = (body + covers, offset + covers);
                mover.copy(source, body, target, offset, behind, &mut padding);
            }
        }
        let verdict = finish_checksum(train.headers(), &mut segment, &covered, &padding);

        let header_bytes = &segment.header_bytes;
        let (first, second) = header_bytes.sent().split_at(header_bytes_length.min(at));
        mover.put(&targets[0], header_length, first);
        if !second.is_empty() {
            mover.put(&targets[1], 0, second);
        }
        for (offset, word) in header_bytes.changes() {
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
            let split = split && matches!(layout, Layout::Split { .. });
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

    /// Places a frame over the extents, which may span several chains.
    #[expect(
        clippy::too_many_arguments,
        reason = "one frame, its chains and its metadata"
    )]
    fn fill_spread<M, R>(
        &mut self,
        mover: &M,
        ring: &mut R,
        train: &Train<'_, M::Source>,
        index: usize,
        layout: Layout,
        split: bool,
        note: &Annotation,
    ) -> ChecksumVerdict
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

    /// Copies the payload and puts the header bytes with the final checksum.
    pub(super) fn fill<M, R>(
        &self,
        mover: &M,
        ring: &R,
        train: &Train<'_, M::Source>,
        segment: &mut Segment<'_>,
    ) -> ChecksumVerdict
    where
        M: Mover,
        R: ReceiveRing<Target = M::Target>,
    {
        let header_bytes_length = segment.header_bytes.sent().len();
        let copy = |range: std::ops::Range<usize>, sum: &mut Checksum| {
            for part in parts(&self.scratch.extents, range) {
                ring.copying_to(part.chain);
                mover.copy(
                    train.source(),
                    segment.body + part.frame_offset - header_bytes_length,
                    &ring.chain(part.chain)[part.descriptor],
                    part.offset,
                    part.length,
                    sum,
                );
            }
        };
        // Two runs: bytes that the L4 checksum covers, and the padding behind them.
        let covered_end = segment.l4_end.max(header_bytes_length);
        let (mut covered, mut padding) = (Checksum::default(), Checksum::default());
        copy(header_bytes_length..covered_end, &mut covered);
        copy(covered_end..segment.length, &mut padding);

        let verdict = finish_checksum(train.headers(), segment, &covered, &padding);
        let header_bytes = &segment.header_bytes;
        for part in parts(&self.scratch.extents, 0..header_bytes_length) {
            let bytes = &header_bytes.sent()[part.frame_offset..part.frame_offset + part.length];
            mover.put(&ring.chain(part.chain)[part.descriptor], part.offset, bytes);
        }
        for (offset, word) in header_bytes.changes() {
            for part in parts(&self.scratch.extents, offset..offset + 2) {
                let bytes = &word[part.frame_offset - offset..][..part.length];
                mover.put(&ring.chain(part.chain)[part.descriptor], part.offset, bytes);
            }
        }
        verdict
    }

    pub(super) fn put_receive_headers<M, R>(
        &self,
        mover: &M,
        ring: &R,
        (frame_length, aggregate): (usize, Option<&Aggregate>),
        split: bool,
        verdict: ChecksumVerdict,
        note: &Annotation,
    ) where
        M: Mover,
        R: ReceiveRing<Target = M::Target>,
    {
        let common = receive_flags(split, verdict, note, aggregate);
        let header = RxHeader {
            frame_id: self.next_frame.into(),
            frame_length: (frame_length as u32).into(),
            ..receive_header(note, aggregate)
        };
        let mut flags = common | abi::RX_FIRST;
        let mut left = self.scratch.extents.as_slice();
        for number in 0u16.. {
            // Chains have descriptors 0 and 1 only.
            let (chain, lengths, rest) = match left {
                [header, page, rest @ ..] if header.chain == page.chain => {
                    (header.chain, [header.length, page.length], rest)
                }
                [only, rest @ ..] if only.descriptor == 0 => (only.chain, [only.length, 0], rest),
                [only, rest @ ..] => (only.chain, [0, only.length], rest),
                [] => break,
            };
            if rest.is_empty() {
                flags |= abi::RX_LAST;
            }
            let [header_length, payload_length] = lengths.map(|length| (length as u32).into());
            let header = RxHeader {
                flags: flags.into(),
                chain: number.into(),
                header_length,
                payload_length,
                ..header
            };
            mover.put_words(&ring.chain(chain)[0], 0, words(header));
            (flags, left) = (common, rest);
        }
    }

    pub(super) fn put_virtio_net_header<M, R>(
        &self,
        mover: &M,
        ring: &R,
        verdict: ChecksumVerdict,
        note: &Annotation,
    ) where
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

/// The parts of the extents, which are in frame order, that hold the frame's bytes `range`.
fn parts(extents: &[Extent], range: std::ops::Range<usize>) -> impl Iterator<Item = Extent> + '_ {
    let before_end = move |extent: &&Extent| extent.frame_offset < range.end;
    extents
        .iter()
        .take_while(before_end)
        .filter_map(move |extent| {
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
