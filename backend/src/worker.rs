//! The loop of a worker's thread.
//!
//! A ring that was busy is polled for a while before the driver is asked to kick: under load
//! neither side needs a system call then. Rings that stay empty for that long cost nothing.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant},
};

use crate::{
    control::{command, events, frontend},
    datapath::{batch::Scratch, generate, transmit},
    port::{Port, queues::ServeOutcome},
    waker::{TURNS, Turn, TurnSet, Waker},
};

/// Rounds over the busy rings before the kicks of the others are looked for.
const ROUNDS: u32 = 16;

/// The thread's body: serves rings of `port` until [`Waker::stop`], and polls rings that became
/// empty for the time `poll` before it waits for their kicks.
///
/// # Errors
///
/// Waiting itself failed, which the backend can't survive.
pub(crate) fn run(waker: &Waker, port: &Port, poll: Duration) -> io::Result<()> {
    let mut scratch = Scratch::default();
    let mut schedule = Schedule::new(poll);
    let mut rounds = 0;
    while !waker.is_stopped() {
        let mut kicked = TurnSet::default();
        rounds += 1;
        if schedule.ready.is_empty() || rounds >= ROUNDS {
            rounds = 0;
            let timeout = if schedule.ready.is_empty() {
                timeout(schedule.backpressure.values().min())
            } else {
                0
            };
            kicked = waker.wait(timeout, |ring| frontend::kick_failed(port, ring))?;
        }
        if waker.alarm.is_due() {
            frontend::memory_failed(port);
        }
        waker.take_pending(&mut kicked);
        for turn in kicked.iter() {
            match turn.ring() {
                Some(ring) if ring.is_rx() => events::rx_kicked(port, ring.pair()),
                _ => schedule.ready.insert(turn),
            }
        }
        let retry = waker.wants_retry();
        if retry || !schedule.backpressure.is_empty() {
            schedule.unblock(retry && waker.take_retry());
        }
        schedule.round(|turn, arm_kicks| {
            let Some(ring) = turn.ring() else {
                return generate::serve(port, &mut scratch);
            };
            let pair = ring.pair();
            match transmit::serve(port, pair, arm_kicks, &mut scratch) {
                ServeOutcome::Control => {
                    command::serve(port, pair);
                    ServeOutcome::More
                }
                outcome => outcome,
            }
        });
    }
    Ok(())
}

/// Which turns a worker gives, and which wait for something.
struct Schedule {
    poll: Duration,
    ready: TurnSet,
    /// Since when turns that are ready found nothing to do.
    empty_since: [Option<Instant>; TURNS],
    /// Until when turns wait for a full receiver.
    backpressure: BTreeMap<Turn, Instant>,
}

impl Schedule {
    fn new(poll: Duration) -> Self {
        Self {
            poll,
            ready: TurnSet::default(),
            empty_since: [None; TURNS],
            backpressure: BTreeMap::new(),
        }
    }

    /// Makes turns ready that waited long enough, or all that wait.
    fn unblock(&mut self, all: bool) {
        let now = Instant::now();
        self.backpressure.retain(|&turn, deadline| {
            let wait = !all && *deadline > now;
            if !wait {
                self.ready.insert(turn);
            }
            wait
        });
    }

    /// Gives every turn that is ready once, for a bounded batch each, so that a busy ring does not
    /// starve the others. The second argument of `serve` is whether to ask for a kick if the ring
    /// is empty.
    fn round(&mut self, mut serve: impl FnMut(Turn, bool) -> ServeOutcome) {
        let mut now = None;
        for turn in self.ready.iter() {
            let mut arm = self.poll.is_zero();
            if let (false, Some(since)) = (arm, self.empty_since[turn.position()]) {
                let now = *now.get_or_insert_with(Instant::now);
                arm = now.saturating_duration_since(since) >= self.poll;
            }
            let outcome = serve(turn, arm);
            if outcome == ServeOutcome::Empty {
                if self.empty_since[turn.position()].is_none() {
                    self.empty_since[turn.position()] = Some(*now.get_or_insert_with(Instant::now));
                }
                continue;
            }
            self.empty_since[turn.position()] = None;
            if outcome != ServeOutcome::More {
                self.ready.remove(turn);
            }
            if let ServeOutcome::Backpressure(deadline) = outcome {
                self.backpressure.insert(turn, deadline);
            }
        }
    }
}

/// Milliseconds until `deadline`, rounded up; -1: without limit.
fn timeout(deadline: Option<&Instant>) -> i32 {
    deadline.map_or(-1, |deadline| {
        let left = deadline.saturating_duration_since(Instant::now());
        i32::try_from((left + Duration::from_micros(999)).as_millis()).unwrap_or(i32::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::RingIndex;

    fn turn(ring: usize) -> Turn {
        RingIndex::new(ring).expect("a ring").into()
    }

    #[test]
    fn a_busy_ring_gets_no_more_turns_than_31_others() {
        let mut schedule = Schedule::new(Duration::from_secs(3600));
        let mut left = [0u64; 64];
        for ring in (1..64).step_by(2) {
            schedule.ready.insert(turn(ring));
            left[ring] = 5;
        }
        left[1] = u64::MAX;
        let mut turns = [0; 64];
        for round in 1..=10 {
            schedule.round(|turn, _| {
                let ring = turn.position();
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
        assert_eq!(schedule.ready.iter().collect::<Vec<_>>(), [turn(1)]);
    }

    #[test]
    fn empty_rings_are_polled_for_their_time_and_then_wait_for_a_kick() {
        let mut schedule = Schedule::new(Duration::from_secs(3600));
        schedule.ready.insert(turn(5));
        let mut asked = Vec::new();
        for _ in 0..3 {
            schedule.round(|_, arm| {
                asked.push(arm);
                ServeOutcome::Empty
            });
        }
        schedule.poll = Duration::ZERO;
        schedule.round(|next, arm| {
            assert_eq!(next, turn(5));
            asked.push(arm);
            ServeOutcome::Idle
        });
        assert_eq!(asked, [false, false, false, true]);
        assert!(schedule.ready.is_empty());
    }

    #[test]
    fn turns_under_backpressure_become_ready_on_retry_or_at_their_deadline() {
        let mut schedule = Schedule::new(Duration::ZERO);
        let later = Instant::now() + Duration::from_secs(3600);
        for (ring, deadline) in [(1, later), (3, Instant::now())] {
            schedule.ready.insert(turn(ring));
            schedule.round(|_, _| ServeOutcome::Backpressure(deadline));
        }
        assert!(schedule.ready.is_empty());
        schedule.unblock(false);
        assert_eq!(schedule.ready.iter().collect::<Vec<_>>(), [turn(3)]);
        schedule.unblock(true);
        assert_eq!(schedule.ready.iter().collect::<Vec<_>>(), [1, 3].map(turn));
        assert!(schedule.backpressure.is_empty());
    }
}
