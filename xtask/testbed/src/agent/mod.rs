//! The host's end of the guest's agent, which runs commands in the guest, several at once.
//! [`zcnic_guest_protocol::agent`] has the messages.

use std::{
    collections::HashMap,
    io::BufReader,
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail};
use zcnic_guest_protocol::agent::{
    Action, INPUT_WINDOW, OUTPUT_WINDOW, ReadError, Reply, Request, read, write,
};

mod exec;
mod process;
mod relay;
#[cfg(test)]
mod tests;

pub use self::{
    exec::{Exec, Finished, Lines, Output, Status},
    process::{Input, Process},
    relay::serve,
};

/// How much longer than the agent's limit the host waits; after that the guest hangs, not the
/// command.
const GRACE: Duration = Duration::from_secs(30);

/// The destination of the replies about one command.
#[derive(Debug)]
struct Route {
    /// The command's id as the destination knows it.
    id: u64,
    to: Sender<Reply>,
    /// Room for input, if this process writes it; otherwise credit is a reply like others.
    input: Option<Arc<Room>>,
    /// Bytes of output that the guest may still send.
    output: usize,
}

/// The route of each running command by its id in the guest; None once the guest is gone.
type Routes = Arc<Mutex<Option<HashMap<u64, Route>>>>;

/// A connection to the agent; clones share it.
#[derive(Clone, Debug)]
pub struct Agent {
    writer: Arc<Mutex<UnixStream>>,
    routes: Routes,
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
        let first = read::<Reply>(&mut reader).map_err(|error| match error {
            ReadError::Connection(_) => anyhow!(
                "the guest's agent did not come up within {} s",
                patience.as_secs()
            ),
            ReadError::Malformed { .. } => anyhow!("the agent's first line is no message: {error}"),
        })?;
        let kernel = match first {
            Some(Reply::Ready { kernel, .. }) => kernel,
            Some(other) => bail!("the agent's first message is {other:?}"),
            None => bail!("the guest ended before its agent came up"),
        };
        stream.set_read_timeout(None)?;
        let routes: Routes = Arc::new(Mutex::new(Some(HashMap::new())));
        let reading = Arc::clone(&routes);
        let connection = stream.try_clone()?;
        thread::spawn(move || {
            route_all(reader, &reading);
            // A guest that breaks the protocol is not read any further.
            let _ = connection.shutdown(Shutdown::Both);
            // Dropping the routes ends all that wait for replies.
            let left = lock(&reading).take();
            for (_, route) in left.into_iter().flatten() {
                route.guest_is_gone();
            }
        });
        Ok((
            Self {
                writer: Arc::new(Mutex::new(stream)),
                routes,
                next: Arc::new(AtomicU64::new(1)),
            },
            kernel,
        ))
    }

    /// Starts a command. It runs until its end, its time limit, or until the returned [`Process`]
    /// is dropped.
    pub fn spawn(&self, exec: &Exec) -> Result<Process> {
        let (sender, events) = channel();
        let room = Arc::new(Room::new());
        let id = self.register(None, sender, Some(Arc::clone(&room)))?;
        let mut program = exec.program.clone();
        program.timeout = exec.timeout.map(|timeout| timeout.as_secs_f64());
        self.send(id, Action::Exec(program))?;
        let deadline = exec.timeout.map(|timeout| Instant::now() + timeout + GRACE);
        Ok(Process::new(
            Input::new(self.clone(), id, room),
            events,
            deadline,
            exec.to_string(),
        ))
    }

    /// Powers the guest off. The agent does not reply to that; QEMU ends.
    pub fn power_off(&self) -> Result<()> {
        self.send(0, Action::PowerOff)
    }

    /// Makes a route for a new command and returns the command's id in the guest. Its destination
    /// knows it by `known_as`, or else by the same id.
    fn register(
        &self,
        known_as: Option<u64>,
        to: Sender<Reply>,
        input: Option<Arc<Room>>,
    ) -> Result<u64> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let route = Route {
            id: known_as.unwrap_or(id),
            to,
            input,
            output: OUTPUT_WINDOW,
        };
        lock(&self.routes)
            .as_mut()
            .ok_or_else(gone)?
            .insert(id, route);
        Ok(id)
    }

    fn send(&self, id: u64, action: Action) -> Result<()> {
        write(&mut *lock(&self.writer), Request { id, action }).map_err(|_| gone())
    }

    /// Lets the guest send `bytes` more of a command's output.
    fn credit(&self, id: u64, bytes: usize) -> Result<()> {
        if let Some(route) = lock(&self.routes).as_mut().and_then(|all| all.get_mut(&id)) {
            route.output = route.output.saturating_add(bytes);
        }
        self.send(id, Action::Credit(bytes))
    }

    /// Ends the command `id`, unless it has ended, and drops what it still prints.
    fn abandon(&self, id: u64) {
        let known = lock(&self.routes)
            .as_mut()
            .and_then(|routes| routes.remove(&id));
        if known.is_some() {
            // The rest of its output goes nowhere, so there is room for all of it.
            let _ = self.send(id, Action::Kill(9));
            let _ = self.send(id, Action::Credit(usize::MAX >> 1));
        }
    }
}

impl Route {
    /// Passes a reply on; returns false if the guest has sent more than it was given credit for.
    fn pass_on(&mut self, mut reply: Reply) -> bool {
        if let Reply::Stdout { stdout: bytes, .. } | Reply::Stderr { stderr: bytes, .. } = &reply {
            let Some(left) = self.output.checked_sub(bytes.0.len()) else {
                return false;
            };
            self.output = left;
        }
        match (&reply, &self.input) {
            (Reply::Credit { credit, .. }, Some(room)) => room.add(*credit),
            _ => {
                reply.set_id(self.id);
                // The destination may have been dropped.
                let _ = self.to.send(reply);
            }
        }
        true
    }

    fn close(&self) {
        if let Some(room) = &self.input {
            room.close();
        }
    }

    /// Reports that the guest is gone: a [`Process`] notices that by its channel.
    fn guest_is_gone(&self) {
        self.close();
        if self.input.is_none() {
            let _ = self.to.send(Reply::Error {
                error: gone().to_string(),
                id: Some(self.id),
            });
        }
    }
}

/// Reads replies and passes each to the command that it is about, until the guest is gone or breaks
/// the protocol.
fn route_all(mut reader: BufReader<UnixStream>, routes: &Routes) {
    loop {
        let reply = match read::<Reply>(&mut reader) {
            Ok(Some(reply)) => reply,
            // A line that is no message harms only the command that it was about.
            Err(ReadError::Malformed { .. }) => continue,
            Ok(None) | Err(ReadError::Connection(_)) => return,
        };
        let mut routes = lock(routes);
        let Some((routes, id)) = routes.as_mut().zip(reply.id()) else {
            continue;
        };
        let last = reply.is_last();
        if let Some(route) = routes.get_mut(&id)
            && !route.pass_on(reply)
        {
            return;
        }
        if last && let Some(route) = routes.remove(&id) {
            route.close();
        }
    }
}

/// Bytes of input that the agent has room for; None once the command has ended.
#[derive(Debug)]
struct Room {
    bytes: Mutex<Option<usize>>,
    changed: Condvar,
}

impl Room {
    fn new() -> Self {
        Self {
            bytes: Mutex::new(Some(INPUT_WINDOW)),
            changed: Condvar::new(),
        }
    }

    /// Waits until there is some, and takes at most `wanted` of it. None: the command has ended.
    fn take(&self, wanted: usize) -> Option<usize> {
        let mut bytes = lock(&self.bytes);
        loop {
            let have = bytes.as_mut()?;
            if *have > 0 {
                let taken = wanted.min(*have);
                *have -= taken;
                return Some(taken);
            }
            bytes = self
                .changed
                .wait(bytes)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Adds what the guest credits, which never is more than the window.
    fn add(&self, credit: usize) {
        if let Some(bytes) = lock(&self.bytes).as_mut() {
            *bytes = bytes.saturating_add(credit).min(INPUT_WINDOW);
        }
        self.changed.notify_all();
    }

    fn close(&self) {
        *lock(&self.bytes) = None;
        self.changed.notify_all();
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
