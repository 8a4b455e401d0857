//! A client that captures a port and discards the events.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::ensure;
use serde_json::json;
use zcnic_ctl::protocol::command;

/// A capture that runs until this is dropped.
pub(crate) struct Capture {
    stream: UnixStream,
    reader: Option<JoinHandle<()>>,
    lines: Arc<AtomicU64>,
}

impl Capture {
    /// Captures everything that port `port` of the backend with this control socket sends or
    /// receives.
    pub(crate) fn start(control: &Path, port: &str) -> anyhow::Result<Self> {
        let mut stream = UnixStream::connect(control)?;
        let request = json!({ "execute": command::CAPTURE_START, "arguments": { "port": port } });
        writeln!(stream, "{request}")?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let [mut greeting, mut answer] = [const { String::new() }; 2];
        reader.read_line(&mut greeting)?;
        reader.read_line(&mut answer)?;
        ensure!(answer.starts_with(r#"{"return""#), "no capture: {answer}");
        let lines = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&lines);
        let reader = thread::spawn(move || {
            let mut bytes = vec![0; 1 << 16];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                let ends = bytes[..count].iter().filter(|byte| **byte == b'\n');
                told.fetch_add(ends.count() as u64, Ordering::Relaxed);
            }
        });
        Ok(Self {
            stream,
            reader: Some(reader),
            lines,
        })
    }

    /// Events that were read. Nearly all report a frame, some report lost events.
    pub(crate) fn lines(&self) -> u64 {
        self.lines.load(Ordering::Relaxed)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
