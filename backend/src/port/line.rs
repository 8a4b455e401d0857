//! A port's end of a wire that threads carry frames over: a connection, a tap, a shaped cable.
//!
//! A worker appends frames to an outlet and never waits for the outside. A thread per outlet takes
//! them from there. The lock of an outlet is a leaf: its holder takes no other.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rustix::{
    event::{EventfdFlags, eventfd},
    io::{read, write},
};
use zcnic_device::frame::{Headers, IpVersion};

use super::shaper::{Fate, Shaper};
use crate::{config::FlowControl, sync::lock};

/// Bytes that an outlet without a shaper holds before further frames are dropped.
pub(crate) const CAPACITY: usize = 4 << 20;

/// Bytes that the outlet of a shaped cable holds: those under way for the time of its delay.
const SHAPED_CAPACITY: usize = 64 << 20;

/// Bytes that a frame in an outlet takes beside its own, approximately: without them an outlet full
/// of the smallest frames would take many times its capacity.
const FRAME_COST: usize = 128;

/// How a line takes frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sink {
    /// It discards them.
    Discard,
    /// As wire frames with final checksums.
    Frames,
    /// Unsegmented, with a virtio-net header that asks for checksum and TCP segmentation.
    Offloads {
        /// And for UDP segmentation.
        uso: bool,
    },
}

/// A frame on its way out.
#[derive(Debug)]
pub(crate) struct OutgoingFrame {
    /// The virtio-net header; zeroes unless the line takes offloads.
    pub(crate) header: [u8; 12],
    pub(crate) bytes: Vec<u8>,
    /// When it arrives, in nanoseconds since the backend started; 0 without a shaper.
    pub(crate) due: u64,
}

impl OutgoingFrame {
    fn cost(&self) -> usize {
        self.bytes.len() + FRAME_COST
    }
}

/// The outcome of [`Outlet::push`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// The frame is in the queue.
    Queued,
    /// A shaper lost the frame.
    Lost,
    /// There is no room for the frame, and the caller may wait for some.
    Wait,
    /// There is no room for the frame.
    Full,
}

#[derive(Debug, Default)]
struct OutletQueue {
    frames: VecDeque<OutgoingFrame>,
    bytes: usize,
    shaper: Option<Shaper>,
    /// The thread waits until its descriptor is written.
    asleep: bool,
    /// A sender waits for room.
    waited_for: bool,
    /// A frame waited in vain: later ones are dropped without waiting until one is taken.
    stalled: bool,
}

/// A bounded queue of frames for one thread.
#[derive(Debug)]
pub(crate) struct Outlet {
    queue: Mutex<OutletQueue>,
    capacity: usize,
    wake: OwnedFd,
}

impl Outlet {
    fn new(shaper: Option<Shaper>) -> io::Result<Self> {
        let capacity = match shaper {
            Some(_) => SHAPED_CAPACITY,
            None => CAPACITY,
        };
        Ok(Self {
            queue: Mutex::new(OutletQueue {
                shaper,
                ..OutletQueue::default()
            }),
            capacity,
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Appends a frame that is sent at `now`, or drops it. If there is no room and `may_wait`, the
    /// line [reports](Self::take) when there is.
    pub(crate) fn push(&self, mut frame: OutgoingFrame, now: u64, may_wait: bool) -> Pushed {
        let mut queue = lock(&self.queue);
        let fate = if queue.bytes >= self.capacity {
            Fate::Full
        } else {
            let length = frame.bytes.len();
            let shaper = queue.shaper.as_mut();
            shaper.map_or(Fate::Arrives(0), |shaper| shaper.send(now, length))
        };
        match fate {
            Fate::Lost => return Pushed::Lost,
            Fate::Full if may_wait && !queue.stalled => {
                queue.waited_for = true;
                return Pushed::Wait;
            }
            Fate::Full => {
                queue.stalled |= may_wait;
                return Pushed::Full;
            }
            Fate::Arrives(due) => frame.due = due,
        }
        queue.bytes += frame.cost();
        queue.frames.push_back(frame);
        let asleep = std::mem::take(&mut queue.asleep);
        drop(queue);
        if asleep {
            self.wake();
        }
        Pushed::Queued
    }

    /// Ends the waiting for room: frames are dropped until the next one is taken.
    pub(crate) fn give_up(&self) {
        lock(&self.queue).stalled = true;
    }

    /// Takes frames that are due at `now`, at most `count`. Returns whether a sender waits for the
    /// room that this made.
    pub(crate) fn take(&self, now: u64, count: usize, taken: &mut VecDeque<OutgoingFrame>) -> bool {
        let mut queue = lock(&self.queue);
        for _ in 0..count {
            match queue.frames.pop_front_if(|frame| frame.due <= now) {
                Some(frame) => {
                    queue.bytes -= frame.cost();
                    queue.stalled = false;
                    taken.push_back(frame);
                }
                None => break,
            }
        }
        // A shaper has room again when bits were sent, which is when frames become due.
        let has_room = queue.shaper.is_some() || queue.bytes <= self.capacity / 2;
        has_room && !taken.is_empty() && std::mem::take(&mut queue.waited_for)
    }

    /// When the first frame is due, if there is one. Else the next frame writes the descriptor.
    pub(crate) fn sleep(&self) -> Option<u64> {
        let mut queue = lock(&self.queue);
        let due = queue.frames.front().map(|frame| frame.due);
        queue.asleep = due.is_none();
        due
    }

    /// Drops all frames; returns how many.
    pub(crate) fn clear(&self) -> u64 {
        let mut queue = lock(&self.queue);
        queue.bytes = 0;
        (queue.stalled, queue.waited_for) = (false, false);
        queue.frames.drain(..).count() as u64
    }

    /// Wakes the thread.
    fn wake(&self) {
        // The counter can't overflow: the thread reads it whenever it wakes.
        let _ = write(&self.wake, &1u64.to_ne_bytes());
    }

    /// The descriptor that wakes the thread.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Makes the descriptor wait for the next event.
    pub(crate) fn woken(&self) {
        // It fails only if there was none.
        let _ = read(&self.wake, &mut [0; 8]);
    }
}

/// Counters of a line. Frames are those of the descriptor: an unsegmented one counts once.
#[derive(Debug, Default)]
pub(crate) struct LineCounters {
    /// Frames that went out.
    pub(crate) sent: AtomicU64,
    /// Frames that came in, before steering.
    pub(crate) received: AtomicU64,
    /// Frames that did not go out: a full queue, a failed write, or the end of a connection.
    pub(crate) send_dropped: AtomicU64,
    /// Frames that came in while the port had no driver, or that are no valid frames.
    pub(crate) receive_dropped: AtomicU64,
    /// Frames that a shaper lost.
    pub(crate) lost: AtomicU64,
    /// Connections made so far.
    pub(crate) connections: AtomicU64,
}

impl LineCounters {
    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

/// A port's end of a wire that threads carry frames over.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) sink: Sink,
    pub(crate) flow_control: FlowControl,
    pub(crate) outlets: Vec<Outlet>,
    pub(crate) counters: LineCounters,
    up: AtomicBool,
    stopping: AtomicBool,
}

impl Line {
    /// A line with `outlets` outlets, without a carrier.
    ///
    /// # Errors
    ///
    /// The system has no more file descriptors.
    pub(crate) fn new(sink: Sink, flow_control: FlowControl, outlets: usize) -> io::Result<Self> {
        let outlets = (0..outlets).map(|_| Outlet::new(None));
        Ok(Self {
            sink,
            flow_control,
            outlets: outlets.collect::<Result<_, _>>()?,
            counters: LineCounters::default(),
            up: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        })
    }

    /// One direction of a shaped cable.
    ///
    /// # Errors
    ///
    /// The system has no more file descriptors.
    pub(crate) fn shaped(shaper: Shaper, flow_control: FlowControl) -> io::Result<Self> {
        Ok(Self {
            outlets: vec![Outlet::new(Some(shaper))?],
            up: AtomicBool::new(true),
            ..Self::new(Sink::Frames, flow_control, 0)?
        })
    }

    /// Whether it has a carrier.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// Sets whether it has a carrier; returns whether that changed.
    pub(crate) fn set_up(&self, up: bool) -> bool {
        self.up.swap(up, Ordering::AcqRel) != up
    }

    /// The outlet of the flow that a frame belongs to, so that its frames stay in order.
    pub(crate) fn outlet(&self, headers: &Headers, header_bytes: &[u8]) -> &Outlet {
        if let [outlet] = &self.outlets[..] {
            return outlet;
        }
        let hash = flow_hash(headers, header_bytes);
        &self.outlets[(hash % self.outlets.len() as u64) as usize]
    }

    /// Wakes its threads, because the port posted receive buffers.
    pub(crate) fn wake(&self) {
        self.outlets.iter().for_each(Outlet::wake);
    }

    /// Ends its threads.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether its threads are to end.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

/// A hash of a frame's IP addresses and ports.
fn flow_hash(headers: &Headers, header_bytes: &[u8]) -> u64 {
    let addresses = headers.l3.map_or(0..12, |l3| match l3.version {
        IpVersion::V4 => l3.offset + 12..l3.offset + 20,
        IpVersion::V6 => l3.offset + 8..l3.offset + 40,
    });
    let ports = headers.l4.map_or(0..0, |l4| l4.offset..l4.offset + 4);
    let part = |range| header_bytes.get(range).unwrap_or_default();
    BuildHasherDefault::<DefaultHasher>::default().hash_one((part(addresses), part(ports)))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use zcnic_device::train::finished;

    use super::*;
    use crate::config::CableShape;

    fn frame(length: usize) -> OutgoingFrame {
        OutgoingFrame {
            header: [0; 12],
            bytes: vec![0; length],
            due: 0,
        }
    }

    fn outlet(shaper: Option<Shaper>) -> Outlet {
        Outlet::new(shaper).expect("an outlet")
    }

    #[test]
    fn a_full_outlet_drops_frames_until_some_are_taken() {
        let outlet = outlet(None);
        for _ in 0..CAPACITY / 4096 {
            assert_eq!(
                outlet.push(frame(4096 - FRAME_COST), 0, false),
                Pushed::Queued
            );
        }
        assert_eq!(outlet.push(frame(1), 0, false), Pushed::Full);
        let mut taken = VecDeque::new();
        assert!(!outlet.take(0, 1, &mut taken), "no sender waits");
        assert_eq!(outlet.push(frame(1), 0, false), Pushed::Queued);
    }

    #[test]
    fn a_sender_that_waits_continues_when_half_of_the_outlet_is_empty() {
        let outlet = outlet(None);
        let half = CAPACITY / 2 - FRAME_COST;
        for _ in 0..2 {
            assert_eq!(outlet.push(frame(half), 0, true), Pushed::Queued);
        }
        assert_eq!(outlet.push(frame(1), 0, true), Pushed::Wait);
        let mut taken = VecDeque::new();
        assert!(outlet.take(0, 1, &mut taken));
        assert!(!outlet.take(0, 1, &mut taken), "it was reported");
        for _ in 0..2 {
            outlet.push(frame(half), 0, true);
        }
        outlet.give_up();
        assert_eq!(outlet.push(frame(1), 0, true), Pushed::Full);
    }

    #[test]
    fn frames_of_a_shaper_are_taken_when_they_are_due() {
        let shape = CableShape {
            // A byte per microsecond.
            rate: NonZeroU64::new(8_000_000),
            ..CableShape::default()
        };
        let outlet = outlet(Some(Shaper::new(shape, 0)));
        assert_eq!(outlet.sleep(), None);
        for _ in 0..2 {
            assert_eq!(outlet.push(frame(10), 500, false), Pushed::Queued);
        }
        assert_eq!(outlet.sleep(), Some(10_500));
        let mut taken = VecDeque::new();
        outlet.take(10_499, 64, &mut taken);
        assert!(taken.is_empty());
        outlet.take(10_500, 64, &mut taken);
        assert_eq!((taken.len(), outlet.sleep()), (1, Some(20_500)));
        assert_eq!(outlet.clear(), 1);
    }

    #[test]
    fn only_a_sleeping_thread_is_woken() {
        let outlet = outlet(None);
        let was_woken = || read(&outlet.wake, &mut [0; 8]).is_ok();
        outlet.push(frame(1), 0, false);
        assert!(!was_woken());
        outlet.clear();
        assert_eq!(outlet.sleep(), None);
        outlet.push(frame(1), 0, false);
        outlet.push(frame(1), 0, false);
        assert!(was_woken() && !was_woken());
    }

    #[test]
    fn the_frames_of_a_flow_have_one_outlet() {
        let line = Line::new(Sink::Frames, FlowControl::Drop, 4).expect("a line");
        let mut frame = [0; 60];
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[17] = 46;
        frame[23] = 17;
        frame[39] = 26;
        let number = |frame: &[u8; 60]| {
            let train = finished(frame);
            let outlet = line.outlet(train.headers(), train.header_bytes());
            line.outlets
                .iter()
                .position(|other| std::ptr::eq(other, outlet))
        };
        let first = number(&frame);
        // The identification is not the flow's.
        frame[18] = 77;
        assert_eq!(number(&frame), first);
        let ports: std::collections::BTreeSet<_> = (0..32)
            .map(|port| {
                frame[35] = port;
                number(&frame)
            })
            .collect();
        assert_eq!(ports.len(), 4);
    }
}
