//! JSON lines on standard output that a test can await: what happened so far, then the result.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use serde::Serialize;
use zcnic_guest_protocol::event::{Event, NoResult};

/// How often a stream that moves says so, and how long one must be silent to count as stalled.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Prints an event at once.
pub fn report(event: &Event<NoResult>) {
    print_line(event);
}

/// Prints the result of a program, or the end of a case.
pub fn report_result<R: Serialize>(result: R) {
    print_line(&Event::Result(result));
}

fn print_line(value: &impl Serialize) {
    if let Ok(line) = serde_json::to_string(value) {
        let mut stdout = std::io::stdout().lock();
        // Whoever does not read the lines does not want them.
        let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    }
}

/// Counts a stream's bytes and says how it gets on.
#[derive(Debug)]
pub struct Progress {
    bytes: u64,
    reported: Instant,
    moved: Instant,
    stalled: bool,
    limit: Option<Duration>,
}

/// Nothing moved for too long.
#[derive(Debug, thiserror::Error)]
#[error("nothing moved for {0} s after {1} bytes")]
pub struct StallError(u64, u64);

impl Progress {
    /// Starts at 0 bytes; `limit` is how long a stall may last.
    #[must_use]
    pub fn new(limit: Option<Duration>) -> Self {
        let now = Instant::now();
        Self {
            bytes: 0,
            reported: now,
            moved: now,
            stalled: false,
            limit,
        }
    }

    /// Bytes so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes moved.
    pub fn add(&mut self, bytes: u64) {
        let now = Instant::now();
        self.bytes += bytes;
        self.moved = now;
        if self.stalled || now - self.reported >= INTERVAL {
            self.stalled = false;
            self.reported = now;
            report(&Event::Progress { bytes: self.bytes });
        }
    }

    /// Nothing moved. To be called about once per [`INTERVAL`].
    pub fn idle(&mut self) -> Result<(), StallError> {
        let silent = self.moved.elapsed();
        if !self.stalled && silent >= INTERVAL {
            self.stalled = true;
            report(&Event::Stalled { bytes: self.bytes });
        }
        match self.limit {
            Some(limit) if silent >= limit => Err(StallError(silent.as_secs(), self.bytes)),
            _ => Ok(()),
        }
    }
}
