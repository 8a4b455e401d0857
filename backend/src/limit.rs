//! A rate limit for log lines that a guest, frontend or client can cause. Its lock is taken last.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lines that are let through at once.
const BURST: u32 = 20;

/// Time after which one more line is let through.
const REFILL: Duration = Duration::from_secs(10);

/// Lets through a burst of lines and then one line per ten seconds, and counts the rest.
#[derive(Debug)]
pub(crate) struct LogLimit(Mutex<Bucket>);

#[derive(Debug)]
struct Bucket {
    tokens: u32,
    refilled: Instant,
    suppressed: u64,
}

impl LogLimit {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Bucket {
            tokens: BURST,
            refilled: Instant::now(),
            suppressed: 0,
        }))
    }

    /// Returns how many lines were suppressed since the last one; `None`: suppress this one, too.
    pub(crate) fn allow(&self) -> Option<u64> {
        self.allow_at(Instant::now())
    }

    fn allow_at(&self, now: Instant) -> Option<u64> {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let earned = now.saturating_duration_since(bucket.refilled).as_secs() / REFILL.as_secs();
        if earned > 0 {
            bucket.tokens = (u64::from(bucket.tokens) + earned).min(u64::from(BURST)) as u32;
            bucket.refilled = now;
        }
        if bucket.tokens == 0 {
            bucket.suppressed += 1;
            return None;
        }
        bucket.tokens -= 1;
        Some(std::mem::take(&mut bucket.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_one_line_per_interval() {
        let limit = LogLimit::new();
        let start = Instant::now();
        let passed = (0..1000)
            .filter(|_| limit.allow_at(start).is_some())
            .count();
        assert_eq!(passed, BURST as usize);
        assert_eq!(
            limit.allow_at(start + REFILL),
            Some(1000 - u64::from(BURST))
        );
        assert_eq!(limit.allow_at(start + REFILL), None);
        assert_eq!(limit.allow_at(start + 2 * REFILL), Some(1));
    }
}
