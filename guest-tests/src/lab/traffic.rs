//! What goes over the cable, from eth1 in its namespace to eth0, while things go wrong.

use std::{
    io::{self, BufRead, BufReader},
    net::UdpSocket,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use zcnic_guest_protocol::event::{Event, ReceiveResult, SendResult};

use crate::{net, ports::PEER};

/// The queue that only streams received by zero copy reach, and their TCP port.
pub(crate) const ZERO_COPY: (u32, u16) = (3, 4433);
/// Another queue and its TCP port, as long as [`Lab::with_second`](super::Lab::with_second) goes on.
pub(crate) const SECOND: (u32, u16) = (2, 4436);
/// The TCP port of streams that are read as usual.
pub(crate) const PLAIN: u16 = 4434;
/// The UDP port of datagrams.
pub(crate) const DATAGRAMS: u16 = 4435;

/// How long a stream may stand still, and how long it may take.
const STALL_LIMIT: &str = "--stall-limit=40";
const PATIENCE: Duration = Duration::from_secs(100);
/// So long nothing came, and nothing will.
pub(crate) const QUIET: Duration = Duration::from_millis(700);
/// Every datagram has so many bytes, all the same.
const DATAGRAM: usize = 400;

/// How a stream is received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// By plain reads.
    Plain,
    /// By io_uring zero-copy receive.
    ZeroCopy,
}

/// A TCP stream on its way, every byte of which is verified. What becomes of it is up to its two processes.
#[derive(Debug)]
pub(crate) struct Stream {
    receiver: Process,
    sender: Process,
    events: Receiver<Event<ReceiveResult>>,
}

impl Stream {
    pub(crate) fn start(how: How, bytes: u64) -> Result<Self> {
        Self::start_with(how, bytes, &[])
    }

    /// The same with more options of the receiver's.
    pub(crate) fn start_with(how: How, bytes: u64, options: &[&str]) -> Result<Self> {
        let (queue, port) = ZERO_COPY;
        let queue = format!("--queue={queue}");
        let (port, how): (_, &[&str]) = match how {
            How::Plain => (PLAIN, &["--plain"]),
            How::ZeroCopy => (port, &["--interface=eth0", &queue]),
        };
        let bytes = format!("--bytes={bytes}");
        let mut receiver = ourselves("receive")?
            .args([&bytes, &format!("--port={port}"), STALL_LIMIT])
            .args(how)
            .args(options)
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = receiver.stdout.take().context("no standard output")?;
        let (sender, events) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line) {
                    // The stream may have been dropped.
                    let _ = sender.send(event);
                }
            }
        });
        let receiver = Process(receiver);
        wait_for(&events, "listens", |event| {
            matches!(event, Event::Listening { .. })
        })?;
        let to = format!("--to=192.0.2.1:{port}");
        let from = format!("--netns={PEER}");
        let sender = ourselves("send")?
            .args([&bytes, &to, &from, STALL_LIMIT])
            .stdout(Stdio::piped())
            .spawn()?;
        let stream = Self {
            receiver,
            sender: Process(sender),
            events,
        };
        stream.wait_for("has a connection", |event| {
            matches!(event, Event::Connected { .. })
        })?;
        Ok(stream)
    }

    /// Waits until the receiver reports progress.
    pub(crate) fn wait_for_progress(&self) -> Result<()> {
        self.wait_for("gets on", |event| matches!(event, Event::Progress { .. }))
    }

    /// Waits until the receiver reports a stall.
    pub(crate) fn wait_for_stall(&self) -> Result<()> {
        self.wait_for("stalls", |event| matches!(event, Event::Stalled { .. }))
    }

    fn wait_for(&self, what: &str, wanted: fn(&Event<ReceiveResult>) -> bool) -> Result<()> {
        wait_for(&self.events, what, wanted)
    }

    /// Waits for the end and returns the receiver's result. Fails unless every byte came and is
    /// right.
    pub(crate) fn finish(mut self) -> Result<ReceiveResult> {
        let result = result(&self.events)?;
        if !result.ok {
            bail!("the receiver reports {result:?}");
        }
        let (sent, received) = (self.sender.0.wait()?, self.receiver.0.wait()?);
        if !sent.success() || !received.success() {
            bail!("the sender ended with {sent}, the receiver with {received}");
        }
        Ok(result)
    }

    /// Kills the receiver.
    pub(crate) fn kill_receiver(&mut self) -> Result<()> {
        self.receiver.0.kill()?;
        self.receiver.0.wait()?;
        Ok(())
    }

    /// Waits for the sender's end and returns its result, be it a success or a failure.
    pub(crate) fn sender_end(mut self) -> Result<SendResult> {
        let stdout = self.sender.0.stdout.take();
        let output = io::read_to_string(stdout.context("no standard output")?)?;
        let last = output
            .lines()
            .last()
            .context("the sender printed nothing")?;
        match serde_json::from_str(last)? {
            Event::Result(result) => Ok(result),
            _ => bail!("the sender ended without a result: {last}"),
        }
    }

    /// Waits for the end and returns the receiver's result, be it a success or a failure.
    pub(crate) fn end(self) -> Result<ReceiveResult> {
        result(&self.events)
    }
}

/// A child that does not outlive its owner.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The next event before `deadline`.
fn next(
    events: &Receiver<Event<ReceiveResult>>,
    deadline: Instant,
) -> Result<Event<ReceiveResult>> {
    let left = deadline.saturating_duration_since(Instant::now());
    Ok(events.recv_timeout(left)?)
}

/// Waits for an event that is not the result.
fn wait_for(
    events: &Receiver<Event<ReceiveResult>>,
    what: &str,
    wanted: fn(&Event<ReceiveResult>) -> bool,
) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let event =
            next(events, deadline).with_context(|| format!("waiting until the receiver {what}"))?;
        if wanted(&event) {
            return Ok(());
        } else if let Event::Result(result) = event {
            bail!("the receiver ended before it {what}: {result:?}");
        }
    }
}

fn result(events: &Receiver<Event<ReceiveResult>>) -> Result<ReceiveResult> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let event = next(events, deadline).context("waiting for the receiver's result")?;
        if let Event::Result(result) = event {
            return Ok(result);
        }
    }
}

fn ourselves(what: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(what).stdin(Stdio::null());
    Ok(command)
}

/// Sends `count` datagrams that can be told apart, numbered from 1, and returns those that arrive, unharmed,
/// until none comes for as long as `quiet`.
pub(crate) fn datagrams(count: u8, quiet: Duration) -> Result<Vec<u8>> {
    let socket = UdpSocket::bind(("192.0.2.1", DATAGRAMS))?;
    let send = move || -> Result<()> {
        net::enter_netns(PEER)?;
        let socket = UdpSocket::bind(("192.0.2.2", DATAGRAMS))?;
        for number in 1..=count {
            socket.send_to(&[number; DATAGRAM], ("192.0.2.1", DATAGRAMS))?;
        }
        Ok(())
    };
    // A namespace is a thread's.
    let sent = thread::spawn(send).join();
    sent.unwrap_or_else(|_| bail!("the sender panicked"))?;
    socket.set_read_timeout(Some(quiet))?;
    let mut arrived = Vec::new();
    let mut buffer = [0; 2 * DATAGRAM];
    while let Ok(length) = socket.recv(&mut buffer) {
        let number = buffer[0];
        if buffer[..length] != [number; DATAGRAM] {
            bail!(
                "a datagram of {length} bytes that nobody sent: {:?}",
                &buffer[..length]
            );
        }
        arrived.push(number);
    }
    Ok(arrived)
}
