//! The guest's agent: runs commands for the host, over the virtio-serial port `org.zcnic.agent`.
//!
//! [`zcnic_guest_protocol::agent`] describes the messages. One thread reads requests and never waits
//! for a command; each command has a thread of its own that passes its output on, and another one
//! that writes its input.

use std::{
    collections::HashMap,
    fs,
    fs::OpenOptions,
    io::{self, BufRead, BufReader, Read, Write},
    mem::MaybeUninit,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::{
    fs::inotify,
    process::{Signal, kill_process_group},
    system::{RebootCommand, reboot, uname},
};
use zcnic_guest_protocol::agent::{
    Action, Payload, ReadError, Reply, Request, RequestId, read, write,
};

use self::command::Running;

mod command;
#[cfg(test)]
mod tests;

/// The agent's port is number 1 of the only virtio-serial device. Its name, org.zcnic.agent,
/// reaches sysfs only after the port can be opened.
const PORT: (&str, &str) = ("vport", "p1");

/// How long the host may have the port closed, and how often the agent looks.
const HOST_LIMIT: Duration = Duration::from_secs(20);
const HOST_INTERVAL: Duration = Duration::from_millis(20);

/// Runs commands for the host (started by init)
#[derive(clap::Args, Debug)]
pub struct Args {}

/// Serves until the host closes the port.
///
/// # Errors
///
/// If the port can't be opened, read or written.
pub fn run(_args: &Args) -> Result<ExitCode> {
    let path = port()?;
    let port = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let reader = BufReader::new(AcrossSleep(port.try_clone()?));
    serve(reader, Box::new(port))?;
    Ok(ExitCode::SUCCESS)
}

/// Reads the port also after the guest was suspended. The kernel then takes the port for one that
/// the host has closed, and reports its end, until the host's message that it is open arrives
/// (`virtcons_restore()`, drivers/char/virtio_console.c).
struct AcrossSleep<R>(R);

impl<R: Read> Read for AcrossSleep<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut closed = None;
        loop {
            let length = self.0.read(buffer)?;
            let since = closed.get_or_insert_with(Instant::now);
            if length > 0 || since.elapsed() > HOST_LIMIT {
                return Ok(length);
            }
            thread::sleep(HOST_INTERVAL);
        }
    }
}

/// Finds the port, waiting for the device if it isn't there yet.
fn port() -> Result<PathBuf> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, "/dev", inotify::WatchFlags::CREATE)?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    loop {
        for item in fs::read_dir("/dev")? {
            let item = item?;
            let name = item.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(PORT.0) && name.ends_with(PORT.1) {
                return Ok(item.path());
            }
        }
        events.next()?;
    }
}

/// Shared by the thread that reads requests and those of the commands.
struct Agent {
    out: Mutex<Box<dyn Write + Send>>,
    running: Mutex<HashMap<u64, Running>>,
}

/// Answers the requests of `input` on `output` until `input` ends.
fn serve(mut input: impl BufRead, output: Box<dyn Write + Send>) -> Result<()> {
    let agent = Arc::new(Agent {
        out: Mutex::new(output),
        running: Mutex::default(),
    });
    agent.send(Reply::Ready {
        kernel: uname().release().to_string_lossy().into_owned(),
        ready: true,
    })?;
    loop {
        match read::<Request>(&mut input) {
            Ok(None) => return Ok(()),
            Ok(Some(request)) => agent.handle(request)?,
            Err(ReadError::Malformed { reason, line }) => agent.send(Reply::Error {
                error: format!("not a request: {reason}: {line}"),
                id: serde_json::from_str::<RequestId>(&line)
                    .ok()
                    .map(|request| request.id),
            })?,
            Err(ReadError::Connection(error)) => return Err(error).context("read a request"),
        }
    }
}

impl Agent {
    fn send(&self, reply: Reply) -> Result<()> {
        write(&mut *lock(&self.out), reply).context("write a reply")
    }

    /// Carries a request out. One about a command that has just ended has no effect: the host could
    /// not know yet.
    fn handle(self: &Arc<Self>, request: Request) -> Result<()> {
        let id = request.id;
        let result = match request.action {
            Action::Exec(exec) => command::start(self, id, &exec),
            Action::Input(Payload(bytes)) => self.with(id, |command| command.input(bytes)),
            Action::Size(size) => self.with(id, |command| command.resize(size)),
            Action::Credit(bytes) => self.with(id, |command| command.credit(bytes)),
            Action::Kill(number) => self.kill(id, number),
            Action::PowerOff => reboot(RebootCommand::PowerOff).context("power off"),
        };
        result.or_else(|error| self.send(failure(id, &error)))
    }

    fn with(&self, id: u64, act: impl FnOnce(&mut Running)) -> Result<()> {
        if let Some(command) = lock(&self.running).get_mut(&id) {
            act(command);
        }
        Ok(())
    }

    fn kill(&self, id: u64, number: i32) -> Result<()> {
        let signal =
            Signal::from_named_raw(number).with_context(|| format!("no signal {number}"))?;
        self.with(id, |command| {
            let _ = kill_process_group(command.group, signal);
        })
    }
}

/// The last message about a request that failed.
fn failure(id: u64, error: &anyhow::Error) -> Reply {
    Reply::Error {
        error: format!("{error:#}"),
        id: Some(id),
    }
}

/// Nothing here leaves shared state half changed, so a panic elsewhere doesn't spoil it.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
