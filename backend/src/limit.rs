//! A rate limit for log lines that a guest, frontend or client can cause. Its lock is taken last.
//!
//! Each port has a limit for its warnings and one for its notices, the control server has one, and
//! [`BoundedLog`] has one per thread for the lines of other crates, those of vhost-user above all.

use std::{
    collections::BTreeMap,
    fmt::Arguments,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use log::{Level, Log, Metadata, Record};

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

    /// Logs a message, unless it is beyond the limit. The next one that is not tells how many were
    /// left out.
    pub(crate) fn log(&self, level: Level, message: Arguments<'_>) {
        match self.allow() {
            Some(0) => log::log!(level, "{message}"),
            Some(more) => log::log!(level, "{message} ({more} more not logged)"),
            None => {}
        }
    }

    /// Returns how many lines were suppressed since the last one; `None`: suppress this one, too.
    fn allow(&self) -> Option<u64> {
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

/// Threads with limits of their own. There is one for each port, named after it, and a few more.
const MAX_THREADS: usize = 4096;

/// A logger that limits the lines of other crates, of each thread by itself: a frontend can make
/// the thread that serves it log an error per message.
#[derive(Debug)]
pub struct BoundedLog<L> {
    inner: L,
    limits: Mutex<BTreeMap<String, Arc<LogLimit>>>,
}

impl<L: Log> BoundedLog<L> {
    /// A logger that passes lines on to `inner`.
    pub fn new(inner: L) -> Self {
        Self {
            inner,
            limits: Mutex::default(),
        }
    }

    /// The limit of the thread called `name`.
    fn limit(&self, name: &str) -> Arc<LogLimit> {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limit) = limits.get(name) {
            return Arc::clone(limit);
        }
        let name = if limits.len() < MAX_THREADS { name } else { "" };
        let new = || Arc::new(LogLimit::new());
        Arc::clone(limits.entry(name.to_owned()).or_insert_with(new))
    }
}

impl<L: Log> Log for BoundedLog<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.inner.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        // The own crate limits its lines where it knows who causes them.
        if !self.enabled(record.metadata()) || record.target().starts_with("zcnic") {
            return self.inner.log(record);
        }
        let thread = thread::current();
        let name = thread.name().unwrap_or_default();
        let Some(more) = self.limit(name).allow() else {
            return;
        };
        let pass = |message: Arguments<'_>| {
            let metadata = record.metadata().clone();
            self.inner
                .log(&Record::builder().metadata(metadata).args(message).build());
        };
        let (target, message) = (record.target(), record.args());
        match more {
            0 => pass(format_args!("{target} in thread {name}: {message}")),
            more => pass(format_args!(
                "{target} in thread {name}: {message} ({more} more not logged)"
            )),
        }
    }

    fn flush(&self) {
        self.inner.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A logger that keeps its lines.
    #[derive(Debug, Default)]
    struct Kept(Mutex<Vec<String>>);

    impl Log for Kept {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.level() <= Level::Info
        }

        fn log(&self, record: &Record<'_>) {
            let line = format!("{} {}", record.level(), record.args());
            self.0.lock().expect("a lock").push(line);
        }

        fn flush(&self) {}
    }

    impl BoundedLog<Kept> {
        fn line(&self, target: &str, message: Arguments<'_>) {
            let record = Record::builder()
                .target(target)
                .level(Level::Warn)
                .args(message)
                .build();
            self.log(&record);
        }

        fn lines(&self) -> Vec<String> {
            self.inner.0.lock().expect("a lock").clone()
        }
    }

    #[test]
    fn lines_of_other_crates_are_limited_and_own_ones_are_not() {
        let log = BoundedLog::new(Kept::default());
        for number in 0..1000 {
            log.line("vhost_user_backend", format_args!("error {number}"));
        }
        assert_eq!(log.lines().len(), BURST as usize);
        log.line("zcnic_backend::port::context", format_args!("one of ours"));
        assert_eq!(log.lines().last().expect("a line"), "WARN one of ours");
        let name = thread::current()
            .name()
            .expect("a test's thread")
            .to_owned();
        let first = format!("WARN vhost_user_backend in thread {name}: error 0");
        assert_eq!(log.lines()[0], first);
    }

    #[test]
    fn a_port_that_floods_the_log_does_not_silence_another() {
        let log = Arc::new(BoundedLog::new(Kept::default()));
        for number in 0..1000 {
            log.line("vhost", format_args!("error {number}"));
        }
        let other = Arc::clone(&log);
        let quiet = thread::Builder::new().name("neighbour".into());
        let quiet = quiet.spawn(move || other.line("vhost", format_args!("heard")));
        quiet.expect("a thread").join().expect("no panic");
        let last = log.lines().pop().expect("a line");
        assert_eq!(last, "WARN vhost in thread neighbour: heard");
    }

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
