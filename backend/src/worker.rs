//! The threads that serve rings.
//!
//! A worker waits on the kick descriptors of the rings it serves and on an eventfd of its own. All are
//! watched edge-triggered and never read: each write to an eventfd is an edge, so no read is needed to hear
//! the next one, and no frontend can make a worker block by taking the value away first.
//!
//! A ring that was busy is looked at again and again for a while before it is asked to kick: under load neither
//! side needs a system call then. Rings that stay empty for that long cost nothing any more.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use epoll::{ControlOptions, Event, Events};
use rustix::{
    event::{EventfdFlags, eventfd},
    io::write,
};

use crate::{
    port::{MAX_RINGS, Port, Served},
    wire::Scratch,
};

/// Names the worker's own eventfd among the events; rings have their number.
const WAKE: u64 = u64::MAX;

/// Events taken from the kernel at once.
const EVENTS: usize = 64;

/// Rounds over the busy rings until the others' kicks are looked for.
const ROUNDS: u32 = 16;

const WORDS: usize = MAX_RINGS.div_ceil(64);

/// A set of ring numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct RingSet([u64; WORDS]);

impl RingSet {
    fn insert(&mut self, ring: usize) {
        self.0[ring / 64] |= 1 << (ring % 64);
    }

    fn remove(&mut self, ring: usize) {
        self.0[ring / 64] &= !(1 << (ring % 64));
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn iter(self) -> impl Iterator<Item = usize> {
        self.0
            .into_iter()
            .enumerate()
            .flat_map(|(index, mut word)| {
                std::iter::from_fn(move || {
                    let bit = (word != 0).then(|| word.trailing_zeros() as usize)?;
                    word &= word - 1;
                    Some(64 * index + bit)
                })
            })
    }
}

/// How others reach a worker's thread.
#[derive(Debug)]
pub(crate) struct Worker {
    epoll: RawFd,
    wake: OwnedFd,
    /// Rings to look at although nobody kicked them.
    pending: [AtomicU64; WORDS],
    /// Something changed that blocked rings may have waited for.
    retry: AtomicBool,
    stop: AtomicBool,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = epoll::close(self.epoll);
    }
}

impl Worker {
    pub(crate) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let worker = Self {
            epoll: epoll::create(true)?,
            wake,
            pending: Default::default(),
            retry: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        };
        worker.add(worker.wake.as_fd(), WAKE)?;
        Ok(worker)
    }

    fn add(&self, fd: BorrowedFd<'_>, data: u64) -> io::Result<()> {
        let event = Event::new(Events::EPOLLIN | Events::EPOLLET, data);
        epoll::ctl(
            self.epoll,
            ControlOptions::EPOLL_CTL_ADD,
            fd.as_raw_fd(),
            event,
        )
    }

    /// Serves `ring` whenever `kick` becomes readable.
    pub(crate) fn watch(&self, kick: BorrowedFd<'_>, ring: usize) -> io::Result<()> {
        self.add(kick, ring as u64)
    }

    /// Ends a [`watch`](Self::watch).
    pub(crate) fn unwatch(&self, kick: BorrowedFd<'_>) {
        let nothing = Event::new(Events::empty(), 0);
        // It fails only for a descriptor that is not watched.
        let _ = epoll::ctl(
            self.epoll,
            ControlOptions::EPOLL_CTL_DEL,
            kick.as_raw_fd(),
            nothing,
        );
    }

    /// Has `ring` served soon.
    pub(crate) fn poke(&self, ring: usize) {
        self.pending[ring / 64].fetch_or(1 << (ring % 64), Ordering::Release);
        self.wake();
    }

    /// Has rings that are blocked by a full receiver tried again.
    pub(crate) fn retry(&self) {
        self.retry.store(true, Ordering::Release);
        self.wake();
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        // The counter can't overflow in the lifetime of a machine.
        let _ = write(&self.wake, &1u64.to_ne_bytes());
    }

    /// The thread's body: serves rings of `port` until [`stop`](Self::stop), and looks for `poll` at those that
    /// became empty before it waits for their kicks.
    ///
    /// # Errors
    ///
    /// Waiting itself failed; that is not survivable.
    pub(crate) fn run(&self, port: &Port, poll: Duration) -> io::Result<()> {
        let mut scratch = Scratch::default();
        let mut ready = RingSet::default();
        let mut empty_since: [Option<Instant>; MAX_RINGS] = [None; MAX_RINGS];
        let mut blocked: BTreeMap<usize, Instant> = BTreeMap::new();
        let mut rounds = 0;
        while !self.stop.load(Ordering::Acquire) {
            let mut kicked = RingSet::default();
            rounds += 1;
            if ready.is_empty() || rounds >= ROUNDS {
                rounds = 0;
                let timeout = if ready.is_empty() {
                    timeout(blocked.values().min())
                } else {
                    0
                };
                kicked = self.wait(port, timeout)?;
            }
            for (word, pending) in kicked.0.iter_mut().zip(&self.pending) {
                if pending.load(Ordering::Relaxed) != 0 {
                    *word |= pending.swap(0, Ordering::Acquire);
                }
            }
            for ring in kicked.iter() {
                if ring % 2 == 0 {
                    port.receive_kicked(ring / 2);
                } else {
                    ready.insert(ring);
                }
            }
            if !blocked.is_empty() || self.retry.load(Ordering::Relaxed) {
                let again = self.retry.swap(false, Ordering::Acquire);
                let now = Instant::now();
                blocked.retain(|&ring, deadline| {
                    let wait = !again && *deadline > now;
                    if !wait {
                        ready.insert(ring);
                    }
                    wait
                });
            }
            let mut now = None;
            // One bounded batch each, so that a busy ring does not starve the others.
            for ring in ready.iter() {
                let mut arm = poll.is_zero();
                if let (false, Some(since)) = (arm, empty_since[ring]) {
                    let now = *now.get_or_insert_with(Instant::now);
                    arm = now.saturating_duration_since(since) >= poll;
                }
                let served = port.serve(ring / 2, arm, &mut scratch);
                if served == Served::Empty {
                    if empty_since[ring].is_none() {
                        empty_since[ring] = Some(*now.get_or_insert_with(Instant::now));
                    }
                    continue;
                }
                empty_since[ring] = None;
                if served != Served::More {
                    ready.remove(ring);
                }
                if let Served::Blocked(deadline) = served {
                    blocked.insert(ring, deadline);
                }
            }
        }
        Ok(())
    }

    /// Waits for kicks, at most `timeout` milliseconds, -1: for ever.
    fn wait(&self, port: &Port, timeout: i32) -> io::Result<RingSet> {
        let mut events = [Event::new(Events::empty(), 0); EVENTS];
        let count = match epoll::wait(self.epoll, timeout, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        let mut kicked = RingSet::default();
        for event in &events[..count] {
            let (flags, data) = (Events::from_bits_truncate(event.events), event.data);
            if data == WAKE {
                continue;
            }
            let ring = data as usize % MAX_RINGS;
            if flags.intersects(Events::EPOLLERR | Events::EPOLLHUP) {
                port.kick_failed(ring);
            }
            kicked.insert(ring);
        }
        Ok(kicked)
    }
}

/// Milliseconds until `deadline`, rounded up; -1: for ever.
fn timeout(deadline: Option<&Instant>) -> i32 {
    deadline.map_or(-1, |deadline| {
        let left = deadline.saturating_duration_since(Instant::now());
        i32::try_from((left + Duration::from_micros(999)).as_millis()).unwrap_or(i32::MAX)
    })
}
