//! The control socket's server (docs/control-protocol.md).
//!
//! Lock order: the list of clients or of flow counters, then locks of lower layers. No lock is held
//! while a client is waited for.

mod arguments;
mod client;
mod commands;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod links;
mod query;
pub(crate) mod state;

use std::{
    collections::BTreeMap,
    fmt::Arguments,
    io::{self, BufRead, BufReader, Read},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::Sender,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use log::Level;
use rustix::net::{SendFlags, send};
use zcnic_ctl::protocol::{
    ErrorClass, Failure, Greeting, Identity, MAX_LINE, Outcome, Request, Response, command,
};

use self::{client::Client, commands::execute, state::ServerState};
use crate::{
    events::{Outbox, line},
    limit::LogLimit,
    socket::Socket,
    sync::lock,
    thread::spawn,
};

/// Clients at once.
const MAX_CLIENTS: usize = 16;

/// Descriptors of the server: one per client, and one of a client that is refused.
pub(crate) const DESCRIPTORS: usize = MAX_CLIENTS + 1;

/// How long a client may take to read an answer.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Inner {
    socket: Socket,
    state: ServerState,
    /// The connected clients, by a number of their own.
    clients: Mutex<BTreeMap<u64, Arc<UnixStream>>>,
    next_client: AtomicU64,
    warnings: LogLimit,
    /// Held while an answer is made that may have megabytes, which waits for nothing.
    long_answer: Mutex<()>,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    inner: Arc<Inner>,
    thread: JoinHandle<()>,
}

impl Server {
    pub(crate) fn start(
        socket: Socket,
        state: ServerState,
        failures: &Sender<String>,
    ) -> io::Result<Self> {
        log::info!("Control socket: {}", socket.path().display());
        let inner = Arc::new(Inner {
            socket,
            state,
            clients: Mutex::default(),
            next_client: AtomicU64::new(0),
            warnings: LogLimit::new(),
            long_answer: Mutex::default(),
        });
        let (accepting, outcome) = (Arc::clone(&inner), failures.clone());
        let thread = spawn("control".into(), failures, move || {
            accepting.accept(&outcome);
            Ok(())
        })?;
        Ok(Self { inner, thread })
    }

    /// Removes the file of the socket.
    pub(crate) fn remove_socket(&self) {
        self.inner.socket.remove_file();
    }

    pub(crate) fn stop(self) {
        self.inner.state.stop();
        self.inner.socket.shut_down();
        let _ = self.thread.join();
    }
}

impl Inner {
    /// Logs, within limits, trouble with clients.
    fn warn(&self, message: Arguments<'_>) {
        self.warnings
            .log(Level::Warn, format_args!("Control socket: {message}"));
    }

    fn accept(self: &Arc<Self>, failures: &Sender<String>) {
        let mut threads: Vec<JoinHandle<()>> = Vec::new();
        while !self.state.is_stopping() {
            let client = match self.socket.accept() {
                Ok(client) => client,
                Err(_) if self.state.is_stopping() => break,
                Err(error) => {
                    self.warn(format_args!("can't accept a client: {error}"));
                    thread::sleep(Duration::from_secs(1));
                    continue;
                }
            };
            threads.retain(|thread| !thread.is_finished());
            match self.admit(client, failures) {
                Ok(Some(started)) => threads.extend(started),
                Ok(None) => {}
                Err(error) => self.warn(format_args!("can't serve a client: {error}")),
            }
        }
        for client in lock(&self.clients).values() {
            let _ = client.shutdown(Shutdown::Both);
        }
        for thread in threads {
            let _ = thread.join();
        }
    }

    /// Starts the two threads of a client. `None`: there are too many clients.
    ///
    /// # Errors
    ///
    /// They can't be started. The client is answered and forgotten then.
    fn admit(
        self: &Arc<Self>,
        client: UnixStream,
        failures: &Sender<String>,
    ) -> io::Result<Option<[JoinHandle<()>; 2]>> {
        client.set_write_timeout(Some(WRITE_LIMIT))?;
        let client = Arc::new(client);
        let Some(seat) = Seat::take(self, &client) else {
            refuse(&client, format!("There are {MAX_CLIENTS} clients already"));
            return Ok(None);
        };
        // It is free when both threads have ended, or were not started.
        let seat = Arc::new(seat);
        let outbox = self.state.services().events.add_client();
        let sender = {
            let (outbox, client, seat) = (Arc::clone(&outbox), Arc::clone(&client), seat.clone());
            spawn("control-sender".into(), failures, move || {
                outbox.drain(&client);
                let _ = client.shutdown(Shutdown::Both);
                drop(seat);
                Ok(())
            })
        };
        let reader = sender.and_then(|sender| {
            let (inner, outbox, client) =
                (Arc::clone(self), Arc::clone(&outbox), Arc::clone(&client));
            let reader = spawn("control-client".into(), failures, move || {
                // An error means that the client went away or is too slow.
                let _ = inner.converse(&client, &outbox);
                inner.state.services().captures.stop(None, &outbox);
                outbox.finish();
                drop(seat);
                Ok(())
            })?;
            Ok([sender, reader])
        });
        match reader {
            Ok(threads) => Ok(Some(threads)),
            Err(error) => {
                refuse(&client, format!("Can't serve a client: {error}"));
                // Ends the sender, if that was started.
                outbox.finish();
                Err(error)
            }
        }
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
                // Where the next request starts is unknown.
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
            outbox.send_line(self.answer_line(&line, &client)?, WRITE_LIMIT)?;
        }
    }

    /// The answer to a line, as a line.
    fn answer_line(&self, request: &[u8], client: &Client<'_>) -> io::Result<Vec<u8>> {
        let request = match parse(request) {
            Ok(request) => request,
            Err(failure) => return line(&failure),
        };
        // Before it is a line the answer takes many times as much memory.
        let is_long = request.execute == command::QUERY_STEERING;
        let _turn = is_long.then(|| lock(&self.long_answer));
        line(&perform(&self.state, request, client))
    }
}

/// Reads a request.
///
/// # Errors
///
/// The answer to a line that is none.
fn parse(line: &[u8]) -> Result<Request, Response> {
    serde_json::from_slice(line).map_err(|error| {
        let desc = format!("Line is not a request: {error}");
        failure(ErrorClass::GenericError, desc)
    })
}

/// Executes a request for `client`.
fn perform(state: &ServerState, request: Request, client: &Client<'_>) -> Response {
    let outcome = match execute(state, &request.execute, request.arguments, client) {
        Ok(value) => Outcome::Return(value),
        Err(failure) => Outcome::Error(failure),
    };
    Response {
        outcome,
        id: request.id,
    }
}

/// A client's place among those that are served at once.
struct Seat {
    inner: Arc<Inner>,
    number: u64,
}

impl Seat {
    /// `None`: all are taken.
    fn take(inner: &Arc<Inner>, client: &Arc<UnixStream>) -> Option<Self> {
        let mut clients = lock(&inner.clients);
        if clients.len() >= MAX_CLIENTS {
            return None;
        }
        let number = inner.next_client.fetch_add(1, Ordering::Relaxed);
        clients.insert(number, Arc::clone(client));
        let inner = Arc::clone(inner);
        Some(Self { inner, number })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.inner.clients).remove(&self.number);
    }
}

/// Answers a client that is not served. The answer fits: nothing was sent before it.
fn refuse(client: &UnixStream, desc: String) {
    if let Ok(mut line) = serde_json::to_vec(&failure(ErrorClass::GenericError, desc)) {
        line.push(b'\n');
        let _ = send(client, &line, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

fn failure(class: ErrorClass, desc: String) -> Response {
    Response {
        outcome: Outcome::Error(Failure { class, desc }),
        id: None,
    }
}
