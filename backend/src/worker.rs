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
    datapath::transmit::Scratch,
    port::{MAX_RINGS, Port, Served},
};

/// Names the worker's own eventfd among the events; rings have their number.
const WAKE: u64 = u64::MAX;

/// Events taken from the kernel at once.
const EVENTS: usize = 64;

/// Rounds over the busy rings until the others' kicks are looked for.
const ROUNDS: u32 = 16;

/// What a port's generator counts as, next to transmit rings.
pub(crate) const GENERATOR: usize = MAX_RINGS + 1;

/// Everything that a worker gives turns to has a lower number.
const TURNS: usize = GENERATOR + 1;

const WORDS: usize = TURNS.div_ceil(64);

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
        let mut schedule = Schedule::new(poll);
        let mut rounds = 0;
        while !self.stop.load(Ordering::Acquire) {
            let mut kicked = RingSet::default();
            rounds += 1;
            if schedule.ready.is_empty() || rounds >= ROUNDS {
                rounds = 0;
                let timeout = if schedule.ready.is_empty() {
                    timeout(schedule.blocked.values().min())
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
                    schedule.ready.insert(ring);
                }
            }
            let retry = self.retry.load(Ordering::Relaxed);
            if retry || !schedule.blocked.is_empty() {
                schedule.unblock(retry && self.retry.swap(false, Ordering::Acquire));
            }
            schedule.round(|ring, arm| match ring {
                GENERATOR => port.generate(&mut scratch),
                _ => port.serve(ring / 2, arm, &mut scratch),
            });
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

/// Which transmit rings a worker looks at, and which wait for something.
struct Schedule {
    poll: Duration,
    ready: RingSet,
    /// Since when rings that are ready had nothing.
    empty_since: [Option<Instant>; TURNS],
    /// Until when rings wait for a full receiver.
    blocked: BTreeMap<usize, Instant>,
}

impl Schedule {
    fn new(poll: Duration) -> Self {
        Self {
            poll,
            ready: RingSet::default(),
            empty_since: [None; TURNS],
            blocked: BTreeMap::new(),
        }
    }

    /// Has rings whose time is up, or all that wait, looked at again.
    fn unblock(&mut self, all: bool) {
        let now = Instant::now();
        self.blocked.retain(|&ring, deadline| {
            let wait = !all && *deadline > now;
            if !wait {
                self.ready.insert(ring);
            }
            wait
        });
    }

    /// Serves every ring that is ready once, a bounded batch each, so that a busy one does not starve the
    /// others. `serve` is told whether to ask for a kick if there is nothing.
    fn round(&mut self, mut serve: impl FnMut(usize, bool) -> Served) {
        let mut now = None;
        for ring in self.ready.iter() {
            let mut arm = self.poll.is_zero();
            if let (false, Some(since)) = (arm, self.empty_since[ring]) {
                let now = *now.get_or_insert_with(Instant::now);
                arm = now.saturating_duration_since(since) >= self.poll;
            }
            let served = serve(ring, arm);
            if served == Served::Empty {
                if self.empty_since[ring].is_none() {
                    self.empty_since[ring] = Some(*now.get_or_insert_with(Instant::now));
                }
                continue;
            }
            self.empty_since[ring] = None;
            if served != Served::More {
                self.ready.remove(ring);
            }
            if let Served::Blocked(deadline) = served {
                self.blocked.insert(ring, deadline);
            }
        }
    }
}

/// Milliseconds until `deadline`, rounded up; -1: for ever.
fn timeout(deadline: Option<&Instant>) -> i32 {
    deadline.map_or(-1, |deadline| {
        let left = deadline.saturating_duration_since(Instant::now());
        i32::try_from((left + Duration::from_micros(999)).as_millis()).unwrap_or(i32::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_rings_are_walked_in_order() {
        let mut set = RingSet::default();
        let members = [0, 1, 63, 64, 127, 128, 200, MAX_RINGS - 1];
        for ring in members.iter().rev() {
            set.insert(*ring);
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), members);
        members.iter().for_each(|ring| set.remove(*ring));
        assert!(set.is_empty() && set.iter().next().is_none());
    }

    #[test]
    fn a_busy_ring_gets_no_more_turns_than_31_others() {
        let mut schedule = Schedule::new(Duration::from_secs(3600));
        let mut left = [0u64; 64];
        for ring in (1..64).step_by(2) {
            schedule.ready.insert(ring);
            left[ring] = 5;
        }
        left[1] = u64::MAX;
        let mut turns = [0; 64];
        for round in 1..=10 {
            schedule.round(|ring, _| {
                turns[ring] += 1;
                if left[ring] == 0 {
                    return Served::Idle;
                }
                left[ring] -= 1;
                Served::More
            });
            assert_eq!(turns[1], round);
            for ring in (3..64).step_by(2) {
                assert_eq!(turns[ring], round.min(6), "ring {ring} in round {round}");
            }
        }
        assert_eq!(schedule.ready.iter().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn empty_rings_are_polled_for_their_time_and_then_wait_for_a_kick() {
        let mut schedule = Schedule::new(Duration::from_secs(3600));
        schedule.ready.insert(5);
        let mut asked = Vec::new();
        for _ in 0..3 {
            schedule.round(|_, arm| {
                asked.push(arm);
                Served::Empty
            });
        }
        schedule.poll = Duration::ZERO;
        schedule.round(|ring, arm| {
            assert_eq!(ring, 5);
            asked.push(arm);
            Served::Idle
        });
        assert_eq!(asked, [false, false, false, true]);
        assert!(schedule.ready.is_empty());
    }

    #[test]
    fn blocked_rings_come_back_when_asked_or_when_their_time_is_up() {
        let mut schedule = Schedule::new(Duration::ZERO);
        let later = Instant::now() + Duration::from_secs(3600);
        for (ring, deadline) in [(1, later), (3, Instant::now())] {
            schedule.ready.insert(ring);
            schedule.round(|_, _| Served::Blocked(deadline));
        }
        assert!(schedule.ready.is_empty());
        schedule.unblock(false);
        assert_eq!(schedule.ready.iter().collect::<Vec<_>>(), [3]);
        schedule.unblock(true);
        assert_eq!(schedule.ready.iter().collect::<Vec<_>>(), [1, 3]);
        assert!(schedule.blocked.is_empty());
    }
}
