//! What the ports of a backend share with the control server: events, a clock, and what is to be done later.

use std::{
    collections::BTreeSet,
    sync::{Condvar, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use zcnic_device::fault::Direction;

use crate::{captures::Captures, events::Events, sync::lock};

/// Something to be done later, with the port of this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Job {
    /// Something that a fault holds back may be due.
    Lane(usize, Direction, u16),
    /// Segments that a receive queue holds may be due.
    Release(usize, u16),
    /// The interrupt of a ring that was put off is due.
    Interrupt(usize, usize),
    /// The carrier goes, for this many nanoseconds.
    LinkFlap(usize, u64),
    /// The carrier comes back.
    LinkUp(usize),
    /// The device forgets everything.
    DeviceReset(usize),
    /// The connection to the frontend ends.
    Disconnect(usize),
}

#[derive(Debug, Default)]
struct Jobs {
    /// By time.
    due: BTreeSet<(u64, Job)>,
    stopping: bool,
}

/// Shared by all ports.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) events: Events,
    pub(crate) captures: Captures,
    start: Instant,
    /// Real time at the start, in nanoseconds.
    epoch: u64,
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            events: Events::default(),
            captures: Captures::default(),
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

impl Hub {
    /// Nanoseconds since the backend started.
    pub(crate) fn now(&self) -> u64 {
        nanoseconds(self.start.elapsed())
    }

    /// What the clock of every port shows: real time when the backend started, and steadily on from there.
    pub(crate) fn clock(&self) -> u64 {
        self.epoch.saturating_add(self.now())
    }

    /// Has `job` done at that time, or soon if it has passed.
    pub(crate) fn schedule(&self, time: u64, job: Job) {
        let mut jobs = lock(&self.jobs);
        let first = jobs.due.first().is_none_or(|(first, _)| time < *first);
        jobs.due.insert((time, job));
        drop(jobs);
        if first {
            self.changed.notify_one();
        }
    }

    /// The body of the thread that does it, until [`stop`](Self::stop).
    pub(crate) fn run(&self, mut perform: impl FnMut(Job)) {
        while let Some(job) = self.next() {
            perform(job);
        }
    }

    /// Ends [`run`](Self::run); what is still to be done is not.
    pub(crate) fn stop(&self) {
        lock(&self.jobs).stopping = true;
        self.changed.notify_one();
    }

    fn next(&self) -> Option<Job> {
        let mut jobs = lock(&self.jobs);
        loop {
            if jobs.stopping {
                return None;
            }
            let now = self.now();
            let wait = match jobs.due.first() {
                Some(&(time, _)) if time <= now => return jobs.due.pop_first().map(|(_, job)| job),
                Some(&(time, _)) => Some(Duration::from_nanos(time - now)),
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
    fn jobs_come_in_the_order_of_their_times() {
        let hub = Hub::default();
        hub.schedule(hub.now() + 2_000_000, Job::LinkUp(2));
        hub.schedule(0, Job::LinkUp(1));
        hub.schedule(0, Job::LinkUp(0));
        let first = [hub.next(), hub.next()];
        assert_eq!(first, [Some(Job::LinkUp(0)), Some(Job::LinkUp(1))]);
        std::thread::scope(|scope| {
            let later = scope.spawn(|| hub.next());
            assert_eq!(later.join().expect("a job"), Some(Job::LinkUp(2)));
            hub.schedule(u64::MAX, Job::LinkUp(3));
            let never = scope.spawn(|| hub.next());
            hub.stop();
            assert_eq!(never.join().expect("an end"), None);
        });
    }
}
