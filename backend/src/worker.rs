//! The threads that serve rings.
//!
//! A worker waits on the kick descriptors of the rings it serves and on an eventfd of its own. All are
//! watched edge-triggered and never read: each write to an eventfd is an edge, so no read is needed to hear
//! the next one, and no frontend can make a worker block by taking the value away first.

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

use crate::port::{MAX_RINGS, Port, Served};

/// Names the worker's own eventfd among the events; rings have their number.
const WAKE: u64 = u64::MAX;

/// Events taken from the kernel at once.
const EVENTS: usize = 64;

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
        (0..MAX_RINGS).filter(move |ring| self.0[ring / 64] & (1 << (ring % 64)) != 0)
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

    /// The thread's body: serves `port` until [`stop`](Self::stop).
    ///
    /// # Errors
    ///
    /// Waiting itself failed; that is not survivable.
    pub(crate) fn run(&self, port: &Port) -> io::Result<()> {
        let mut ready = RingSet::default();
        let mut blocked: BTreeMap<usize, Instant> = BTreeMap::new();
        let mut events = [Event::new(Events::empty(), 0); EVENTS];
        while !self.stop.load(Ordering::Acquire) {
            let timeout = if ready.is_empty() {
                timeout(blocked.values().min())
            } else {
                0
            };
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
            for (word, pending) in kicked.0.iter_mut().zip(&self.pending) {
                *word |= pending.swap(0, Ordering::Acquire);
            }
            for ring in kicked.iter() {
                if ring % 2 == 0 {
                    port.receive_kicked(ring / 2);
                } else {
                    ready.insert(ring);
                }
            }
            let again = self.retry.swap(false, Ordering::Acquire);
            let now = Instant::now();
            blocked.retain(|&ring, deadline| {
                let wait = !again && *deadline > now;
                if !wait {
                    ready.insert(ring);
                }
                wait
            });
            // One bounded batch each, so that a busy ring does not starve the others.
            for ring in ready.iter() {
                match port.serve(ring / 2) {
                    Served::More => {}
                    Served::Idle => ready.remove(ring),
                    Served::Blocked(deadline) => {
                        ready.remove(ring);
                        blocked.insert(ring, deadline);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Milliseconds until `deadline`, rounded up; -1: for ever.
fn timeout(deadline: Option<&Instant>) -> i32 {
    deadline.map_or(-1, |deadline| {
        let left = deadline.saturating_duration_since(Instant::now());
        i32::try_from((left + Duration::from_micros(999)).as_millis()).unwrap_or(i32::MAX)
    })
}
