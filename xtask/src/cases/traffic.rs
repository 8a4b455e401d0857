//! A verified TCP stream from eth1 to eth0 that goes on while a test does something to the ports.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    agent::{Exec, Process},
    control::Control,
    guest::Guest,
};

use super::expect;

/// Receive queue of streams that are steered, and TCP port.
pub(super) const QUEUE: u32 = 3;
const PORT: u16 = 4433;
/// Longer than any outage that a test makes, TCP's waiting after it included.
const PATIENCE: Duration = Duration::from_secs(90);
/// More than passes in any test: streams that go on until they are stopped.
const ENDLESS: u64 = 1 << 44;

/// A stream under way.
pub(super) struct Traffic {
    receiver: Process,
    sender: Process,
    /// As the receiver said last.
    bytes: u64,
}

impl Traffic {
    /// Steers a flow to [`QUEUE`] and receives `bytes` of it there by io_uring zero-copy receive.
    pub(super) fn zero_copy(guest: &mut Guest, bytes: u64) -> Result<Self> {
        steer(guest)?;
        let queue = format!("--queue={QUEUE}");
        Self::start(guest, &["--interface=eth0", &queue], bytes)
    }

    /// Plain reads, without an end.
    pub(super) fn plain(guest: &mut Guest) -> Result<Self> {
        Self::start(guest, &["--plain"], ENDLESS)
    }

    /// Data that arrives and is never read.
    pub(super) fn unread(guest: &mut Guest) -> Result<Self> {
        let mut traffic = Self::connect(guest, &["--plain", "--hold"], ENDLESS)?;
        traffic.receiver.wait_for_line(is("held"))?;
        Ok(traffic)
    }

    fn start(guest: &mut Guest, how: &[&str], bytes: u64) -> Result<Self> {
        let mut traffic = Self::connect(guest, how, bytes)?;
        traffic.moves_on().context("the stream does not start")?;
        Ok(traffic)
    }

    fn connect(guest: &mut Guest, how: &[&str], bytes: u64) -> Result<Self> {
        let port = format!("--port={PORT}");
        let bytes = format!("--bytes={bytes}");
        let receive = ["zcnic-guest", "receive", &port, &bytes];
        let receive = Exec::new(receive.iter().chain(how)).timeout(3 * PATIENCE);
        let mut receiver = guest.spawn(&receive)?;
        receiver.wait_for_line(is("listening"))?;
        let to = format!("--to=192.0.2.1:{PORT}");
        let send = ["zcnic-guest", "send", "--netns=peer", &to, &bytes];
        let sender = guest.spawn(&Exec::new(send).timeout(3 * PATIENCE))?;
        Ok(Self {
            receiver,
            sender,
            bytes: 0,
        })
    }

    /// Waits until more bytes were received and verified than the receiver had when it last said so.
    pub(super) fn moves_on(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // The receiver says something at least once a second, so this comes back.
            let line = self.receiver.wait_for_line(|line| {
                is("progress")(line) || is("stalled")(line) || is("result")(line)
            })?;
            let event: Value = serde_json::from_str(&line)?;
            if event["event"] == "result" {
                bail!("the stream ended too early to see anything: {line}");
            }
            let bytes = event["bytes"].as_u64().context("progress without bytes")?;
            if event["event"] == "progress" && bytes > self.bytes {
                self.bytes = bytes;
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("nothing moves since {} bytes", self.bytes);
            }
        }
    }

    /// Waits until nothing moves any more.
    pub(super) fn stalls(&mut self) -> Result<()> {
        self.receiver.wait_for_line(is("stalled")).map(drop)
    }

    /// Waits for the end, when all that was sent has been verified, and returns the receiver's result.
    pub(super) fn finish(self) -> Result<Value> {
        let receiver = self.receiver.wait()?;
        let sender = self.sender.wait()?;
        let last = receiver.stdout.lines().last().unwrap_or_default();
        if !receiver.status.success() || !sender.status.success() {
            bail!(
                "receiver: {}, {last}{}; sender: {}, {}",
                receiver.status,
                receiver.stderr,
                sender.status,
                sender.stderr
            );
        }
        serde_json::from_str(last).with_context(|| format!("the receiver said {last:?}"))
    }

    /// Waits for the end of a zero-copy stream of which the kernel may not have copied anything.
    pub(super) fn finish_without_copies(self) -> Result<()> {
        let result = self.finish()?;
        expect(result["bytes_copied"] == 0, || {
            format!("the kernel copied: {result}")
        })
    }

    /// Kills both sides, however busy they are, and waits for their ends.
    pub(super) fn kill(self) -> Result<()> {
        self.receiver.kill(9)?;
        self.receiver.wait().context("kill the receiver")?;
        self.sender.kill(9)?;
        self.sender.wait().context("kill the sender")?;
        Ok(())
    }
}

/// Whether a line of `zcnic-guest` is this event.
fn is(event: &str) -> impl Fn(&str) -> bool {
    let text = format!("\"event\":\"{event}\"");
    move |line: &str| line.contains(&text)
}

/// Prepares [`QUEUE`] of eth0 and steers the streams' flow there.
pub(super) fn steer(guest: &mut Guest) -> Result<()> {
    guest
        .check(&Exec::new([
            "zcnic-guest".to_owned(),
            "steer".to_owned(),
            "--interface=eth0".to_owned(),
            format!("--queue={QUEUE}"),
            format!("--port={PORT}"),
            format!("--channels={}", QUEUE + 1),
        ]))
        .map(drop)
}

/// The device's count of the streams' frames at eth0.
pub(super) struct FlowCounter {
    control: Control,
    id: String,
}

impl FlowCounter {
    pub(super) fn add(guest: &Guest) -> Result<Self> {
        let control = guest.control()?;
        let port = format!("--destination-port={PORT}");
        let added = control.ask(&["flow", "add", "--port=0", "--protocol=tcp", &port])?;
        let id = added["id"].as_u64().context("flow add: no id")?.to_string();
        Ok(Self { control, id })
    }

    /// Fails unless frames came, all of them to [`QUEUE`] and those with a payload split.
    pub(super) fn only_split_on_the_queue(&self) -> Result<()> {
        let counts = self.control.ask(&["flow", "query", &self.id])?;
        let queues = counts["queues"]
            .as_object()
            .context("flow query: no queues")?;
        let there = &counts["queues"][QUEUE.to_string()];
        let fine = queues.len() == 1
            && there["split"].as_u64().is_some_and(|split| split > 0)
            && there["unsplit"] == 0;
        expect(fine, || {
            format!("not all frames were split on queue {QUEUE}: {counts}")
        })
    }
}

/// What the kernel's log says of eth0's link.
pub(super) struct LinkWatch(Process);

impl LinkWatch {
    pub(super) fn start(guest: &mut Guest) -> Result<Self> {
        // A mark tells what is new: the log is read from its beginning.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("watch {} begins", NEXT.fetch_add(1, Ordering::Relaxed));
        guest.sh(&format!("echo '{mark}' > /dev/kmsg"))?;
        let log = Exec::new(["cat", "/dev/kmsg"]).timeout(3 * PATIENCE);
        let mut watch = Self(guest.spawn(&log)?);
        watch.0.wait_for_line(|line| line.ends_with(&mark))?;
        Ok(watch)
    }

    pub(super) fn down(&mut self) -> Result<()> {
        self.0
            .wait_for_line(|line| line.ends_with("eth0: link down"))
            .context("eth0 does not lose its link")?;
        Ok(())
    }

    pub(super) fn up(&mut self) -> Result<()> {
        self.0
            .wait_for_line(|line| line.ends_with("eth0: link up"))
            .context("eth0 does not get its link back")?;
        Ok(())
    }
}
