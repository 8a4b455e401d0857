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
    io::{self, BufRead, BufReader, Read, Write},
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

use zcnic_ctl::protocol::{
    ErrorClass, Failure, Greeting, Identity, MAX_LINE, Outcome, Request, Response,
};

use self::{client::Client, commands::execute, state::ServerState};
use crate::{events::Outbox, socket::Socket, sync::lock, thread::spawn};

/// Clients at once.
const MAX_CLIENTS: usize = 16;

/// How long a client may take to read an answer.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Inner {
    socket: Socket,
    state: ServerState,
    /// The connected clients, by a number of their own.
    clients: Mutex<BTreeMap<u64, UnixStream>>,
    next_client: AtomicU64,
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
        });
        let (accepting, outcome) = (Arc::clone(&inner), failures.clone());
        let thread = spawn("control".into(), failures, move || {
            accepting.accept(&outcome);
            Ok(())
        })?;
        Ok(Self { inner, thread })
    }

    pub(crate) fn stop(self) {
        self.inner.state.stop();
        self.inner.socket.shut_down();
        let _ = self.thread.join();
    }
}

impl Inner {
    fn accept(self: &Arc<Self>, failures: &Sender<String>) {
        let mut threads: Vec<JoinHandle<()>> = Vec::new();
        while !self.state.is_stopping() {
            let client = match self.socket.accept() {
                Ok(client) => client,
                Err(_) if self.state.is_stopping() => break,
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
            let outbox = inner.state.services().events.add_client();
            let (sending, stream) = (Arc::clone(&outbox), client.try_clone()?);
            let sender = spawn("control-sender".into(), &outcome, move || {
                sending.drain(&stream);
                Ok(())
            })?;
            // An error means that the client went away or is too slow.
            let _ = inner.converse(&client, &outbox);
            inner.state.services().captures.stop(None, &outbox);
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
            send(&answer(&self.state, &line, &client))?;
        }
    }
}

/// Executes the request in `line` for `client`.
fn answer(state: &ServerState, line: &[u8], client: &Client<'_>) -> Response {
    let request: Request = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => {
            let desc = format!("Line is not a request: {error}");
            return failure(ErrorClass::GenericError, desc);
        }
    };
    let outcome = match execute(state, &request.execute, request.arguments, client) {
        Ok(value) => Outcome::Return(value),
        Err(failure) => Outcome::Error(failure),
    };
    Response {
        outcome,
        id: request.id,
    }
}

fn failure(class: ErrorClass, desc: String) -> Response {
    Response {
        outcome: Outcome::Error(Failure { class, desc }),
        id: None,
    }
}
