//! How a worker's thread is reached.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use epoll::{ControlOptions, Event, Events};
use rustix::{
    event::{EventfdFlags, eventfd},
    io::write,
};

use crate::port::MAX_RINGS;

/// Names the worker's own eventfd among the events; rings have their number.
pub(crate) const WAKE: u64 = u64::MAX;

/// What a port's generator counts as, next to transmit rings.
pub(crate) const GENERATOR: usize = MAX_RINGS + 1;

/// Everything that a worker gives turns to has a lower number.
pub(crate) const TURNS: usize = GENERATOR + 1;

const WORDS: usize = TURNS.div_ceil(64);

/// A set of ring numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RingSet(pub(crate) [u64; WORDS]);

impl RingSet {
    pub(crate) fn insert(&mut self, ring: usize) {
        self.0[ring / 64] |= 1 << (ring % 64);
    }

    pub(crate) fn remove(&mut self, ring: usize) {
        self.0[ring / 64] &= !(1 << (ring % 64));
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
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
pub(crate) struct Waker {
    pub(crate) epoll: RawFd,
    wake: OwnedFd,
    /// Rings to look at although nobody kicked them.
    pub(crate) pending: [AtomicU64; WORDS],
    /// Something changed that blocked rings may have waited for.
    pub(crate) retry: AtomicBool,
    pub(crate) stop: AtomicBool,
}

impl Drop for Waker {
    fn drop(&mut self) {
        let _ = epoll::close(self.epoll);
    }
}

impl Waker {
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
    pub(crate) fn kick(&self, ring: usize) {
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
}
