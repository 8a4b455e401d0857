//! The handles by which other threads reach a port's workers.
//!
//! A worker waits on the kick descriptors of its rings and on an eventfd of its own. All are
//! watched edge-triggered and never read: each write to an eventfd is an edge, so the next one is
//! reported without a read, and no frontend can make a worker block by draining the descriptor
//! first.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use epoll::{ControlOptions, Event as EpollEvent, Events as EpollFlags};

use crate::{
    config::MAX_PAIRS,
    index::{MAX_RINGS, PairIndex, RingIndex},
    memory::guard::Alarm,
};

/// Identifies the worker's own eventfd among its events; rings are identified by their number.
const WAKE: u64 = u64::MAX;

/// Events taken from the kernel at once.
const EVENTS: usize = 64;

/// The turn of a port's generator, beside those of transmit rings.
const GENERATOR: usize = MAX_RINGS + 1;

/// Turns that a worker can give: one per ring, and the generator's.
pub(crate) const TURNS: usize = GENERATOR + 1;

const WORDS: usize = TURNS.div_ceil(64);

/// Something that a worker serves: a ring, by its number, or the port's generator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn(usize);

impl Turn {
    /// The turn of the port's generator.
    pub(crate) const GENERATOR: Self = Self(GENERATOR);

    /// The ring whose turn it is; `None`: it is the generator's.
    #[inline]
    pub(crate) fn ring(self) -> Option<RingIndex> {
        RingIndex::new(self.0)
    }

    /// Its position among all turns, below [`TURNS`].
    #[inline]
    pub(crate) fn position(self) -> usize {
        self.0
    }
}

impl From<RingIndex> for Turn {
    fn from(ring: RingIndex) -> Self {
        Self(ring.position())
    }
}

/// A set of turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TurnSet([u64; WORDS]);

impl TurnSet {
    pub(crate) fn insert(&mut self, turn: Turn) {
        self.0[turn.0 / 64] |= 1 << (turn.0 % 64);
    }

    pub(crate) fn remove(&mut self, turn: Turn) {
        self.0[turn.0 / 64] &= !(1 << (turn.0 % 64));
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Its members in ascending order.
    pub(crate) fn iter(self) -> impl Iterator<Item = Turn> {
        self.0
            .into_iter()
            .enumerate()
            .flat_map(|(index, mut word)| {
                std::iter::from_fn(move || {
                    let bit = (word != 0).then(|| word.trailing_zeros() as usize)?;
                    word &= word - 1;
                    Some(Turn(64 * index + bit))
                })
            })
    }
}

/// The handle of one worker's thread.
#[derive(Debug)]
pub(crate) struct Waker {
    epoll: RawFd,
    /// Wakes the thread, also if memory of the port's frontend has no page.
    pub(crate) alarm: Arc<Alarm>,
    /// Turns to give although no kick came.
    pending: [AtomicU64; WORDS],
    /// Rings under backpressure are to be tried again.
    retry: AtomicBool,
    stop: AtomicBool,
}

impl Drop for Waker {
    fn drop(&mut self) {
        let _ = epoll::close(self.epoll);
    }
}

impl Waker {
    fn new() -> io::Result<Self> {
        let alarm = Arc::new(Alarm::new()?);
        let waker = Self {
            epoll: epoll::create(true)?,
            alarm,
            pending: Default::default(),
            retry: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        };
        waker.add(waker.alarm.as_fd(), WAKE)?;
        Ok(waker)
    }

    fn add(&self, fd: BorrowedFd<'_>, data: u64) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, data);
        epoll::ctl(
            self.epoll,
            ControlOptions::EPOLL_CTL_ADD,
            fd.as_raw_fd(),
            event,
        )
    }

    /// Serves `ring` whenever `kick` becomes readable.
    pub(crate) fn watch(&self, kick: BorrowedFd<'_>, ring: RingIndex) -> io::Result<()> {
        self.add(kick, ring.position() as u64)
    }

    /// Ends a [`watch`](Self::watch).
    pub(crate) fn unwatch(&self, kick: BorrowedFd<'_>) {
        let nothing = EpollEvent::new(EpollFlags::empty(), 0);
        // It fails only for a descriptor that is not watched.
        let _ = epoll::ctl(
            self.epoll,
            ControlOptions::EPOLL_CTL_DEL,
            kick.as_raw_fd(),
            nothing,
        );
    }

    /// Schedules a turn, as a kick of its ring would.
    pub(crate) fn kick(&self, turn: impl Into<Turn>) {
        let Turn(turn) = turn.into();
        self.pending[turn / 64].fetch_or(1 << (turn % 64), Ordering::Release);
        self.alarm.wake();
    }

    /// Retries rings that are under backpressure.
    pub(crate) fn retry(&self) {
        self.retry.store(true, Ordering::Release);
        self.alarm.wake();
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.alarm.wake();
    }

    /// Whether the thread is to end.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Whether [`retry`](Self::retry) was called and not yet [taken](Self::take_retry).
    #[inline]
    pub(crate) fn wants_retry(&self) -> bool {
        self.retry.load(Ordering::Relaxed)
    }

    /// Takes the request to retry.
    pub(crate) fn take_retry(&self) -> bool {
        self.retry.swap(false, Ordering::Acquire)
    }

    /// Adds the turns that were scheduled by [`kick`](Self::kick) since the last call.
    #[inline]
    pub(crate) fn take_pending(&self, kicked: &mut TurnSet) {
        for (word, pending) in kicked.0.iter_mut().zip(&self.pending) {
            if pending.load(Ordering::Relaxed) != 0 {
                *word |= pending.swap(0, Ordering::Acquire);
            }
        }
    }

    /// Waits for kicks, at most `timeout` milliseconds, -1: without limit. Calls `failed` with
    /// rings whose kick descriptor reports an error.
    ///
    /// # Errors
    ///
    /// Waiting itself failed.
    pub(crate) fn wait(
        &self,
        timeout: i32,
        mut failed: impl FnMut(RingIndex),
    ) -> io::Result<TurnSet> {
        let mut events = [EpollEvent::new(EpollFlags::empty(), 0); EVENTS];
        let count = match epoll::wait(self.epoll, timeout, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        let mut kicked = TurnSet::default();
        for event in &events[..count] {
            let (flags, data) = (EpollFlags::from_bits_truncate(event.events), event.data);
            // The worker's own eventfd is no ring.
            let Some(ring) = usize::try_from(data).ok().and_then(RingIndex::new) else {
                continue;
            };
            if flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
                failed(ring);
            }
            kicked.insert(ring.into());
        }
        Ok(kicked)
    }
}

/// The handles of all workers of a port. Its queue pairs are shared out among them.
#[derive(Debug)]
pub(crate) struct Wakers(Vec<Arc<Waker>>);

impl Wakers {
    /// Handles of `count` workers, at least one.
    pub(crate) fn new(count: usize) -> io::Result<Self> {
        let wakers: Result<_, _> = (0..count.max(1))
            .map(|_| Waker::new().map(Arc::new))
            .collect();
        Ok(Self(wakers?))
    }

    /// The handle of the worker that serves `ring`.
    #[inline]
    pub(crate) fn of(&self, ring: RingIndex) -> &Waker {
        &self.0[ring.pair().position() % self.0.len()]
    }

    /// Schedules the turn of `ring`.
    pub(crate) fn kick(&self, ring: RingIndex) {
        self.of(ring).kick(ring);
    }

    /// Schedules the turns of all transmit rings.
    pub(crate) fn kick_tx_rings(&self) {
        for pair in PairIndex::all() {
            self.kick(pair.tx_ring());
        }
    }

    /// Schedules the turn of the port's generator, which counts as one more pair.
    pub(crate) fn kick_generator(&self) {
        self.0[MAX_PAIRS % self.0.len()].kick(Turn::GENERATOR);
    }

    /// Retries transmit rings that are under backpressure.
    pub(crate) fn retry(&self) {
        self.0.iter().for_each(|waker| waker.retry());
    }

    /// Tells the first worker that memory of the frontend has no page.
    pub(crate) fn alarm(&self) -> &Arc<Alarm> {
        &self.0[0].alarm
    }

    /// All handles, one per worker.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Waker>> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_turns_are_walked_in_order() {
        let mut set = TurnSet::default();
        let members = [0, 1, 63, 64, 127, 128, 200, MAX_RINGS - 1, GENERATOR].map(Turn);
        for turn in members.iter().rev() {
            set.insert(*turn);
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), members);
        members.iter().for_each(|turn| set.remove(*turn));
        assert!(set.is_empty() && set.iter().next().is_none());
    }
}
