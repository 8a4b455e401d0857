//! The control socket's server (docs/control-protocol.md).

mod commands;
mod query;

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::Sender,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{RecvFlags, recv},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use zcnic_ctl::protocol::{
    ErrorClass, Failure, Greeting, Identity, MAX_LINE, Outcome, Request, Response,
};

use crate::{backend::Shared, events::Outbox, socket::Socket, sync::lock, thread::spawn};

/// Clients at once.
const MAX_CLIENTS: usize = 16;

/// How long a client may take to read an answer.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Inner {
    socket: Socket,
    shared: Shared,
    /// Those connected, by a number of their own.
    clients: Mutex<BTreeMap<u64, UnixStream>>,
    next_client: AtomicU64,
    next_flow: AtomicU64,
    next_rule: AtomicU64,
    stopping: AtomicBool,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    inner: Arc<Inner>,
    thread: JoinHandle<()>,
}

/// Whom a command is executed for.
struct Client<'c> {
    stream: &'c UnixStream,
    outbox: &'c Arc<Outbox>,
    /// What it sent behind the request that is being executed, as far as that was read.
    more: &'c [u8],
}

impl Client<'_> {
    /// Whether it waits no longer for an answer: it closed the connection, or the next line is empty. The latter
    /// is how somebody begins who took over a line that others used.
    fn gave_up(&self) -> bool {
        let mut next = [0];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let next = match self.more.first() {
            Some(byte) => Some(*byte),
            None => match recv(self.stream, &mut next, flags) {
                Ok((_, 1)) => Some(next[0]),
                _ => None,
            },
        };
        if next.is_some() {
            return next == Some(b'\n');
        }
        let mut fds = [PollFd::new(self.stream, PollFlags::RDHUP)];
        let now = Timespec::default();
        poll(&mut fds, Some(&now)).is_err()
            || fds[0]
                .revents()
                .intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
    }
}

impl Server {
    pub(crate) fn start(
        socket: Socket,
        shared: Shared,
        failures: &Sender<String>,
    ) -> io::Result<Self> {
        log::info!("Control socket: {}", socket.path().display());
        let inner = Arc::new(Inner {
            socket,
            shared,
            clients: Mutex::default(),
            next_client: AtomicU64::new(0),
            next_flow: AtomicU64::new(1),
            next_rule: AtomicU64::new(1),
            stopping: AtomicBool::new(false),
        });
        let (accepting, outcome) = (Arc::clone(&inner), failures.clone());
        let thread = spawn("control".into(), failures, move || {
            accepting.accept(&outcome);
            Ok(())
        })?;
        Ok(Self { inner, thread })
    }

    pub(crate) fn stop(self) {
        self.inner.stopping.store(true, Ordering::Release);
        self.inner.shared.hub.events.wake();
        self.inner.socket.shut_down();
        let _ = self.thread.join();
    }
}

impl Inner {
    fn accept(self: &Arc<Self>, failures: &Sender<String>) {
        let mut threads: Vec<JoinHandle<()>> = Vec::new();
        while !self.stopping.load(Ordering::Acquire) {
            let client = match self.socket.listener.accept() {
                Ok((client, _)) => client,
                Err(_) if self.stopping.load(Ordering::Acquire) => break,
                Err(error) => {
                    log::warn!("Control socket: can't accept a client: {error}");
                    thread::sleep(Duration::from_secs(1));
                    continue;
                }
            };
            threads.retain(|thread| !thread.is_finished());
            let started = self.admit(client, failures);
            match started {
                Ok(Some(thread)) => threads.push(thread),
                Ok(None) => {}
                Err(error) => log::warn!("Control socket: can't serve a client: {error}"),
            }
        }
        for client in lock(&self.clients).values() {
            let _ = client.shutdown(Shutdown::Both);
        }
        for thread in threads {
            let _ = thread.join();
        }
    }

    fn admit(
        self: &Arc<Self>,
        client: UnixStream,
        failures: &Sender<String>,
    ) -> io::Result<Option<JoinHandle<()>>> {
        client.set_write_timeout(Some(WRITE_LIMIT))?;
        let mut clients = lock(&self.clients);
        if clients.len() >= MAX_CLIENTS {
            drop(clients);
            let desc = format!("There are {MAX_CLIENTS} clients already");
            let mut line = serde_json::to_vec(&failure(ErrorClass::GenericError, desc))?;
            line.push(b'\n');
            let _ = (&client).write_all(&line);
            return Ok(None);
        }
        let number = self.next_client.fetch_add(1, Ordering::Relaxed);
        clients.insert(number, client.try_clone()?);
        drop(clients);
        let inner = Arc::clone(self);
        let outcome = failures.clone();
        let thread = spawn("control-client".into(), failures, move || {
            let outbox = inner.shared.hub.events.join();
            let (sending, stream) = (Arc::clone(&outbox), client.try_clone()?);
            let sender = spawn("control-sender".into(), &outcome, move || {
                sending.drain(&stream);
                Ok(())
            })?;
            // A client that goes away or is too slow is its own affair.
            let _ = inner.converse(&client, &outbox);
            inner.shared.hub.captures.stop(None, &outbox);
            outbox.finish();
            let _ = sender.join();
            let _ = client.shutdown(Shutdown::Both);
            lock(&inner.clients).remove(&number);
            Ok(())
        })?;
        Ok(Some(thread))
    }

    fn converse(&self, stream: &UnixStream, outbox: &Arc<Outbox>) -> io::Result<()> {
        let send = |response: &Response| outbox.send(response, WRITE_LIMIT);
        let version = env!("CARGO_PKG_VERSION").to_owned();
        outbox.send(
            &Greeting {
                zcnic: Identity { version },
            },
            WRITE_LIMIT,
        )?;
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = Vec::new();
            (&mut reader)
                .take(MAX_LINE as u64)
                .read_until(b'\n', &mut line)?;
            if line.is_empty() {
                return Ok(());
            }
            if line.len() == MAX_LINE && line.last() != Some(&b'\n') {
                // Where the next request starts is anybody's guess.
                let desc = format!("Line is longer than {MAX_LINE} bytes");
                return send(&failure(ErrorClass::GenericError, desc));
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let client = Client {
                stream,
                outbox,
                more: reader.buffer(),
            };
            send(&self.answer(&line, &client))?;
        }
    }

    fn answer(&self, line: &[u8], client: &Client<'_>) -> Response {
        let request: Request = match serde_json::from_slice(line) {
            Ok(request) => request,
            Err(error) => {
                let desc = format!("Line is not a request: {error}");
                return failure(ErrorClass::GenericError, desc);
            }
        };
        let outcome = match self.execute(&request.execute, request.arguments, client) {
            Ok(value) => Outcome::Return(value),
            Err(failure) => Outcome::Error(failure),
        };
        Response {
            outcome,
            id: request.id,
        }
    }
}

fn failure(class: ErrorClass, desc: String) -> Response {
    Response {
        outcome: Outcome::Error(Failure { class, desc }),
        id: None,
    }
}

fn parse<T: DeserializeOwned>(arguments: Option<Value>) -> Result<T, Failure> {
    let arguments = arguments.unwrap_or(Value::Object(serde_json::Map::new()));
    serde_json::from_value(arguments).map_err(|error| wrong(format!("Wrong arguments: {error}")))
}

fn none(arguments: Option<Value>) -> Result<(), Failure> {
    match arguments {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Object(members)) if members.is_empty() => Ok(()),
        Some(_) => Err(wrong("Wrong arguments: this command takes none".into())),
    }
}

fn value(result: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(result).map_err(|error| wrong(format!("Result can't be written: {error}")))
}

/// The result of a command that has none.
fn nothing() -> Value {
    Value::Object(serde_json::Map::new())
}

fn wrong(desc: String) -> Failure {
    Failure {
        class: ErrorClass::GenericError,
        desc,
    }
}

fn not_found(desc: String) -> Failure {
    Failure {
        class: ErrorClass::NotFound,
        desc,
    }
}
