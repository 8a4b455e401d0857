//! A command that runs in the guest, as the host holds it.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;
use zcnic_guest_protocol::{
    agent::{Action, CHUNK, OUTPUT_WINDOW, Payload, Reply},
    event::Event,
};

use super::{Agent, Finished, Lines, Output, Room, Status, gone};

/// A command that runs in the guest. Dropping it before its end kills it.
#[derive(Debug)]
pub struct Process {
    input: Input,
    events: Receiver<Reply>,
    deadline: Option<Instant>,
    name: String,
    /// Standard output behind the last line that a caller waited for.
    unread: Lines,
    /// Bytes of output that the caller has taken and the guest has no credit for yet.
    taken: usize,
    ended: bool,
}

impl Process {
    pub(super) fn new(
        input: Input,
        events: Receiver<Reply>,
        deadline: Option<Instant>,
        name: String,
    ) -> Self {
        Self {
            input,
            events,
            deadline,
            name,
            unread: Lines::default(),
            taken: 0,
            ended: false,
        }
    }

    /// Waits for the next piece of output, or the end.
    ///
    /// # Errors
    ///
    /// If the agent could not run the command, stopped answering, or the guest is gone.
    pub fn next_output(&mut self) -> Result<Output> {
        let reply = match self.deadline {
            None => self.events.recv().map_err(|_| gone()),
            Some(at) => self
                .events
                .recv_timeout(at.saturating_duration_since(Instant::now()))
                .map_err(|error| match error {
                    RecvTimeoutError::Timeout => anyhow!("the guest's agent no longer answers"),
                    RecvTimeoutError::Disconnected => gone(),
                }),
        };
        let reply = reply.with_context(|| self.name.clone())?;
        let status = match reply {
            Reply::Stdout { stdout, .. } => {
                self.took(stdout.0.len())?;
                return Ok(Output::Stdout(stdout.0));
            }
            Reply::Stderr { stderr, .. } => {
                self.took(stderr.0.len())?;
                return Ok(Output::Stderr(stderr.0));
            }
            Reply::Exit { exit, .. } => Ok(Status::Exit(exit)),
            Reply::Signal { signal, .. } => Ok(Status::Signal(signal)),
            Reply::Error { error, .. } => Err(error),
            Reply::Ready { .. } | Reply::Credit { .. } => Err("an unexpected message".to_owned()),
        };
        self.ended = true;
        match status {
            Ok(status) => Ok(Output::Ended(status)),
            Err(reason) => bail!("in the guest: {}: {reason}", self.name),
        }
    }

    /// Gives the guest credit in a few large pieces.
    fn took(&mut self, bytes: usize) -> Result<()> {
        self.taken += bytes;
        if self.taken >= OUTPUT_WINDOW / 8 {
            let bytes = std::mem::take(&mut self.taken);
            self.input.agent.credit(self.input.id, bytes)?;
        }
        Ok(())
    }

    /// Waits for the end and collects the output that no caller has taken yet.
    pub fn wait(mut self) -> Result<Finished> {
        let (mut stdout, mut stderr) = (self.unread.take_rest(), Vec::new());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        loop {
            match self.next_output()? {
                Output::Stdout(bytes) => stdout.extend(bytes),
                Output::Stderr(bytes) => stderr.extend(bytes),
                Output::Ended(status) => {
                    return Ok(Finished {
                        stdout: text(&stdout),
                        stderr: text(&stderr),
                        status,
                    });
                }
            }
        }
    }

    /// Waits for a line of standard output for which `wanted` holds, and returns it.
    ///
    /// # Errors
    ///
    /// If the command ends first; the error has what it printed meanwhile.
    pub fn wait_for_line(&mut self, mut wanted: impl FnMut(&str) -> bool) -> Result<String> {
        let mut seen = String::new();
        loop {
            for line in self.unread.by_ref() {
                if wanted(line.trim_end()) {
                    return Ok(line.trim_end().to_owned());
                }
                seen.push_str(&line);
            }
            match self.next_output()? {
                Output::Stdout(bytes) => self.unread.push(&bytes),
                Output::Stderr(bytes) => seen.push_str(&String::from_utf8_lossy(&bytes)),
                Output::Ended(status) => {
                    bail!("in the guest: {} ended early, {status}:\n{seen}", self.name)
                }
            }
        }
    }

    /// Waits for an event for which `wanted` holds, and returns it. `R` is the type of the
    /// program's result; lines that are no such event are skipped.
    pub fn wait_for_event<R: DeserializeOwned>(
        &mut self,
        wanted: impl Fn(&Event<R>) -> bool,
    ) -> Result<Event<R>> {
        let mut found = None;
        self.wait_for_line(|line| {
            found = serde_json::from_str(line).ok().filter(&wanted);
            found.is_some()
        })?;
        found.with_context(|| format!("{} printed no event", self.name))
    }

    /// Sets the time limit for what the caller waits for from now on.
    pub fn expect_within(&mut self, limit: Duration) {
        self.deadline = Some(Instant::now() + limit);
    }

    /// Returns its standard input or terminal.
    pub fn input(&self) -> Input {
        self.input.clone()
    }

    /// Sends `signal` to its process group.
    pub fn kill(&self, signal: i32) -> Result<()> {
        self.input.agent.send(self.input.id, Action::Kill(signal))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended {
            self.input.agent.abandon(self.input.id);
        }
    }
}

/// Standard input of a command, or its terminal. Any thread may use it.
#[derive(Clone, Debug)]
pub struct Input {
    agent: Agent,
    id: u64,
    room: Arc<Room>,
}

impl Input {
    pub(super) fn new(agent: Agent, id: u64, room: Arc<Room>) -> Self {
        Self { agent, id, room }
    }

    /// Ends the standard input. Without effect on a terminal.
    pub fn end(&self) -> Result<()> {
        self.agent.send(self.id, Action::Input(Payload::default()))
    }

    /// Sets rows and columns of the terminal.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        self.agent.send(self.id, Action::Size([rows, columns]))
    }
}

/// Writes wait until the command has read enough of what was written before. They fail once it has
/// ended.
impl Write for Input {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let length = self
            .room
            .take(bytes.len().min(CHUNK))
            .ok_or(io::ErrorKind::BrokenPipe)?;
        let payload = Payload(bytes[..length].to_vec());
        self.agent
            .send(self.id, Action::Input(payload))
            .map_err(io::Error::other)?;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
