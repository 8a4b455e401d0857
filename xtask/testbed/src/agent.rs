//! The host's end of the guest's agent, which runs commands in the guest, several at once.
//! [`zcnic_guest_protocol::agent`] has the messages.

use std::{
    collections::HashMap,
    fmt,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;
use zcnic_guest_protocol::{
    agent::{self as protocol, Action, Reply, Request},
    event::Event,
};

/// Time limit of a command that sets none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// How much longer than the agent's limit the host waits; after that the guest hangs, not the
/// command.
const GRACE: Duration = Duration::from_secs(30);

/// A command to run in the guest.
#[derive(Clone, Debug)]
pub struct Exec {
    program: protocol::Exec,
    timeout: Option<Duration>,
}

impl Exec {
    /// The program and its arguments, with a time limit of one minute.
    pub fn new<S: AsRef<str>>(argv: impl IntoIterator<Item = S>) -> Self {
        let argv = argv.into_iter().map(|word| word.as_ref().to_owned());
        Self {
            program: protocol::Exec {
                argv: argv.collect(),
                ..protocol::Exec::default()
            },
            timeout: Some(DEFAULT_TIMEOUT),
        }
    }

    /// A command line for the guest's bash, which stops at the first command that fails.
    pub fn shell(script: &str) -> Self {
        Self::new(["bash", "-euo", "pipefail", "-c", script])
    }

    /// Gives it `text` as standard input, which is empty otherwise.
    #[must_use]
    pub fn stdin(mut self, text: &str) -> Self {
        self.program.stdin = Some(text.to_owned());
        self
    }

    /// Adds a variable to its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        let env = &mut self.program.env;
        env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Runs it on a terminal of this size; its standard error then comes as standard output.
    #[must_use]
    pub fn terminal(mut self, rows: u16, columns: u16) -> Self {
        self.program.tty = Some([rows, columns]);
        self
    }

    /// Sets the time after which the agent kills it; None: it has no limit.
    #[must_use]
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = timeout.into();
        self
    }
}

impl fmt::Display for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.program.argv)
    }
}

/// How a command in the guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It exited with this status.
    Exit(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Status {
    /// Whether it exited with status 0.
    pub fn success(self) -> bool {
        self == Self::Exit(0)
    }

    /// The exit status that a shell reports: 128 plus the number of a signal.
    pub fn code(self) -> u8 {
        let code = match self {
            Self::Exit(code) => code,
            Self::Signal(signal) => 128 + signal,
        };
        u8::try_from(code).unwrap_or(u8::MAX)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// A command that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
    /// How it ended.
    pub status: Status,
}

/// A piece of a running command's output, or its end.
#[derive(Clone, Debug)]
pub enum Output {
    /// Text on standard output.
    Stdout(String),
    /// Text on standard error.
    Stderr(String),
    /// The end; nothing comes after it.
    Ended(Status),
}

type Waiting = Arc<Mutex<Option<HashMap<u64, Sender<Reply>>>>>;

/// A connection to the agent; clones share it.
#[derive(Clone, Debug)]
pub struct Agent {
    writer: Arc<Mutex<UnixStream>>,
    /// The channel of each running command by its id; None once the guest is gone.
    waiting: Waiting,
    next: Arc<AtomicU64>,
}

impl Agent {
    /// Waits for the agent's first message on the connection that QEMU opened, for at most
    /// `patience`. Returns the agent and the guest's kernel release.
    ///
    /// # Errors
    ///
    /// If the guest ends, stays silent, or does not begin with [`Reply::Ready`].
    pub fn connect(stream: UnixStream, patience: Duration) -> Result<(Self, String)> {
        stream.set_read_timeout(Some(patience))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        let length = reader.read_line(&mut line).with_context(|| {
            format!(
                "the guest's agent did not come up within {} s",
                patience.as_secs()
            )
        })?;
        if length == 0 {
            bail!("the guest ended before its agent came up");
        }
        let Reply::Ready { kernel, .. } =
            serde_json::from_str(&line).context("the agent's first line")?
        else {
            bail!("the agent's first line is {line}");
        };
        stream.set_read_timeout(None)?;
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let routes = Arc::clone(&waiting);
        thread::spawn(move || route(reader, &routes));
        Ok((
            Self {
                writer: Arc::new(Mutex::new(stream)),
                waiting,
                next: Arc::new(AtomicU64::new(1)),
            },
            kernel,
        ))
    }

    /// Starts a command. It runs until its end, its time limit, or until the returned [`Process`]
    /// is dropped.
    pub fn spawn(&self, exec: &Exec) -> Result<Process> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, events) = channel();
        lock(&self.waiting)
            .as_mut()
            .ok_or_else(gone)?
            .insert(id, sender);
        let mut program = exec.program.clone();
        program.timeout = exec.timeout.map(|timeout| timeout.as_secs_f64());
        self.send(id, Action::Exec(program))?;
        let deadline = exec.timeout.map(|timeout| Instant::now() + timeout + GRACE);
        let name = exec.to_string();
        Ok(Process {
            agent: self.clone(),
            id,
            events,
            deadline,
            name,
            unread: String::new(),
            ended: false,
        })
    }

    /// Powers the guest off. The agent does not reply to that; QEMU ends.
    pub fn power_off(&self) -> Result<()> {
        self.send(0, Action::PowerOff)
    }

    fn send(&self, id: u64, action: Action) -> Result<()> {
        send(&self.writer, id, action)
    }
}

fn send(writer: &Mutex<UnixStream>, id: u64, action: Action) -> Result<()> {
    let request = serde_json::to_string(&Request { id, action })?;
    let line = format!("{request}\n");
    lock(writer).write_all(line.as_bytes()).map_err(|_| gone())
}

/// The keyboard of a command on a terminal. Any thread may use it.
#[derive(Debug)]
pub struct Keyboard {
    writer: Arc<Mutex<UnixStream>>,
    id: u64,
}

impl Keyboard {
    /// Types `text`.
    pub fn input(&self, text: &str) -> Result<()> {
        send(&self.writer, self.id, Action::Input(text.to_owned()))
    }
}

/// Reads replies until the guest is gone, and passes each to the command that it is about.
fn route(reader: BufReader<UnixStream>, waiting: &Waiting) {
    for line in reader.lines() {
        let Ok(line) = line else { break };
        let Ok(reply) = serde_json::from_str::<Reply>(&line) else {
            continue;
        };
        if let Some(waiting) = lock(waiting).as_mut()
            && let Some(sender) = reply.id().and_then(|id| waiting.get(&id))
        {
            // The process may have been dropped.
            let _ = sender.send(reply);
        }
    }
    *lock(waiting) = None;
}

/// A command that runs in the guest. Dropping it before its end kills it.
#[derive(Debug)]
pub struct Process {
    agent: Agent,
    id: u64,
    events: Receiver<Reply>,
    deadline: Option<Instant>,
    name: String,
    /// Standard output behind the last line that a caller waited for.
    unread: String,
    ended: bool,
}

impl Process {
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
            Reply::Stdout { stdout, .. } => return Ok(Output::Stdout(stdout)),
            Reply::Stderr { stderr, .. } => return Ok(Output::Stderr(stderr)),
            Reply::Exit { exit, .. } => Ok(Status::Exit(exit)),
            Reply::Signal { signal, .. } => Ok(Status::Signal(signal)),
            Reply::Error { error, .. } => Err(error),
            Reply::Ready { .. } => Err("the agent started again".to_owned()),
        };
        self.ended = true;
        match status {
            Ok(status) => Ok(Output::Ended(status)),
            Err(reason) => bail!("in the guest: {}: {reason}", self.name),
        }
    }

    /// Waits for the end and collects the output that no caller has taken yet.
    pub fn wait(mut self) -> Result<Finished> {
        let (mut stdout, mut stderr) = (std::mem::take(&mut self.unread), String::new());
        loop {
            match self.next_output()? {
                Output::Stdout(text) => stdout.push_str(&text),
                Output::Stderr(text) => stderr.push_str(&text),
                Output::Ended(status) => {
                    return Ok(Finished {
                        stdout,
                        stderr,
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
            while let Some(end) = self.unread.find('\n') {
                let line: String = self.unread.drain(..=end).collect();
                if wanted(line.trim_end()) {
                    return Ok(line.trim_end().to_owned());
                }
                seen.push_str(&line);
            }
            match self.next_output()? {
                Output::Stdout(text) => self.unread.push_str(&text),
                Output::Stderr(text) => seen.push_str(&text),
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

    /// Returns the keyboard of its terminal.
    pub fn keyboard(&self) -> Keyboard {
        Keyboard {
            writer: Arc::clone(&self.agent.writer),
            id: self.id,
        }
    }

    /// Sends `signal` to its process group.
    pub fn kill(&self, signal: i32) -> Result<()> {
        self.agent.send(self.id, Action::Kill(signal))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.kill(9);
        }
        if let Some(waiting) = lock(&self.agent.waiting).as_mut() {
            waiting.remove(&self.id);
        }
    }
}

fn gone() -> anyhow::Error {
    anyhow!("the guest has ended")
}

/// No holder of these locks leaves the state half changed, so a panic in another thread does not
/// spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
