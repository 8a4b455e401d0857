//! The scenario that zcnic exists for: a TCP stream from eth1 to eth0, received by io_uring
//! zero-copy receive on a queue that only a flow rule reaches, with header/data split.
//!
//! No component vouches for itself: the device counts the flow's frames per queue, the kernel
//! counts the bytes that it copied, and the receiver verifies the data.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use zcnic_guest_protocol::{
    event::{Event, ReceiveResult, SendResult},
    interface::{FlowSteering, PagePool},
};

use crate::{
    agent::{Exec, Process},
    control::Control,
    guest::Guest,
};

/// What to stream. Tests leave out a part of the preparation to see that the result shows it.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Number of bytes.
    pub bytes: u64,
    /// Receive queue.
    pub queue: u32,
    /// Combined channels of eth0.
    pub channels: u32,
    /// TCP port of the receiver.
    pub port: u16,
    /// Steer the flow to the queue by a rule.
    pub rule: bool,
    /// Split headers from payload. Without the split no memory provider can be bound to a queue,
    /// and the receiver makes the kernel copy into its area instead.
    pub split: bool,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            bytes: 256 << 20,
            queue: 3,
            channels: 4,
            port: 4433,
            rule: true,
            split: true,
        }
    }
}

/// The result of a stream.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Streamed {
    /// Receive queue.
    pub queue: u32,
    /// Bytes that came and match the pattern.
    pub bytes_verified: u64,
    /// Bytes that the kernel copied, by its zero-copy receive statistics; None where it has none.
    pub bytes_copied: Option<u64>,
    /// Frames of the flow whose headers and payload the device put into separate buffers.
    pub frames_split: u64,
    /// Frames with a payload that it did not split.
    pub frames_unsplit: u64,
    /// Frames of the flow on any other queue.
    pub frames_elsewhere: u64,
    /// eth0's page pools, read while the receive queue was still bound.
    pub page_pool: Vec<PagePool>,
    /// Seconds that the receiver took.
    pub seconds: f64,
}

impl Streamed {
    /// Returns the page pool that takes its memory from io_uring.
    pub fn io_uring_pool(&self) -> Option<&PagePool> {
        let mut pools = self.page_pool.iter();
        pools.find(|pool| pool.io_uring_rx_buf_len.is_some())
    }

    /// Returns everything that differs from what `wanted` asks for; nothing if all is well.
    pub fn faults(&self, wanted: &Stream) -> Vec<String> {
        let mut faults = Vec::new();
        let mut expect = |holds: bool, fault: String| {
            if !holds {
                faults.push(fault);
            }
        };
        let Self {
            bytes_verified,
            frames_split,
            frames_unsplit,
            frames_elsewhere,
            ..
        } = self;
        expect(
            *bytes_verified == wanted.bytes,
            format!("{bytes_verified} bytes verified of {}", wanted.bytes),
        );
        match self.bytes_copied {
            Some(copied) => expect(copied == 0, format!("the kernel copied {copied} bytes")),
            None => expect(
                false,
                "the kernel does not report how much it copied".to_owned(),
            ),
        }
        expect(*frames_split > 0, "no frame was split".to_owned());
        expect(
            *frames_unsplit == 0,
            format!("{frames_unsplit} frames were not split"),
        );
        expect(
            *frames_elsewhere == 0,
            format!("{frames_elsewhere} frames on other queues"),
        );
        let provider = self.io_uring_pool().is_some();
        expect(
            provider,
            "no page pool of eth0 takes its memory from io_uring".to_owned(),
        );
        faults
    }
}

impl Stream {
    /// Prepares eth0, and sends and receives all bytes. The guest's ports must be up.
    pub fn run(&self, guest: &mut Guest) -> Result<Streamed> {
        self.prepare(guest)?;
        let counter = self.count(guest)?;
        let result = self.start(guest)?.finish()?;
        let counts = counter.read(self.queue)?;
        Ok(Streamed {
            queue: self.queue,
            bytes_verified: result.bytes_verified,
            bytes_copied: result.bytes_copied,
            frames_split: counts.split,
            frames_unsplit: counts.unsplit,
            frames_elsewhere: counts.elsewhere,
            page_pool: result.page_pool,
            seconds: result.seconds,
        })
    }

    /// Makes the device count the flow's frames from now on.
    pub fn count(&self, guest: &Guest) -> Result<Counter> {
        let control = guest.control()?;
        let port = format!("--destination-port={}", self.port);
        let added: FlowAdded =
            control.ask(&["flow", "add", "--port=0", "--protocol=tcp", &port])?;
        let id = added.id.to_string();
        Ok(Counter { control, id })
    }

    /// Starts the receiver and the sender.
    pub fn start(&self, guest: &Guest) -> Result<Flow> {
        let queue = format!("--queue={}", self.queue);
        let how: &[&str] = if self.split {
            &["--interface=eth0", &queue]
        } else {
            &["--no-device"]
        };
        Flow::start(guest, self.port, self.bytes, how)
    }

    /// Configures eth0: channels, header/data split, flow rule.
    pub fn prepare(&self, guest: &mut Guest) -> Result<()> {
        let steered = guest.check(&Exec::new([
            "zcnic-guest".to_owned(),
            "flow-steer".to_owned(),
            "--interface=eth0".to_owned(),
            format!("--queue={}", self.queue),
            format!("--port={}", self.port),
            format!("--channels={}", self.channels),
        ]))?;
        if !self.rule {
            let steered: FlowSteering = serde_json::from_str(&steered)?;
            for rule in steered.rules {
                guest.check(&Exec::new([
                    "ethtool",
                    "-N",
                    "eth0",
                    "delete",
                    &rule.to_string(),
                ]))?;
            }
        }
        if !self.split {
            guest.check(&Exec::new([
                "ethtool",
                "-G",
                "eth0",
                "tcp-data-split",
                "off",
            ]))?;
        }
        Ok(())
    }
}

/// A stream in progress. The receiver verifies the data as it arrives.
#[derive(Debug)]
pub struct Flow {
    receiver: Process,
    sender: Process,
    /// Received bytes in the receiver's last report.
    bytes: u64,
}

impl Flow {
    /// Sends `bytes` from eth1 to `port` of eth0; `how` has options of `zcnic-guest receive`. Both
    /// ends fail by themselves after a stall.
    pub fn start(guest: &Guest, port: u16, bytes: u64, how: &[&str]) -> Result<Self> {
        let bytes = format!("--bytes={bytes}");
        let receive_port = format!("--port={port}");
        let receive = ["zcnic-guest", "receive", &receive_port, &bytes];
        let receive = Exec::new(receive.iter().chain(how)).timeout(None);
        let mut receiver = guest.spawn(&receive)?;
        receiver
            .wait_for_event::<ReceiveResult>(|event| matches!(event, Event::Listening { .. }))?;
        let to = format!("--to=192.0.2.1:{port}");
        let send = ["zcnic-guest", "send", "--netns=peer", &to, &bytes];
        let mut sender = guest.spawn(&Exec::new(send).timeout(None))?;
        sender.wait_for_event::<SendResult>(|event| matches!(event, Event::Connected { .. }))?;
        Ok(Self {
            receiver,
            sender,
            bytes: 0,
        })
    }

    /// Waits until the receiver reports more bytes than at the last call.
    pub fn wait_for_progress(&mut self) -> Result<()> {
        loop {
            let event = self.receiver.wait_for_event(|event| {
                matches!(event, Event::Progress { .. } | Event::Result(_))
            })?;
            match event {
                Event::Progress { bytes } if bytes > self.bytes => {
                    self.bytes = bytes;
                    return Ok(());
                }
                Event::Result(result) => {
                    let result: ReceiveResult = result;
                    bail!("the stream ended too early: {result:?}");
                }
                _ => {}
            }
        }
    }

    /// Waits until the receiver reports a stall.
    pub fn wait_for_stall(&mut self) -> Result<()> {
        self.wait_for(|event| matches!(event, Event::Stalled { .. }))
    }

    /// Waits until data has arrived at a receiver that reads none (`--hold`).
    pub fn wait_for_data(&mut self) -> Result<()> {
        self.wait_for(|event| matches!(event, Event::Held))
    }

    fn wait_for(&mut self, wanted: impl Fn(&Event<ReceiveResult>) -> bool) -> Result<()> {
        self.receiver.wait_for_event(wanted).map(drop)
    }

    /// Kills both ends and waits for their ends.
    pub fn abort(self) -> Result<()> {
        for process in [self.sender, self.receiver] {
            process.kill(9)?;
            process.wait()?;
        }
        Ok(())
    }

    /// Stops the sender. Data that was sent still arrives and is verified. Returns the receiver's
    /// result.
    pub fn stop(self) -> Result<ReceiveResult> {
        self.sender.kill(15)?;
        self.sender.wait()?;
        let received = self.receiver.wait()?;
        let result = last_result(&received.stdout)?;
        // The receiver reports this error for a stream that is right as far as it goes.
        if !result.ended_early() {
            bail!(
                "receiver: {}, {result:?}{}",
                received.status,
                received.stderr
            );
        }
        Ok(result)
    }

    /// Waits for the end of the stream and returns the receiver's result.
    pub fn finish(self) -> Result<ReceiveResult> {
        let received = self.receiver.wait()?;
        if !received.status.success() {
            // The sender may take minutes to notice that its peer is gone.
            self.sender.kill(9)?;
        }
        let sent = self.sender.wait()?;
        if !received.status.success() || !sent.status.success() {
            bail!(
                "receiver: {}, {}{}\nsender: {}, {}{}",
                received.status,
                received.stdout.lines().last().unwrap_or_default(),
                received.stderr,
                sent.status,
                sent.stdout.lines().last().unwrap_or_default(),
                sent.stderr
            );
        }
        last_result(&received.stdout)
    }
}

/// Reads the result in the last line of the receiver's output.
fn last_result(stdout: &str) -> Result<ReceiveResult> {
    let last = stdout.lines().last().unwrap_or_default();
    match serde_json::from_str(last) {
        Ok(Event::Result(result)) => Ok(result),
        _ => bail!("the receiver printed {last:?}"),
    }
}

/// A counter of a flow's frames in the device.
#[derive(Debug)]
pub struct Counter {
    control: Control,
    id: String,
}

/// Frames that a [`Counter`] counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Frames with headers and payload in separate buffers.
    pub split: u64,
    /// Frames with a payload that were not split.
    pub unsplit: u64,
    /// Frames with or without payload on other queues than the one asked about, dropped ones
    /// included.
    pub elsewhere: u64,
}

impl Counter {
    /// Returns the counts so far, seen from `queue`.
    pub fn read(&self, queue: u32) -> Result<Counts> {
        let flow: FlowCounts = self.control.ask(&["flow", "query", &self.id])?;
        let mut counts = Counts::default();
        for (number, count) in flow.queues {
            counts.split += count.split;
            counts.unsplit += count.unsplit;
            if number != queue {
                counts.elsewhere += count.delivered + count.dropped;
            }
        }
        Ok(counts)
    }
}

/// The part of `zcnicctl flow add`'s answer that is read.
#[derive(Deserialize)]
struct FlowAdded {
    id: u64,
}

/// The part of `zcnicctl flow query`'s answer that is read.
#[derive(Deserialize)]
struct FlowCounts {
    /// By the queue's number.
    queues: BTreeMap<u32, QueueCounts>,
}

#[derive(Deserialize)]
struct QueueCounts {
    delivered: u64,
    dropped: u64,
    split: u64,
    unsplit: u64,
}
