//! JSON lines on standard output that a test can await: events, then the result.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use serde::Serialize;
use zcnic_guest_protocol::event::{Event, NoResult};

/// Interval of progress events, and the time without data after which a stream counts as stalled.
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
        // A caller that has closed the pipe does not want the lines.
        let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    }
}

/// Counts a stream's bytes and reports its progress and stalls.
#[derive(Debug)]
pub struct Progress {
    bytes: u64,
    reported: Instant,
    moved: Instant,
    stalled: bool,
    limit: Option<Duration>,
}

/// The stream stalled for longer than its limit: seconds, bytes so far.
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

    /// Counts bytes that have moved.
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

    /// Notes that nothing has moved. To be called about once per [`INTERVAL`].
    ///
    /// # Errors
    ///
    /// If the stall has reached the limit.
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
