//! Hardware GRO of a receive queue: which segments are held for successors, and when they are
//! delivered.
//!
//! Chains are used in the order of the ring, so an incomplete frame can't occupy one: its segments
//! are staged in the device's memory. Only the end of a train, which is complete, is coalesced in
//! place and copied once. No frame overtakes segments of its own stream.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
};

use foldhash::fast::RandomState;

use super::{Annotation, Delivered, Layout, RX_HEADER, ReceiveQueue};
use crate::{
    features::Feature,
    frame::{Headers, SNAPSHOT},
    gro::{Class, Coalesced, Stream, TcpSegment, classify, coalesced, may_coalesce, run},
    memory::{FromDevice, Mover, ReceiveRing},
    train::{Train, finish_into, finished},
};

/// The most streams with held segments; for a further one the oldest is delivered.
const MAX_STREAMS: usize = 1024;

/// The most bytes held.
const MAX_BYTES: usize = 1 << 20;

/// Idle time in nanoseconds after which a queue delivers all held segments: longer than the pauses
/// of an emulated sender's processor, no longer than TCP delays an acknowledgement. Senders end
/// their bursts with PSH, so this is rare.
const QUIET: u64 = 40_000_000;

/// The longest hold of a segment in nanoseconds: less than TCP's retransmission timeout.
const HOLD: u64 = 150_000_000;

/// The longest time in nanoseconds that a complete aggregate waits for buffers.
const PATIENCE: u64 = 500_000_000;

/// Memory buffers kept for reuse.
const SPARE: usize = 4;

/// The held segments of a queue, by age.
#[derive(Debug, Default)]
pub(super) struct HeldSegments {
    held: BTreeMap<u64, Waiting>,
    streams: HashMap<Stream, u64, RandomState>,
    /// Complete aggregates, which wait for receive buffers only.
    complete: BTreeSet<u64>,
    next: u64,
    bytes: usize,
    /// Time of the last frame.
    touched: u64,
    settled: Vec<Settled>,
    scratch: Vec<u8>,
    spare: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Waiting {
    coalesced: Coalesced,
    stream: Stream,
    note: Annotation,
    since: u64,
}

/// The result of delivering held segments.
#[derive(Debug)]
pub struct Settled {
    headers: Headers,
    frame: Vec<u8>,
    /// The result.
    pub delivered: Delivered,
}

impl Settled {
    /// The headers of the first segment.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The bytes that these headers were parsed from.
    #[must_use]
    pub fn header_bytes(&self) -> &[u8] {
        &self.frame[..self.frame.len().min(SNAPSHOT)]
    }
}

/// There is no receive buffer: the segments stay held.
struct NoBuffer;

impl HeldSegments {
    /// Drops everything and returns the number of wire frames dropped.
    pub(super) fn drop_all(&mut self) -> u64 {
        let frames = self
            .held
            .values()
            .map(|one| u64::from(one.coalesced.count()));
        let frames = frames.sum();
        *self = Self {
            next: self.next,
            settled: std::mem::take(&mut self.settled),
            ..Self::default()
        };
        frames
    }

    fn hold(&mut self, segment: TcpSegment<'_>, stream: Stream, note: &Annotation, now: u64) {
        let coalesced = Coalesced::new(segment, self.spare.pop().unwrap_or_default());
        self.bytes += coalesced.length();
        self.streams.insert(stream, self.next);
        self.held.insert(
            self.next,
            Waiting {
                coalesced,
                stream,
                note: *note,
                since: now,
            },
        );
        self.next += 1;
    }

    fn remove(&mut self, id: u64) -> Option<Waiting> {
        let waiting = self.held.remove(&id)?;
        self.streams.remove(&waiting.stream);
        self.complete.remove(&id);
        self.bytes -= waiting.coalesced.length();
        Some(waiting)
    }

    fn oldest(&self) -> Option<u64> {
        self.held.first_key_value().map(|(id, _)| *id)
    }

    /// The oldest aggregate that is to be delivered at `now`.
    fn due(&self, now: u64) -> Option<u64> {
        let (id, oldest) = self.held.first_key_value()?;
        let quiet = now.saturating_sub(self.touched) >= QUIET;
        if quiet || now.saturating_sub(oldest.since) >= HOLD {
            return Some(*id);
        }
        self.complete.first().copied()
    }
}

impl ReceiveQueue {
    /// Delivers `segments` of a train with hardware GRO, on a port that has it switched on or a
    /// queue that holds segments. Segments that successors may extend are held; held segments that
    /// the train can't extend are delivered first. [`settled`](Self::settled) reports the results
    /// for held segments.
    ///
    /// If `waits` and buffers are missing, `blocked_at` is set as by `deliver`, even if older
    /// frames miss them; otherwise frames without buffers are dropped.
    #[expect(clippy::too_many_arguments, reason = "those of deliver, and the time")]
    pub fn coalesce<M, R>(
        &mut self,
        mover: &M,
        ring: &mut R,
        train: &Train<'_, M::Source>,
        segments: Range<usize>,
        note: &Annotation,
        waits: bool,
        now: u64,
    ) -> Delivered
    where
        M: Mover,
        R: ReceiveRing<Target = M::Target>,
    {
        let mut batch = Batch::new(self, mover, ring, waits, now);
        let mut delivered = Delivered::default();
        let mut at = segments.start;
        if batch
            .advance(train, &mut at, segments.end, note, &mut delivered)
            .is_err()
        {
            delivered.blocked_at = Some(at);
        }
        self.held.touched = now;
        delivered
    }

    /// Delivers the held segments whose time is over.
    pub fn release<M, R>(&mut self, mover: &M, ring: &mut R, waits: bool, now: u64)
    where
        M: Mover,
        R: ReceiveRing<Target = M::Target>,
    {
        let mut batch = Batch::new(self, mover, ring, waits, now);
        while let Some(id) = batch.queue.held.due(now) {
            if batch.flush(id).is_err() {
                return;
            }
        }
    }

    /// Delivers all held segments, as far as there are buffers, before a frame that must not
    /// overtake them.
    pub(crate) fn release_all<M, R>(&mut self, mover: &M, ring: &mut R, now: u64)
    where
        M: Mover,
        R: ReceiveRing<Target = M::Target>,
    {
        let mut batch = Batch::new(self, mover, ring, true, now);
        // Segments without buffers are delivered later.
        let _ = batch.flush_all();
    }

    /// Whether segments are held.
    #[must_use]
    #[inline]
    pub fn holds(&self) -> bool {
        !self.held.held.is_empty()
    }

    /// When to call [`release`](Self::release) if no frame arrives before.
    #[must_use]
    pub fn release_at(&self) -> Option<u64> {
        let oldest = self.held.held.first_key_value()?.1;
        Some((oldest.since + HOLD).min(self.held.touched + QUIET))
    }

    /// Calls `report` with each result for held segments since the last call.
    pub fn settled(&mut self, mut report: impl FnMut(&Settled)) {
        for one in self.held.settled.drain(..) {
            report(&one);
            if self.held.spare.len() < SPARE {
                self.held.spare.push(one.frame);
            }
        }
    }
}

/// A queue with its mover and ring.
struct Batch<'b, M, R> {
    queue: &'b mut ReceiveQueue,
    mover: &'b M,
    ring: &'b mut R,
    waits: bool,
    now: u64,
}

impl<'b, M, R> Batch<'b, M, R>
where
    M: Mover,
    R: ReceiveRing<Target = M::Target>,
{
    fn new(
        queue: &'b mut ReceiveQueue,
        mover: &'b M,
        ring: &'b mut R,
        waits: bool,
        now: u64,
    ) -> Self {
        Self {
            queue,
            mover,
            ring,
            waits,
            now,
        }
    }

    /// Delivers or holds segments of a train until `end`; `at` is the next one.
    fn advance(
        &mut self,
        train: &Train<'_, M::Source>,
        at: &mut usize,
        end: usize,
        note: &Annotation,
        delivered: &mut Delivered,
    ) -> Result<(), NoBuffer> {
        while let Some(id) = self.queue.held.due(self.now) {
            self.flush(id)?;
        }
        let coalesces = note.offloads.has(Feature::Gro)
            && !matches!(self.queue.layout, None | Some(Layout::VirtioNet));
        let class = if coalesces {
            classify(train.headers(), train.header_bytes())
        } else {
            Class::Unknown
        };
        let stream = match class {
            Class::Stream(stream) => stream,
            Class::Other => return self.pass(train, at, end, note, delivered),
            Class::Unknown => {
                self.flush_all()?;
                return self.pass(train, at, end, note, delivered);
            }
        };
        while *at < end {
            if train.segments() == 1 && !may_coalesce(train.headers(), train.header_bytes()) {
                self.flush_stream(&stream)?;
                return self.pass(train, at, end, note, delivered);
            }
            let direct =
                if end == train.segments() && !self.queue.held.streams.contains_key(&stream) {
                    self.limit(train.headers().payload_offset())
                        .and_then(|limit| run(train, *at, limit))
                } else {
                    None
                };
            match direct {
                Some(count) => self.coalesce_in_place(train, *at, count, note, delivered)?,
                None => self.stage(train, *at, &stream, note, delivered)?,
            }
            *at += direct.unwrap_or(1);
        }
        Ok(())
    }

    /// The most bytes of an aggregate with this many bytes of headers; `None`: the headers do not
    /// fit.
    fn limit(&self, headers: usize) -> Option<usize> {
        match self.queue.layout? {
            Layout::VirtioNet => None,
            Layout::Linear { size } => Some(self.queue.max_chains * (size as usize - RX_HEADER)),
            Layout::Split {
                header_size,
                page_size,
                ..
            } => (headers <= header_size as usize - RX_HEADER)
                .then_some(headers + self.queue.max_chains * page_size as usize),
        }
    }

    /// Delivers segments unchanged.
    fn pass(
        &mut self,
        train: &Train<'_, M::Source>,
        at: &mut usize,
        end: usize,
        note: &Annotation,
        delivered: &mut Delivered,
    ) -> Result<(), NoBuffer> {
        if end == train.segments() {
            let all = self.queue.deliver(self.mover, self.ring, train, *at, note);
            delivered.merge(&all);
            *at = all.blocked_at.unwrap_or(end);
            return if *at < end { Err(NoBuffer) } else { Ok(()) };
        }
        let mut frame = std::mem::take(&mut self.queue.held.scratch);
        while *at < end {
            finish_into(self.mover, train, *at, &mut frame);
            let one = self.deliver_own(&finished(&frame), note);
            delivered.merge(&one);
            if one.blocked_at.is_some() {
                break;
            }
            *at += 1;
        }
        self.queue.held.scratch = frame;
        if *at < end { Err(NoBuffer) } else { Ok(()) }
    }

    /// Delivers the end of a train, or as much of it as fits into one frame, coalesced in place.
    fn coalesce_in_place(
        &mut self,
        train: &Train<'_, M::Source>,
        at: usize,
        count: usize,
        note: &Annotation,
        delivered: &mut Delivered,
    ) -> Result<(), NoBuffer> {
        let mut buffer = [0; SNAPSHOT];
        let Some(frame) = coalesced(train, at, count, &mut buffer) else {
            return Ok(());
        };
        let wire: usize = (at..at + count)
            .map(|index| train.segment_length(index))
            .sum();
        let one = self.queue.deliver(self.mover, self.ring, &frame, 0, note);
        let one = self.queue.count_coalesced(&frame, one, count, wire, note);
        delivered.merge(&one);
        match one.blocked_at {
            Some(_) => Err(NoBuffer),
            None => Ok(()),
        }
    }

    /// Copies one segment of `stream` to the device's memory, and delivers or holds it.
    fn stage(
        &mut self,
        train: &Train<'_, M::Source>,
        at: usize,
        stream: &Stream,
        note: &Annotation,
        delivered: &mut Delivered,
    ) -> Result<(), NoBuffer> {
        let mut frame = std::mem::take(&mut self.queue.held.scratch);
        finish_into(self.mover, train, at, &mut frame);
        let result = self.stage_frame(&frame, stream, note, delivered);
        self.queue.held.scratch = frame;
        result
    }

    fn stage_frame(
        &mut self,
        frame: &[u8],
        stream: &Stream,
        note: &Annotation,
        delivered: &mut Delivered,
    ) -> Result<(), NoBuffer> {
        let segment = TcpSegment::new(frame);
        let limit = segment
            .as_ref()
            .and_then(|segment| self.limit(segment.header_length()));
        let held = &mut self.queue.held;
        if let (Some(segment), Some(limit), Some(&id)) = (&segment, limit, held.streams.get(stream))
            && let Some(waiting) = held.held.get_mut(&id)
        {
            let before = waiting.coalesced.length();
            if waiting.coalesced.merge(segment, limit) {
                let closed = waiting.coalesced.is_closed();
                held.bytes = held.bytes - before + waiting.coalesced.length();
                if closed {
                    // Without buffers the aggregate stays held: it contains the segment.
                    let _ = self.flush(id);
                }
                return self.make_room(0);
            }
        }
        self.flush_stream(stream)?;
        match segment.filter(|segment| limit.is_some() && !segment.closes()) {
            Some(segment) => {
                self.make_room(frame.len())?;
                self.queue.held.hold(segment, *stream, note, self.now);
                Ok(())
            }
            None => {
                let one = self.deliver_own(&finished(frame), note);
                delivered.merge(&one);
                one.blocked_at.map_or(Ok(()), |_| Err(NoBuffer))
            }
        }
    }

    /// Delivers the oldest aggregates until `more` bytes of a further stream can be held.
    fn make_room(&mut self, more: usize) -> Result<(), NoBuffer> {
        loop {
            let held = &self.queue.held;
            let streams = held.held.len() + usize::from(more > 0);
            match held.oldest() {
                Some(id) if streams > MAX_STREAMS || held.bytes + more > MAX_BYTES => {
                    self.flush(id)?;
                }
                _ => return Ok(()),
            }
        }
    }

    fn flush_stream(&mut self, stream: &Stream) -> Result<(), NoBuffer> {
        match self.queue.held.streams.get(stream) {
            Some(&id) => self.flush(id),
            None => Ok(()),
        }
    }

    fn flush_all(&mut self) -> Result<(), NoBuffer> {
        while let Some(id) = self.queue.held.oldest() {
            self.flush(id)?;
        }
        Ok(())
    }

    /// Delivers the aggregate with this number, or drops it if there is no buffer and it must not
    /// wait.
    fn flush(&mut self, id: u64) -> Result<(), NoBuffer> {
        let Some(mut waiting) = self.queue.held.remove(id) else {
            return Ok(());
        };
        waiting.coalesced.seal();
        let (count, wire) = (waiting.coalesced.count(), waiting.coalesced.wire_bytes());
        let frame = waiting.coalesced.train();
        let one = self.deliver_own(&frame, &waiting.note);
        let count = usize::from(count);
        let mut delivered = self
            .queue
            .count_coalesced(&frame, one, count, wire, &waiting.note);
        if delivered.blocked_at.take().is_some() {
            if self.waits && self.now < waiting.since.saturating_add(HOLD + PATIENCE) {
                let held = &mut self.queue.held;
                held.bytes += waiting.coalesced.length();
                held.streams.insert(waiting.stream, id);
                held.complete.insert(id);
                held.held.insert(id, waiting);
                return Err(NoBuffer);
            }
            self.queue.counters.no_buffer += count as u64;
            delivered.dropped += count as u32;
        }
        let (headers, frame) = waiting.coalesced.into_parts();
        self.queue.held.settled.push(Settled {
            headers,
            frame,
            delivered,
        });
        Ok(())
    }

    /// Delivers a frame in the device's memory.
    fn deliver_own(&mut self, frame: &Train<'_, [u8]>, note: &Annotation) -> Delivered {
        let mover = FromDevice(self.mover);
        self.queue.deliver(&mover, self.ring, frame, 0, note)
    }
}

impl ReceiveQueue {
    /// Counts an aggregate as its wire frames.
    fn count_coalesced<S: ?Sized>(
        &mut self,
        frame: &Train<'_, S>,
        one: Delivered,
        count: usize,
        wire_bytes: usize,
        note: &Annotation,
    ) -> Delivered {
        if frame.aggregate.is_none() {
            return one;
        }
        let counters = &mut self.counters;
        let more = count as u64 - 1;
        if one.frames > 0 {
            counters.frames += more;
            counters.bytes += (wire_bytes - frame.length) as u64;
            counters.split += u64::from(one.split) * more;
            counters.hashed += u64::from(note.hash.is_some()) * more;
            counters.gro_frames += 1;
            counters.gro_bytes += frame.length as u64;
            counters.gro_wire_frames += count as u64;
            counters.gro_wire_bytes += wire_bytes as u64;
        }
        counters.too_long += u64::from(one.dropped) * more;
        Delivered {
            frames: one.frames * count as u32,
            split: one.split * count as u32,
            unsplit: one.unsplit * count as u32,
            dropped: one.dropped * count as u32,
            blocked_at: one.blocked_at,
        }
    }
}

#[cfg(test)]
mod tests;
