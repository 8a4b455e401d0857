//! Standard error, written by a thread of its own.
//!
//! A pipe that nothing reads, or a stopped terminal, then holds up neither a thread that logs nor
//! the end of the process.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use crate::sync::lock;

/// Bytes that wait to be written before further lines are lost.
const MAX_BYTES: usize = 256 << 10;

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines that were lost for lack of room.
    lost: u64,
    /// There is a thread that writes.
    started: bool,
    /// The thread writes a line.
    writing: bool,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

/// Writes whole lines to standard error, at some later time, and never waits, once its thread runs.
/// That is started after the sandbox has begun, so that it is in it.
#[derive(Clone, Debug, Default)]
pub struct Stderr(Arc<Queue>);

impl Stderr {
    /// Starts the thread that writes.
    ///
    /// # Errors
    ///
    /// The thread can't be started.
    pub fn start(&self) -> io::Result<()> {
        self.write_to(io::stderr())
    }

    fn write_to(&self, sink: impl Write + Send + 'static) -> io::Result<()> {
        let queue = Arc::clone(&self.0);
        let builder = thread::Builder::new().name("stderr".into());
        builder.spawn(move || queue.drain(sink))?;
        lock(&self.0.waiting).started = true;
        Ok(())
    }

    /// Waits until everything is written, at most for `limit`.
    pub fn finish(&self, limit: Duration) {
        let waiting = lock(&self.0.waiting);
        let _ = self
            .0
            .changed
            .wait_timeout_while(waiting, limit, |waiting| {
                waiting.writing || !waiting.lines.is_empty()
            });
    }
}

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = lock(&self.0.waiting);
        if !waiting.started {
            drop(waiting);
            io::stderr().write_all(line)?;
        } else if waiting.bytes + line.len() > MAX_BYTES {
            waiting.lost += 1;
        } else {
            waiting.bytes += line.len();
            waiting.lines.push_back(line.to_vec());
            drop(waiting);
            self.0.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Queue {
    fn drain(&self, mut sink: impl Write) {
        loop {
            let mut waiting = lock(&self.waiting);
            waiting.writing = false;
            self.changed.notify_all();
            let wait = self.changed.wait_while(waiting, |waiting| {
                waiting.lines.is_empty() && waiting.lost == 0
            });
            let mut waiting = wait.unwrap_or_else(PoisonError::into_inner);
            waiting.writing = true;
            let line = waiting.lines.pop_front().unwrap_or_else(|| {
                let lost = std::mem::take(&mut waiting.lost);
                format!("{lost} log lines were lost: standard error was not read\n").into_bytes()
            });
            waiting.bytes = waiting.lines.iter().map(Vec::len).sum();
            drop(waiting);
            // There is no place to report that standard error is closed.
            let _ = sink.write_all(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read, pipe};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn start() -> (Stderr, PipeReader) {
        let (reader, writer) = pipe().expect("pipe");
        let stderr = Stderr::default();
        stderr.write_to(writer).expect("thread");
        (stderr, reader)
    }

    #[test]
    fn lines_are_written_in_order() {
        let (mut stderr, mut reader) = start();
        for number in 0..100 {
            writeln!(stderr, "line {number}").expect("queued");
        }
        stderr.finish(PATIENCE);
        let expected: String = (0..100).map(|number| format!("line {number}\n")).collect();
        let mut text = vec![0; expected.len()];
        reader.read_exact(&mut text).expect("written");
        assert_eq!(String::from_utf8(text).expect("text"), expected);
    }

    #[test]
    fn a_pipe_that_is_not_read_costs_lines_and_no_time() {
        let (mut stderr, mut reader) = start();
        let line = [b'x'; 1000];
        // More than the queue and the pipe hold.
        for _ in 0..1000 {
            stderr.write_all(&line).expect("queued");
        }
        stderr.finish(Duration::from_millis(1));
        assert!(lock(&stderr.0.waiting).lost > 0);
        let mut text = Vec::new();
        while !String::from_utf8_lossy(&text).contains(" log lines were lost") {
            let mut part = [0; 4096];
            let length = reader.read(&mut part).expect("readable");
            text.extend_from_slice(&part[..length]);
        }
    }
}
