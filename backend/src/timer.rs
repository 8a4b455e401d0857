//! The clock of all ports, and jobs that are due at a time.
//!
//! The lock of the jobs is taken last; jobs are performed without it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant, SystemTime},
};

use zcnic_device::fault::Direction;

use crate::{
    index::{PairIndex, RingIndex},
    sync::{Condvar, Mutex, PoisonError, lock},
};

/// Something to be done later with one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Job {
    /// Release frames and chains that a fault lane holds back, if they are due.
    Lane(Direction, PairIndex),
    /// Flush segments that a receive queue holds for coalescing, if they are due.
    FlushHeld(PairIndex),
    /// Raise the moderated interrupt of a ring.
    Interrupt(RingIndex),
    /// Take the carrier away for this many nanoseconds.
    LinkFlap(u64),
    /// Give the carrier back.
    LinkUp,
    /// Reset the device.
    DeviceReset,
    /// End the connection to the frontend.
    Disconnect,
    /// End the connection to the frontend if its memory lacks a page.
    DisconnectFailed,
}

#[derive(Debug, Default)]
struct Jobs {
    /// Deadline, job and the port's number, in the order of their deadlines.
    pending: BTreeSet<(u64, Job, usize)>,
    /// The deadline of each job that is pending: its number does not grow with the frames that ask
    /// for it.
    deadlines: BTreeMap<(Job, usize), u64>,
    stopping: bool,
}

impl Jobs {
    /// Adds a job, or moves it if it is pending with a later deadline.
    fn add(&mut self, deadline: u64, job: Job, port: usize) {
        let known = self.deadlines.entry((job, port)).or_insert(deadline);
        let later = std::mem::replace(known, deadline.min(*known));
        self.pending.remove(&(later, job, port));
        self.pending.insert((*known, job, port));
    }

    fn take_first(&mut self) -> Option<(usize, Job)> {
        let (_, job, port) = self.pending.pop_first()?;
        self.deadlines.remove(&(job, port));
        Some((port, job))
    }
}

/// A queue of jobs, each with its deadline, and the clock that deadlines refer to.
#[derive(Debug)]
pub(crate) struct Timer {
    start: Instant,
    /// Real time at the start, in nanoseconds.
    epoch: u64,
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

impl Default for Timer {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            epoch: nanoseconds(SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()),
            jobs: Mutex::default(),
            changed: Condvar::new(),
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Timer {
    /// Nanoseconds since the backend started.
    pub(crate) fn now(&self) -> u64 {
        nanoseconds(self.start.elapsed())
    }

    /// The clock of every port, in nanoseconds: real time when the backend started, monotonic
    /// since.
    pub(crate) fn clock(&self) -> u64 {
        self.epoch.saturating_add(self.now())
    }

    /// Schedules `job` of port number `port` for `deadline`, or for now if that has passed.
    /// A job that is pending already is done once, at the earlier of both deadlines: who needs it
    /// again then schedules it again.
    pub(crate) fn schedule(&self, deadline: u64, port: usize, job: Job) {
        let mut jobs = lock(&self.jobs);
        let first = jobs
            .pending
            .first()
            .is_none_or(|(first, ..)| deadline < *first);
        jobs.add(deadline, job, port);
        drop(jobs);
        if first {
            self.changed.notify_one();
        }
    }

    /// The body of the timer's thread: calls `perform` with the port's number and the job when a
    /// deadline has passed, until [`stop`](Self::stop).
    pub(crate) fn run(&self, mut perform: impl FnMut(usize, Job)) {
        while let Some((port, job)) = self.next() {
            perform(port, job);
        }
    }

    /// Ends [`run`](Self::run); jobs that are still pending are dropped.
    pub(crate) fn stop(&self) {
        lock(&self.jobs).stopping = true;
        self.changed.notify_one();
    }

    fn next(&self) -> Option<(usize, Job)> {
        let mut jobs = lock(&self.jobs);
        loop {
            if jobs.stopping {
                return None;
            }
            let now = self.now();
            let wait = match jobs.pending.first() {
                Some(&(deadline, ..)) if deadline <= now => {
                    return jobs.take_first();
                }
                Some(&(deadline, ..)) => Some(Duration::from_nanos(deadline - now)),
                None => None,
            };
            jobs = match wait {
                Some(wait) => {
                    let waited = self.changed.wait_timeout(jobs, wait);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self
                    .changed
                    .wait(jobs)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_pending_once_at_its_earliest_deadline() {
        let timer = Timer::default();
        for deadline in [1 << 60, 1 << 50, 1 << 61] {
            timer.schedule(deadline, 0, Job::LinkUp);
            timer.schedule(deadline, 1, Job::LinkUp);
        }
        for deadline in 0..1000 {
            timer.schedule((1 << 62) + deadline, 2, Job::DeviceReset);
        }
        let pending = |timer: &Timer| lock(&timer.jobs).pending.len();
        assert_eq!(pending(&timer), 3);
        timer.schedule(0, 1, Job::LinkUp);
        assert_eq!(timer.next(), Some((1, Job::LinkUp)));
        assert_eq!((pending(&timer), lock(&timer.jobs).deadlines.len()), (2, 2));
    }

    #[test]
    fn jobs_come_in_the_order_of_their_deadlines() {
        let timer = Timer::default();
        timer.schedule(timer.now() + 2_000_000, 2, Job::LinkUp);
        timer.schedule(0, 1, Job::LinkUp);
        timer.schedule(0, 0, Job::LinkUp);
        let first = [timer.next(), timer.next()];
        assert_eq!(first, [Some((0, Job::LinkUp)), Some((1, Job::LinkUp))]);
        std::thread::scope(|scope| {
            let later = scope.spawn(|| timer.next());
            assert_eq!(later.join().expect("a job"), Some((2, Job::LinkUp)));
            timer.schedule(u64::MAX, 3, Job::LinkUp);
            let never = scope.spawn(|| timer.next());
            timer.stop();
            assert_eq!(never.join().expect("an end"), None);
        });
    }
}
