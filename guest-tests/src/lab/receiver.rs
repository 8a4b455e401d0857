//! A program that receives several connections by one instance of zero-copy receive, verifies every byte,
//! and returns its buffers when it is told to.

use std::{
    net::TcpStream,
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    pattern::Pattern,
    zcrx::{Buffer, Completion, Error, Kind, Options, Target, Zcrx},
};

/// How long a queue may stay bound to who is gone.
const RELEASE: Duration = Duration::from_secs(20);
/// How long anything that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one look for completions takes at most.
const LOOK: Duration = Duration::from_millis(50);

/// Zero-copy receive on a queue of eth0, and what came of it.
pub(crate) struct Receiver {
    pub(crate) zcrx: Zcrx,
    flows: Vec<Flow>,
    /// Buffers that were not returned.
    held: Vec<Buffer>,
    /// Whether buffers are to be kept.
    keeps: bool,
    /// Buffers returned.
    returned: u64,
    /// Notifications.
    pub(crate) notified: Vec<Completion>,
}

/// One connection.
#[derive(Debug)]
struct Flow {
    socket: TcpStream,
    pattern: Pattern,
    received: u64,
    /// The completion that ended the request.
    end: Option<Completion>,
}

/// Binds a queue of eth0, at once or not at all.
pub(crate) fn bind(queue: u32, options: &Options) -> Result<Zcrx, Error> {
    let target = Target::Queue {
        interface: "eth0".into(),
        queue,
    };
    Zcrx::new(&target, options)
}

/// Binds a queue of eth0 as soon as whoever had it has gone; tells how often it was refused until then.
pub(crate) fn bind_patiently(queue: u32, options: &Options) -> Result<(Zcrx, u32)> {
    let deadline = Instant::now() + RELEASE;
    let mut refusals = 0;
    loop {
        match bind(queue, options) {
            Err(error) if error.errno() == Some(libc::EEXIST) && Instant::now() < deadline => {
                refusals += 1;
                thread::sleep(Duration::from_millis(1));
            }
            result => return Ok((result?, refusals)),
        }
    }
}

impl Receiver {
    /// Binds the queue as soon as whoever had it before has gone.
    pub(crate) fn new(queue: u32, options: &Options) -> Result<Self> {
        let (zcrx, _) = bind_patiently(queue, options)?;
        Ok(Self {
            zcrx,
            flows: Vec::new(),
            held: Vec::new(),
            keeps: false,
            returned: 0,
            notified: Vec::new(),
        })
    }

    /// Receives the pattern of `seed` on one more connection, which gets the next number.
    pub(crate) fn add(&mut self, socket: TcpStream, seed: u64) -> Result<()> {
        let flow = self.expect(socket, seed);
        self.request(flow)
    }

    /// The same without a request: returns the number.
    pub(crate) fn expect(&mut self, socket: TcpStream, seed: u64) -> usize {
        self.flows.push(Flow {
            socket,
            pattern: Pattern::new(seed),
            received: 0,
            end: None,
        });
        self.flows.len() - 1
    }

    /// Makes another request for a connection whose last one has ended.
    pub(crate) fn request(&mut self, flow: usize) -> Result<()> {
        self.request_bytes(flow, 0)
    }

    /// The same for so many bytes (0: all).
    pub(crate) fn request_bytes(&mut self, flow: usize, bytes: u32) -> Result<()> {
        self.flows[flow].end = None;
        let socket = self.flows[flow].socket.as_fd();
        Ok(self.zcrx.ring.receive(socket, bytes, flow as u64)?)
    }

    /// A connection's socket.
    pub(crate) fn socket(&self, flow: usize) -> &TcpStream {
        &self.flows[flow].socket
    }

    /// Closes all connections; buffers that are kept remain ours.
    pub(crate) fn hang_up(&mut self) {
        self.flows.clear();
    }

    /// From now on buffers are kept, or returned at once.
    pub(crate) fn keep(&mut self, keeps: bool) {
        self.keeps = keeps;
    }

    /// Buffers that are kept.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// Of these, the ones of one area.
    pub(crate) fn held_of(&self, area: u16) -> usize {
        let of_area = self.held.iter().filter(|buffer| buffer.area == area);
        of_area.count()
    }

    /// Bytes in the fullest of them.
    pub(crate) fn fullest(&self) -> u32 {
        let lengths = self.held.iter().map(|buffer| buffer.len);
        lengths.max().unwrap_or_default()
    }

    /// Returns all that are kept, as far as there is room in the refill ring.
    pub(crate) fn give_back(&mut self) {
        self.returned += self.held.len() as u64;
        for buffer in self.held.drain(..) {
            self.zcrx.recycle(buffer);
        }
        self.zcrx.publish();
    }

    /// Buffers that were returned and that the kernel has taken.
    pub(crate) fn taken_back(&self) -> u64 {
        self.returned - self.zcrx.pending_returns() as u64
    }

    /// Bytes verified, of all connections.
    pub(crate) fn received(&self) -> u64 {
        self.flows.iter().map(|flow| flow.received).sum()
    }

    /// What ended the request of a connection.
    pub(crate) fn end(&self, flow: usize) -> Option<Completion> {
        self.flows[flow].end
    }

    /// Whether all connections have ended.
    pub(crate) fn all_ended(&self) -> bool {
        self.flows.iter().all(|flow| flow.end.is_some())
    }

    /// Goes on until something holds.
    pub(crate) fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            if Instant::now() >= deadline {
                bail!(
                    "waiting until {what}: {} bytes have come, {} buffers are held, {} are on their way \
                     back, requests ended with {:?}",
                    self.received(),
                    self.held(),
                    self.zcrx.pending_returns(),
                    self.flows.iter().map(|flow| flow.end).collect::<Vec<_>>()
                );
            }
            self.zcrx.ring.wait(LOOK)?;
            self.reap()?;
        }
        Ok(())
    }

    /// Goes on until nothing has come for so long.
    pub(crate) fn until_quiet(&mut self, quiet: Duration) -> Result<()> {
        let mut last = (self.received(), Instant::now());
        while last.1.elapsed() < quiet {
            self.zcrx.ring.wait(LOOK)?;
            self.reap()?;
            if self.received() != last.0 {
                last = (self.received(), Instant::now());
            }
        }
        Ok(())
    }

    /// Goes on until all connections have ended as they should: after so many bytes in all, by a last
    /// completion of 0.
    pub(crate) fn finish(&mut self, bytes: u64) -> Result<()> {
        self.until("all streams have ended", Self::all_ended)?;
        for (number, flow) in self.flows.iter().enumerate() {
            let result = flow.end.map(|end| end.result);
            ensure!(
                result == Some(0),
                "the request of connection {number} ended with {result:?} after {} bytes",
                flow.received
            );
        }
        let received = self.received();
        ensure!(received == bytes, "{received} bytes came, not {bytes}");
        Ok(())
    }

    /// Takes the completions that are there, and returns buffers.
    pub(crate) fn reap(&mut self) -> Result<()> {
        while let Some(completion) = self.zcrx.ring.next_completion() {
            self.handle(completion)?;
        }
        self.zcrx.publish();
        Ok(())
    }

    /// Takes a completion, which another ring may have got.
    pub(crate) fn handle(&mut self, completion: Completion) -> Result<()> {
        match completion.kind {
            Kind::Notification => self.notified.push(completion),
            Kind::Data(buffer) => self.take(completion.tag, buffer)?,
            Kind::End => self.flow(completion.tag)?.end = Some(completion),
        }
        Ok(())
    }

    fn take(&mut self, tag: u64, buffer: Buffer) -> Result<()> {
        let bytes = self.zcrx.bytes(buffer);
        let bytes = bytes.with_context(|| format!("{buffer:?} is not in the area"))?;
        let flow = usize::try_from(tag).ok();
        let flow = flow.and_then(|flow| self.flows.get_mut(flow));
        let flow = flow.with_context(|| format!("a completion of nobody's: {tag}"))?;
        flow.pattern.verify(flow.received, bytes)?;
        flow.received += bytes.len() as u64;
        if self.keeps {
            self.held.push(buffer);
        } else {
            self.returned += 1;
            self.zcrx.recycle(buffer);
        }
        Ok(())
    }

    fn flow(&mut self, tag: u64) -> Result<&mut Flow> {
        let flow = usize::try_from(tag).ok();
        let flow = flow.and_then(|flow| self.flows.get_mut(flow));
        flow.with_context(|| format!("a completion of nobody's: {tag}"))
    }
}
