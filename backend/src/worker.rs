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
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use epoll::{Event, Events};

use crate::{
    datapath::batch::Scratch,
    port::{MAX_RINGS, Port, ServeOutcome},
    waker::{GENERATOR, RingSet, TURNS, WAKE, Waker},
};

/// Events taken from the kernel at once.
const EVENTS: usize = 64;

/// Rounds over the busy rings until the others' kicks are looked for.
const ROUNDS: u32 = 16;

/// The thread's body: serves rings of `port` until [`stop`](Waker::stop), and looks for `poll` at those that
/// became empty before it waits for their kicks.
///
/// # Errors
///
/// Waiting itself failed; that is not survivable.
pub(crate) fn run(worker: &Waker, port: &Port, poll: Duration) -> io::Result<()> {
    let mut scratch = Scratch::default();
    let mut schedule = Schedule::new(poll);
    let mut rounds = 0;
    while !worker.stop.load(Ordering::Acquire) {
        let mut kicked = RingSet::default();
        rounds += 1;
        if schedule.ready.is_empty() || rounds >= ROUNDS {
            rounds = 0;
            let timeout = if schedule.ready.is_empty() {
                timeout(schedule.backpressure.values().min())
            } else {
                0
            };
            kicked = wait(worker, port, timeout)?;
        }
        for (word, pending) in kicked.0.iter_mut().zip(&worker.pending) {
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
        let retry = worker.retry.load(Ordering::Relaxed);
        if retry || !schedule.backpressure.is_empty() {
            schedule.unblock(retry && worker.retry.swap(false, Ordering::Acquire));
        }
        schedule.round(|ring, arm| match ring {
            GENERATOR => port.generate(&mut scratch),
            _ => port.serve(ring / 2, arm, &mut scratch),
        });
    }
    Ok(())
}

/// Waits for kicks, at most `timeout` milliseconds, -1: for ever.
fn wait(worker: &Waker, port: &Port, timeout: i32) -> io::Result<RingSet> {
    let mut events = [Event::new(Events::empty(), 0); EVENTS];
    let count = match epoll::wait(worker.epoll, timeout, &mut events) {
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

/// Which transmit rings a worker looks at, and which wait for something.
struct Schedule {
    poll: Duration,
    ready: RingSet,
    /// Since when rings that are ready had nothing.
    empty_since: [Option<Instant>; TURNS],
    /// Until when rings wait for a full receiver.
    backpressure: BTreeMap<usize, Instant>,
}

impl Schedule {
    fn new(poll: Duration) -> Self {
        Self {
            poll,
            ready: RingSet::default(),
            empty_since: [None; TURNS],
            backpressure: BTreeMap::new(),
        }
    }

    /// Has rings whose time is up, or all that wait, looked at again.
    fn unblock(&mut self, all: bool) {
        let now = Instant::now();
        self.backpressure.retain(|&ring, deadline| {
            let wait = !all && *deadline > now;
            if !wait {
                self.ready.insert(ring);
            }
            wait
        });
    }

    /// Serves every ring that is ready once, a bounded batch each, so that a busy one does not starve the
    /// others. `serve` is told whether to ask for a kick if there is nothing.
    fn round(&mut self, mut serve: impl FnMut(usize, bool) -> ServeOutcome) {
        let mut now = None;
        for ring in self.ready.iter() {
            let mut arm = self.poll.is_zero();
            if let (false, Some(since)) = (arm, self.empty_since[ring]) {
                let now = *now.get_or_insert_with(Instant::now);
                arm = now.saturating_duration_since(since) >= self.poll;
            }
            let served = serve(ring, arm);
            if served == ServeOutcome::Empty {
                if self.empty_since[ring].is_none() {
                    self.empty_since[ring] = Some(*now.get_or_insert_with(Instant::now));
                }
                continue;
            }
            self.empty_since[ring] = None;
            if served != ServeOutcome::More {
                self.ready.remove(ring);
            }
            if let ServeOutcome::Backpressure(deadline) = served {
                self.backpressure.insert(ring, deadline);
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
                    return ServeOutcome::Idle;
                }
                left[ring] -= 1;
                ServeOutcome::More
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
                ServeOutcome::Empty
            });
        }
        schedule.poll = Duration::ZERO;
        schedule.round(|ring, arm| {
            assert_eq!(ring, 5);
            asked.push(arm);
            ServeOutcome::Idle
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
            schedule.round(|_, _| ServeOutcome::Backpressure(deadline));
        }
        assert!(schedule.ready.is_empty());
        schedule.unblock(false);
        assert_eq!(schedule.ready.iter().collect::<Vec<_>>(), [3]);
        schedule.unblock(true);
        assert_eq!(schedule.ready.iter().collect::<Vec<_>>(), [1, 3]);
        assert!(schedule.backpressure.is_empty());
    }
}
