//! The properties of a cable: when a frame arrives, and whether it does.
//!
//! The shaper is arithmetic on the device's clock; it neither waits nor holds frames.

use super::generator::next_random;
use crate::config::CableShape;

/// Bytes that may wait for their turn in one direction of a cable with a rate.
pub(crate) const QUEUE: u64 = 256 << 10;

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It arrives at this time, in nanoseconds.
    Arrives(u64),
    /// It is lost on its way.
    Lost,
    /// Too many bytes wait before it: it is not sent.
    Full,
}

/// One direction of a cable.
#[derive(Debug)]
pub(crate) struct Shaper {
    shape: CableShape,
    /// State of the sequence of draws, one per frame sent.
    random: u64,
    /// When the last bit of the last frame is sent, in nanoseconds.
    idle_at: u64,
}

impl Shaper {
    /// Direction `number` of a cable, 0 or 1.
    pub(crate) fn new(shape: CableShape, number: u64) -> Self {
        let mut random = shape.seed ^ number << 63;
        Self {
            random: next_random(&mut random),
            shape,
            idle_at: 0,
        }
    }

    /// Sends a frame of `bytes` at `now`. The draw of a frame depends on the seed, the direction
    /// and the number of frames sent before only.
    pub(crate) fn send(&mut self, now: u64, bytes: usize) -> Fate {
        const SECOND: u128 = 1_000_000_000;
        let start = self.idle_at.max(now);
        let mut duration = 0;
        if let Some(rate) = self.shape.rate {
            let rate = u128::from(rate.get());
            let waiting = u128::from(start - now) * rate / (8 * SECOND);
            if waiting > u128::from(QUEUE) {
                return Fate::Full;
            }
            let nanoseconds = (bytes as u128 * 8 * SECOND).div_ceil(rate);
            duration = u64::try_from(nanoseconds).unwrap_or(u64::MAX);
        }
        self.idle_at = start.saturating_add(duration);
        if next_random(&mut self.random) % 1_000_000 < self.shape.loss.into() {
            return Fate::Lost;
        }
        let delay = u64::try_from(self.shape.delay.as_nanos()).unwrap_or(u64::MAX);
        Fate::Arrives(self.idle_at.saturating_add(delay))
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU64, time::Duration};

    use super::*;

    fn shape(rate: u64, delay: Duration) -> CableShape {
        CableShape {
            rate: NonZeroU64::new(rate),
            delay,
            ..CableShape::default()
        }
    }

    #[test]
    fn a_rate_spaces_frames_and_a_delay_moves_them() {
        // 1 Mbit/s: 8 microseconds per byte.
        let mut shaper = Shaper::new(shape(1_000_000, Duration::from_millis(3)), 0);
        assert_eq!(shaper.send(1_000, 100), Fate::Arrives(3_801_000));
        assert_eq!(shaper.send(1_000, 100), Fate::Arrives(4_601_000));
        assert_eq!(shaper.send(500_000, 50), Fate::Arrives(5_001_000));
        // Idle since.
        assert_eq!(shaper.send(90_000_000, 50), Fate::Arrives(93_400_000));
    }

    #[test]
    fn a_second_of_frames_has_the_bits_of_the_rate() {
        let mut shaper = Shaper::new(shape(10_000_000, Duration::ZERO), 0);
        let mut bits = 0_u64;
        // A sender twice as fast as the cable.
        for frame in 0..2_000_u64 {
            let now = frame * 500_000;
            if let Fate::Arrives(at) = shaper.send(now, 1_250)
                && at <= 1_000_000_000
            {
                bits += 10_000;
            }
        }
        assert_eq!(bits, 10_000_000);
    }

    #[test]
    fn the_queue_of_a_rate_is_bounded_and_drains() {
        let mut shaper = Shaper::new(shape(8_000_000, Duration::ZERO), 0);
        let sent = (0..1_000).take_while(|_| shaper.send(0, 1_000) != Fate::Full);
        // The first is being sent at once; the last one finds the queue not yet full.
        assert_eq!(sent.count() as u64, QUEUE / 1_000 + 1);
        assert_eq!(shaper.send(0, 1_000), Fate::Full);
        // A megabyte per second: 1000 bytes later there is room again.
        assert!(matches!(shaper.send(1_000_000, 1_000), Fate::Arrives(_)));
    }

    #[test]
    fn without_a_rate_frames_arrive_after_the_delay_alone() {
        let mut shaper = Shaper::new(shape(0, Duration::from_micros(5)), 0);
        let fates = [0, 0, 7].map(|now| shaper.send(now, 9_000));
        assert_eq!(fates, [5_000, 5_000, 5_007].map(Fate::Arrives));
    }

    #[test]
    fn losses_are_those_of_the_seed_and_differ_by_direction() {
        let lost = |seed, direction| {
            let mut shaper = Shaper::new(
                CableShape {
                    loss: 250_000,
                    seed,
                    ..CableShape::default()
                },
                direction,
            );
            let is_lost = (0..10_000).map(|now| shaper.send(now, 60) == Fate::Lost);
            is_lost.collect::<Vec<_>>()
        };
        let first = lost(1, 0);
        assert_eq!(first, lost(1, 0));
        assert_ne!(first, lost(1, 1));
        assert_ne!(first, lost(2, 0));
        let count = first.iter().filter(|lost| **lost).count();
        assert!((2_300..2_700).contains(&count), "{count} of 10000");
    }
}
