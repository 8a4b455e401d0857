//! Programs that run in the background of a soak: both ends of streams, and echoes of datagrams.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use zcnic_guest_protocol::{event::Event, soak::EchoBy};

use crate::{
    fixture::{
        connection::{Sender, connect},
        devmem::Reader,
        lab::{RECOVERY, eventually},
    },
    kit::{devmem::Binding, dmabuf::Dmabuf, net},
    runtime::ports::PEER,
};

/// Time limit for the start of a program.
const START: Duration = Duration::from_secs(60);
/// Longer than TCP waits for a segment that several outages in a row have delayed.
const STALL_LIMIT: &str = "--stall-limit=170";
/// Bytes of a dmabuf: more than a connection's window.
const DMABUF: usize = 16 << 20;

/// A `zcnic-guest` of our own, killed when it is dropped.
#[derive(Debug)]
struct Program {
    child: Child,
    events: Receiver<Event<Value>>,
}

impl Program {
    fn start(words: &[&str]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("no standard output")?;
        let (sender, events) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line) {
                    // The program may have been dropped.
                    let _ = sender.send(event);
                }
            }
        });
        Ok(Self { child, events })
    }

    /// Waits for an event before `deadline`. If the program ends first, the error is its own.
    fn await_event(
        &mut self,
        deadline: Instant,
        wanted: fn(&Event<Value>) -> bool,
    ) -> Result<Event<Value>> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) if wanted(&event) => return Ok(event),
                Ok(Event::Result(result)) => bail!("it ended early: {result}"),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => bail!("nothing happens"),
                Err(RecvTimeoutError::Disconnected) => bail!(self.errors()),
            }
        }
    }

    /// What it printed on standard error until its end.
    fn errors(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = stderr.read_to_string(&mut text);
        }
        text.trim_end().to_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A TCP stream from eth1 to eth0, of which the receiver verifies every byte.
#[derive(Debug)]
pub(super) struct Stream {
    receiver: Program,
    sender: Program,
}

impl Stream {
    /// Starts it, on a queue by zero-copy receive or else by plain reads.
    pub(super) fn start(port: u16, queue: Option<u32>, bytes: u64) -> Result<Self> {
        let deadline = Instant::now() + START;
        let (bytes, at) = (format!("--bytes={bytes}"), format!("--port={port}"));
        let on = queue.map(|queue| format!("--queue={queue}"));
        let mut words = vec!["receive", &bytes, &at, STALL_LIMIT];
        match &on {
            Some(queue) => words.extend(["--interface=eth0", queue]),
            None => words.push("--plain"),
        }
        let mut receiver = Program::start(&words)?;
        let listens = |event: &Event<Value>| matches!(event, Event::Listening { .. });
        receiver.await_event(deadline, listens)?;
        let (to, from) = (format!("--to=192.0.2.1:{port}"), format!("--netns={PEER}"));
        let mut sender = Program::start(&["send", &bytes, &to, &from, STALL_LIMIT])?;
        let connected = |event: &Event<Value>| matches!(event, Event::Connected { .. });
        sender.await_event(deadline, connected)?;
        Ok(Self { receiver, sender })
    }

    /// Waits until all bytes were received, and are right.
    pub(super) fn finish(mut self, deadline: Instant) -> Result<()> {
        let is_result = |event: &Event<Value>| matches!(event, Event::Result(_));
        let result = self.receiver.await_event(deadline, is_result)?;
        let fine = matches!(&result, Event::Result(result) if result["ok"] == true);
        ensure!(fine, "a stream: {result:?}");
        let sent = self.sender.await_event(deadline, is_result)?;
        let fine = matches!(&sent, Event::Result(result) if result["ok"] == true);
        ensure!(fine, "the sender of a stream: {sent:?}");
        Ok(())
    }
}

/// A stream that is received by devmem TCP, in a thread of this process.
#[derive(Debug)]
pub(super) struct DevmemStream(JoinHandle<Result<()>>);

impl DevmemStream {
    pub(super) fn start(port: u16, queue: u32, bytes: u64) -> Result<Self> {
        let dmabuf = Dmabuf::new(DMABUF, false).context("making a udmabuf")?;
        let binding = Binding::receive("eth0", &[queue], &dmabuf, None)?;
        let connection = connect(port, 1)?.pop().context("one connection")?;
        Ok(Self(thread::spawn(move || {
            let sender = Sender::start(connection.sender, u64::from(port), bytes);
            let memories = [(&binding, &dmabuf)];
            let mut reader = Reader::new(connection.receiver, u64::from(port), &memories)?;
            reader.finish(bytes)?;
            sender.finish()
        })))
    }

    pub(super) fn finish(self, deadline: Instant) -> Result<()> {
        while !self.0.is_finished() {
            ensure!(Instant::now() < deadline, "a devmem stream does not end");
            thread::sleep(Duration::from_millis(20));
        }
        let ended = self.0.join().map_err(|_| anyhow!("it panicked"));
        ended.flatten().context("a devmem stream")
    }
}

/// A program that sends datagrams to a UDP port back.
#[derive(Debug)]
pub(super) struct Echo {
    port: u16,
    /// The queue of an AF_XDP socket.
    queue: Option<u32>,
    _program: Program,
}

impl Echo {
    pub(super) fn start(port: u16, by: EchoBy, queue: u32) -> Result<Self> {
        let (at, on) = (format!("--port={port}"), format!("--queue={queue}"));
        let by = match by {
            EchoBy::Tx => ["--by=tx", "--queue=0"],
            EchoBy::Socket => ["--by=socket", on.as_str()],
        };
        let words = ["echo", "--interface=eth0", &at, "--fragments"];
        let mut program = Program::start(&[&words[..], &by].concat())?;
        program.await_event(Instant::now() + START, |event| {
            matches!(event, Event::Echoing { .. })
        })?;
        Ok(Self {
            port,
            queue: (by[0] == "--by=socket").then_some(queue),
            _program: program,
        })
    }

    /// Checks that datagrams come back, once the queue of a socket is steered to.
    pub(super) fn verify(&self) -> Result<()> {
        if let Some(queue) = self.queue {
            net::add_flow_rule("eth0", "udp4", self.port, queue)?;
        }
        let (to, from) = (
            format!("--to=192.0.2.1:{}", self.port),
            format!("--netns={PEER}"),
        );
        let ourselves = std::env::current_exe()?;
        let ourselves = ourselves.to_str().context("a path")?;
        let ping = [
            "udp-ping",
            &to,
            &from,
            "--count=100",
            "--size=1200",
            "--patience=3",
        ];
        let ping = [&[ourselves], &ping[..]].concat();
        eventually(RECOVERY, || Ok(net::run(None, &ping)?))
            .with_context(|| format!("{self:?}"))
            .map(drop)
    }
}
