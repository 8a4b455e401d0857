//! The control socket's server (docs/control-protocol.md).

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

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use zcnic_ctl::protocol::{
    CableStatus, Driver, ErrorClass, Failure, FlowCounterAdd, FlowCounterId, FlowCounts, Greeting,
    Identity, MAX_LINE, Outcome, PortStats, PortStatus, QueueStats, Request, Response, Stats,
    Status, command,
};
use zcnic_device::port::Mode;

use crate::{
    backend::{Entry, Shared, spawn},
    port::{FlowControl, MAX_PAIRS, MAX_RINGS, lock},
    socket::Socket,
};

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
    stopping: AtomicBool,
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
            let _ = send(&client, &failure(ErrorClass::GenericError, desc));
            return Ok(None);
        }
        let number = self.next_client.fetch_add(1, Ordering::Relaxed);
        clients.insert(number, client.try_clone()?);
        drop(clients);
        let inner = Arc::clone(self);
        let thread = spawn("control-client".into(), failures, move || {
            // A client that goes away or is too slow is its own affair.
            let _ = inner.converse(&client);
            let _ = client.shutdown(Shutdown::Both);
            lock(&inner.clients).remove(&number);
            Ok(())
        })?;
        Ok(Some(thread))
    }

    fn converse(&self, client: &UnixStream) -> io::Result<()> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        send(
            client,
            &Greeting {
                zcnic: Identity { version },
            },
        )?;
        let mut reader = BufReader::new(client);
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
                return send(client, &failure(ErrorClass::GenericError, desc));
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            send(client, &self.answer(&line))?;
        }
    }

    fn answer(&self, line: &[u8]) -> Response {
        let request: Request = match serde_json::from_slice(line) {
            Ok(request) => request,
            Err(error) => {
                let desc = format!("Line is not a request: {error}");
                return failure(ErrorClass::GenericError, desc);
            }
        };
        let outcome = match self.execute(&request.execute, request.arguments) {
            Ok(value) => Outcome::Return(value),
            Err(failure) => Outcome::Error(failure),
        };
        Response {
            outcome,
            id: request.id,
        }
    }

    fn execute(&self, name: &str, arguments: Option<Value>) -> Result<Value, Failure> {
        match name {
            command::QUERY_STATUS => none(arguments).and_then(|()| value(&self.status())),
            command::QUERY_STATS => none(arguments).and_then(|()| value(&self.stats())),
            command::FLOW_COUNTER_ADD => value(&self.add_flow(&parse(arguments)?)?),
            command::FLOW_COUNTER_QUERY => value(&self.query_flow(parse(arguments)?)?),
            command::FLOW_COUNTER_REMOVE => {
                self.remove_flow(parse(arguments)?)?;
                Ok(Value::Object(serde_json::Map::new()))
            }
            other => Err(Failure {
                class: ErrorClass::CommandNotFound,
                desc: format!(
                    "No command {other:?}; there are {}",
                    command::ALL.join(", ")
                ),
            }),
        }
    }

    fn entries(&self) -> &[Arc<Entry>] {
        &self.shared.ports
    }

    fn status(&self) -> Status {
        let ports = self.entries().iter().map(|entry| {
            let port = &entry.port;
            let (driver, data_pairs) = match port.control().device.mode() {
                Mode::Undecided => (Driver::Undecided, None),
                Mode::Plain => (Driver::Plain, None),
                Mode::Zcnic(session) => (Driver::Zcnic, Some(session.command_pair)),
            };
            let usable = |&ring: &usize| {
                port.set_up(ring, |transport| {
                    transport.is_ready() && transport.is_enabled()
                })
            };
            PortStatus {
                name: port.name.clone(),
                path: entry.socket.path().display().to_string(),
                connected: port.is_connected(),
                link: port.link_up(),
                driver,
                data_pairs,
                rings: (0..MAX_RINGS)
                    .filter(usable)
                    .map(|ring| ring as u16)
                    .collect(),
            }
        });
        let cables = self.shared.cables.iter().map(|cable| CableStatus {
            ports: cable.ends.map(|end| self.entries()[end].port.name.clone()),
            pause: cable.flow_control == FlowControl::Pause,
        });
        Status {
            ports: ports.collect(),
            cables: cables.collect(),
        }
    }

    fn stats(&self) -> Stats {
        let ports = self.entries().iter().map(|entry| {
            let port = &entry.port;
            let queues = (0..MAX_PAIRS).map(|pair| {
                let receive = *lock(&port.receive[pair]).queue.counters();
                let transmit = lock(&port.transmit[pair]).counters;
                QueueStats {
                    queue: pair as u16,
                    rx_frames: receive.frames,
                    rx_bytes: receive.bytes,
                    rx_split: receive.split,
                    rx_csum_bad: receive.csum_bad,
                    rx_no_buffer: receive.no_buffer,
                    rx_stopped: receive.stopped,
                    rx_too_long: receive.too_long,
                    rx_bad_chain: receive.bad_chain,
                    rx_hashed: receive.hashed,
                    tx_frames: transmit.frames,
                    tx_bytes: transmit.bytes,
                    tx_errors: transmit.errors,
                }
            });
            let moved = |stats: &QueueStats| {
                *stats
                    != QueueStats {
                        queue: stats.queue,
                        ..QueueStats::default()
                    }
            };
            let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            PortStats {
                name: port.name.clone(),
                connections: load(&port.counters.connections),
                rx_filtered: load(&port.counters.filtered),
                rx_rule_drop: load(&port.counters.rule_drop),
                rx_pause_timeout: load(&port.counters.pause_timeout),
                tx_no_carrier: load(&port.counters.no_carrier),
                queues: queues.filter(moved).collect(),
            }
        });
        Stats {
            ports: ports.collect(),
        }
    }

    fn add_flow(&self, add: &FlowCounterAdd) -> Result<FlowCounterId, Failure> {
        let names = || self.entries().iter().map(|entry| entry.port.name.as_str());
        let Some(index) = names().position(|name| name == add.port) else {
            let known: Vec<&str> = names().collect();
            return Err(Failure {
                class: ErrorClass::NotFound,
                desc: format!("No port {:?}; there are {}", add.port, known.join(", ")),
            });
        };
        let id = self.next_flow.fetch_add(1, Ordering::Relaxed);
        if !self.entries()[index].port.flows.add(id, add.pattern) {
            return Err(Failure {
                class: ErrorClass::GenericError,
                desc: format!("Port {} has too many flow counters, remove some", add.port),
            });
        }
        lock(&self.shared.flow_counters).insert(id, index);
        Ok(FlowCounterId { id })
    }

    fn flow(&self, id: u64) -> Result<&Arc<Entry>, Failure> {
        let index = lock(&self.shared.flow_counters).get(&id).copied();
        index
            .map(|index| &self.entries()[index])
            .ok_or_else(|| Failure {
                class: ErrorClass::NotFound,
                desc: format!("No flow counter {id}"),
            })
    }

    fn query_flow(&self, FlowCounterId { id }: FlowCounterId) -> Result<FlowCounts, Failure> {
        let queues = self.flow(id)?.port.flows.query(id);
        Ok(FlowCounts {
            queues: queues.unwrap_or_default(),
        })
    }

    fn remove_flow(&self, FlowCounterId { id }: FlowCounterId) -> Result<(), Failure> {
        self.flow(id)?.port.flows.remove(id);
        lock(&self.shared.flow_counters).remove(&id);
        Ok(())
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
    serde_json::from_value(arguments).map_err(|error| Failure {
        class: ErrorClass::GenericError,
        desc: format!("Wrong arguments: {error}"),
    })
}

fn none(arguments: Option<Value>) -> Result<(), Failure> {
    match arguments {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Object(members)) if members.is_empty() => Ok(()),
        Some(_) => Err(Failure {
            class: ErrorClass::GenericError,
            desc: "Wrong arguments: this command takes none".into(),
        }),
    }
}

fn value(result: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(result).map_err(|error| Failure {
        class: ErrorClass::GenericError,
        desc: format!("Result can't be written: {error}"),
    })
}

fn send(mut client: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    client.write_all(&line)
}
