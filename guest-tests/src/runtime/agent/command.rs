//! A command that runs for the host: its process, its output under the host's credit, and its
//! input.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use zcnic_guest_protocol::agent::{CHUNK, Exec, OUTPUT_WINDOW, Payload, Reply};

use super::{Agent, failure, lock};

/// The most that a pipe holds, unless root raises it.
const PIPE: usize = 1 << 20;

/// Handles of a running command.
pub(super) struct Running {
    pub(super) group: Pid,
    terminal: Option<File>,
    /// To the thread that writes its input; None after the end of the input.
    input: Option<Sender<Vec<u8>>>,
    /// Counts the host's credits that the command's thread has not seen yet.
    credits: Arc<File>,
}

impl Running {
    /// Passes input on; no bytes end it. A terminal has no end.
    pub(super) fn input(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            if let Some(input) = &self.input {
                // The command may have closed it.
                let _ = input.send(bytes);
            }
        } else if self.terminal.is_none() {
            self.input = None;
        }
    }

    /// Changes the size of its terminal, if it has one.
    pub(super) fn resize(&self, size: [u16; 2]) {
        if let Some(terminal) = &self.terminal {
            // It may have hung up.
            let _ = set_size(terminal, size);
        }
    }

    /// Lets it send so many more bytes of output.
    pub(super) fn credit(&self, bytes: usize) {
        let _ = (&*self.credits).write(&(bytes as u64).to_ne_bytes());
    }
}

/// Starts a command and the threads that follow it.
pub(super) fn start(agent: &Arc<Agent>, id: u64, exec: &Exec) -> Result<()> {
    let timeout = exec.timeout.map(Duration::try_from_secs_f64).transpose()?;
    let terminal = exec.tty.map(open_terminal).transpose()?;
    let (mut child, program) = spawn(exec, terminal.as_ref().map(|(_, inner)| inner))?;
    let group = Pid::from_raw(child.id().cast_signed()).context("no process id")?;
    let ended = pidfd_open(group, PidfdFlags::empty())
        .with_context(|| format!("pidfd_open for {program}"))?;
    let credits = Arc::new(File::from(eventfd(0, EventfdFlags::NONBLOCK)?));
    let terminal = terminal.map(|(outer, _)| outer);

    let mut streams = Vec::new();
    if let Some(outer) = &terminal {
        streams.push(Output::stdout(outer.try_clone()?.into()));
    }
    if let Some(stdout) = child.stdout.take() {
        streams.push(Output::stdout(stdout.into()));
    }
    if let Some(stderr) = child.stderr.take() {
        streams.push(Output::stderr(stderr.into()));
    }
    let sink = match (&terminal, child.stdin.take()) {
        (Some(outer), _) => Some(outer.try_clone()?),
        (None, pipe) => pipe.map(|pipe| File::from(OwnedFd::from(pipe))),
    };
    let input = sink.map(|sink| {
        let (sender, chunks) = channel();
        let agent = Arc::clone(agent);
        thread::spawn(move || feed(&agent, id, sink, &chunks));
        sender
    });
    let running = Running {
        group,
        terminal,
        input,
        credits: Arc::clone(&credits),
    };
    lock(&agent.running).insert(id, running);
    let mut follower = Follower {
        agent: Arc::clone(agent),
        id,
        streams,
        ended,
        credits,
        room: OUTPUT_WINDOW,
        deadline: timeout.map(|timeout| Instant::now() + timeout),
    };
    thread::spawn(move || {
        let end = follower.follow(child, group, timeout);
        lock(&follower.agent.running).remove(&id);
        let message = match end {
            Ok(status) => last_message(id, status),
            Err(error) => failure(id, &error),
        };
        // If the host has gone, the reading thread notices too.
        let _ = follower.agent.send(message);
    });
    Ok(())
}

/// Starts the program, on the inner end of a terminal if it has one.
fn spawn<'a>(exec: &'a Exec, terminal: Option<&OwnedFd>) -> Result<(Child, &'a str)> {
    let (program, arguments) = exec.argv.split_first().context("no program is named")?;
    let mut command = if let Some(inner) = terminal {
        // Makes the terminal the controlling one, in a session of its own.
        let mut command = Command::new("setsid");
        command
            .args(["--ctty", "--wait", program])
            .stdin(inner.try_clone()?)
            .stdout(inner.try_clone()?)
            .stderr(inner.try_clone()?);
        command
    } else {
        let mut command = Command::new(program);
        command
            .process_group(0)
            .stdin(if exec.stdin {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    };
    command.args(arguments).envs(&exec.env);
    if let Some(directory) = &exec.cwd {
        command.current_dir(directory);
    }
    let child = command
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    Ok((child, program))
}

/// Writes a command's input and reports to the host how much the command has taken. It may stop to
/// read at any time; then the host gets no further credit.
fn feed(agent: &Agent, id: u64, mut sink: File, chunks: &Receiver<Vec<u8>>) {
    for chunk in chunks {
        let credit = chunk.len();
        if sink.write_all(&chunk).is_err() || agent.send(Reply::Credit { credit, id }).is_err() {
            break;
        }
    }
}

/// The thread that passes a command's output on.
struct Follower {
    agent: Arc<Agent>,
    id: u64,
    streams: Vec<Output>,
    /// A pidfd, readable once the process has ended.
    ended: OwnedFd,
    credits: Arc<File>,
    /// Bytes that the host has room for.
    room: usize,
    deadline: Option<Instant>,
}

impl Follower {
    /// Passes the output of a command on until it ends, or until its time is up.
    fn follow(
        &mut self,
        mut child: Child,
        group: Pid,
        timeout: Option<Duration>,
    ) -> Result<ExitStatus> {
        loop {
            let Some(ready) = self.ready(true)? else {
                let _ = kill_process_group(group, Signal::KILL);
                child.wait()?;
                self.drain()?;
                bail!(
                    "timed out after {} s",
                    timeout.unwrap_or_default().as_secs_f64()
                );
            };
            if ready.last() == Some(&true) {
                self.drain()?;
                return Ok(child.wait()?);
            }
            let streams = std::mem::take(&mut self.streams);
            for (index, mut stream) in streams.into_iter().enumerate() {
                let is_ready = ready.get(index) == Some(&true) && self.room > 0;
                if !is_ready || self.pass_on(&mut stream)? > 0 {
                    self.streams.push(stream);
                }
            }
        }
    }

    /// Waits until one of the streams is ready (if the host has room) or, last, the process has
    /// ended. Takes credit from the host meanwhile. Returns None when the time is over.
    fn ready(&mut self, until_end: bool) -> Result<Option<Vec<bool>>> {
        let remaining = self
            .deadline
            .map(|at| at.saturating_duration_since(Instant::now()));
        if remaining.is_some_and(|remaining| remaining.is_zero()) {
            return Ok(None);
        }
        let timeout = remaining.map(Timespec::try_from).transpose()?;
        let mut fds = vec![PollFd::new(&*self.credits, PollFlags::IN)];
        if self.room > 0 {
            fds.extend(
                self.streams
                    .iter()
                    .map(|stream| PollFd::new(&stream.source, PollFlags::IN)),
            );
        }
        if until_end {
            fds.push(PollFd::from_borrowed_fd(self.ended.as_fd(), PollFlags::IN));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        let mut ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready.remove(0) {
            self.take_credit();
        }
        Ok(Some(ready))
    }

    fn take_credit(&mut self) {
        let mut count = [0; 8];
        if (&*self.credits).read_exact(&mut count).is_ok() {
            let bytes = usize::try_from(u64::from_ne_bytes(count)).unwrap_or(usize::MAX);
            self.room = self.room.saturating_add(bytes);
        }
    }

    /// Reads one chunk and sends it; returns its length, 0 at the end or if there is nothing now.
    fn pass_on(&mut self, stream: &mut Output) -> Result<usize> {
        let mut chunk = vec![0; CHUNK.min(self.room)];
        let length = match stream.source.read(&mut chunk) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            // The last user has closed the terminal.
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => 0,
            Err(error) => return Err(error).context("read output"),
        };
        if length > 0 {
            chunk.truncate(length);
            self.room -= length;
            self.agent.send((stream.reply)(self.id, Payload(chunk)))?;
        }
        Ok(length)
    }

    /// Sends the rest of the pipes of a command that has ended, as the host takes it. Processes that
    /// it left behind may keep them open, and write on, so this doesn't wait for their end.
    fn drain(&mut self) -> Result<()> {
        for mut stream in std::mem::take(&mut self.streams) {
            let flags = fcntl_getfl(&stream.source)?;
            fcntl_setfl(&stream.source, flags | OFlags::NONBLOCK)?;
            let mut rest = PIPE;
            while rest > 0 {
                if self.room == 0 && self.ready(false)?.is_none() {
                    return Ok(());
                }
                if self.room == 0 {
                    continue;
                }
                match self.pass_on(&mut stream)? {
                    0 => break,
                    length => rest = rest.saturating_sub(length),
                }
            }
        }
        Ok(())
    }
}

/// The last message about a command that ran to its end.
fn last_message(id: u64, status: ExitStatus) -> Reply {
    match (status.code(), status.signal()) {
        (Some(exit), _) => Reply::Exit { exit, id },
        (None, Some(signal)) => Reply::Signal { id, signal },
        (None, None) => Reply::Error {
            error: status.to_string(),
            id: Some(id),
        },
    }
}

/// One output of a command.
struct Output {
    /// Makes the message that passes a chunk of it on.
    reply: fn(u64, Payload) -> Reply,
    source: File,
}

impl Output {
    fn stdout(source: OwnedFd) -> Self {
        Self {
            reply: |id, stdout| Reply::Stdout { id, stdout },
            source: source.into(),
        }
    }

    fn stderr(source: OwnedFd) -> Self {
        Self {
            reply: |id, stderr| Reply::Stderr { id, stderr },
            source: source.into(),
        }
    }
}

/// Opens a terminal of this size: the agent's end and the command's.
fn open_terminal(size: [u16; 2]) -> Result<(File, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let outer = openpt(flags).context("open a terminal")?;
    grantpt(&outer)?;
    unlockpt(&outer)?;
    let inner = ioctl_tiocgptpeer(&outer, flags).context("open a terminal")?;
    let outer = File::from(outer);
    set_size(&outer, size)?;
    Ok((outer, inner))
}

fn set_size(terminal: &File, [rows, columns]: [u16; 2]) -> Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(terminal, size)?)
}
