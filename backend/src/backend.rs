//! The running backend: ports with their sockets and threads, cables, and the control socket.

use std::{
    io,
    path::Path,
    sync::{Arc, mpsc::Sender},
    thread::JoinHandle,
};

use thiserror::Error;

use crate::{
    config::{Config, PortConfig, SocketMode, StreamAddress, StreamConfig, StreamRole, Wire},
    control::admin,
    datapath::{interrupts, lanes},
    descriptors::{Share, TooFewDescriptors},
    entry::Entry,
    memory::MemoryRules,
    port::{Port, line::Line, switch::Switch},
    sandbox::{self, Reach, SandboxError},
    server::{
        self, Server,
        state::{LinkState, ServerState},
    },
    services::Services,
    socket::{Socket, SocketError},
    thread::{pin, spawn},
    timer::Job,
    wire::{self, OpenLine, WireError},
    worker,
};

/// Why the backend can't start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A socket can't be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A wire can't be opened.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The sandbox can't begin.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// Ports would run out of descriptors.
    #[error(transparent)]
    Descriptors(#[from] TooFewDescriptors),
    /// A thread or descriptor can't be made.
    #[error("Can't start a port")]
    Resources(#[from] io::Error),
}

/// A running backend.
#[derive(Debug)]
pub struct Backend {
    ports: Vec<Arc<Entry>>,
    services: Arc<Services>,
    server: Option<Server>,
    lines: Vec<Arc<Line>>,
    threads: Vec<JoinHandle<()>>,
}

/// What connects the ports to each other and to the world.
struct Links {
    /// Lines, with the number of the port that sends on each.
    lines: Vec<(usize, OpenLine)>,
    switches: Vec<Arc<Switch>>,
}

/// Plugs cables, wires and switches into the ports.
fn plug_all(config: &Config, entries: &[Arc<Entry>]) -> Result<Links, WireError> {
    let port = |number: usize| &entries[number].port;
    let mut lines = Vec::new();
    for cable in &config.cables {
        let opened = wire::connect(cable.ends.map(port), cable)?;
        lines.extend(cable.ends.into_iter().zip(opened));
    }
    for wire in &config.wires {
        let opened = wire::plug(port(wire.port), &wire.wire, config.socket_mode)?;
        lines.extend(opened.map(|open| (wire.port, open)));
    }
    let switch =
        |ports: &[usize]| Switch::connect(&ports.iter().map(|&n| port(n)).collect::<Vec<_>>());
    let switches = config.switches.iter().map(|config| switch(&config.ports));
    Ok(Links {
        switches: switches.collect(),
        lines,
    })
}

/// What a backend with these sockets needs of the world once it runs.
fn reach<'s>(config: &Config, sockets: impl Iterator<Item = &'s Socket>) -> Reach {
    let directory = |path: &Path| path.parent().unwrap_or(path).to_owned();
    let own = sockets.filter(|socket| socket.owns_file());
    let mut reach = Reach {
        removes_in: own.map(|socket| directory(socket.path())).collect(),
        ..Reach::default()
    };
    for wire in &config.wires {
        let Wire::Stream(StreamConfig { role, address, .. }) = &wire.wire else {
            continue;
        };
        match (role, address) {
            (StreamRole::Connect, StreamAddress::Unix(path)) => reach.unix.push(path.clone()),
            (StreamRole::Listen, StreamAddress::Unix(path)) => {
                reach.removes_in.insert(directory(path));
            }
            (StreamRole::Connect, StreamAddress::Tcp(peer)) => reach.tcp.push(*peer),
            (StreamRole::Listen, StreamAddress::Tcp(_)) => {}
        }
        reach.has_tcp |= matches!(address, StreamAddress::Tcp(_));
    }
    reach
}

impl Backend {
    /// Makes all sockets, begins the sandbox and starts all threads. The sandbox confines the
    /// calling thread, too. If a thread fails, a message is sent over `failures`; the backend should
    /// be stopped then.
    ///
    /// # Errors
    ///
    /// A socket can't be made, or the sandbox can't begin. Nothing is left running or behind.
    pub fn start(config: &Config, failures: &Sender<String>) -> Result<Self, StartError> {
        let mut ports = Vec::new();
        let memory = MemoryRules::new(config.trust_memory, config.ports.len());
        let services = Arc::new(Services::new(memory)?);
        for (index, PortConfig { name, path, mode }) in config.ports.iter().enumerate() {
            let socket = Socket::listen(path, config.socket_mode)?;
            let port = Arc::new(Port::new(
                name.clone(),
                *mode,
                config.workers.per_port,
                (index, &services),
            )?);
            ports.push(Arc::new(Entry::new(port, socket)?));
        }
        let links = plug_all(config, &ports)?;
        let control = config.control.as_ref();
        let control = control.map(|path| Socket::listen(path, SocketMode::default()));
        let control = control.transpose()?;
        let clients = control.iter().count() * server::DESCRIPTORS;
        let peers = config.wires.len() * wire::DESCRIPTORS;
        let share = Share::divide(ports.len(), clients + peers)??;
        let sockets = ports.iter().map(|entry| &entry.socket).chain(&control);
        sandbox::confine(config.sandbox, &reach(config, sockets))?;

        let mut backend = Self {
            ports,
            services,
            server: None,
            lines: links
                .lines
                .iter()
                .map(|(_, open)| Arc::clone(&open.line))
                .collect(),
            threads: Vec::new(),
        };
        match backend.spawn_all(config, links, (share, control), failures) {
            Ok(()) => Ok(backend),
            Err(error) => {
                backend.stop();
                Err(error.into())
            }
        }
    }

    fn spawn_all(
        &mut self,
        config: &Config,
        links: Links,
        (share, control): (Share, Option<Socket>),
        failures: &Sender<String>,
    ) -> io::Result<()> {
        let mut cpus = config.workers.cpus.iter().cycle();
        let poll = config.workers.poll;
        for entry in &self.ports {
            let name = entry.port.context.name();
            for (number, waker) in entry.port.wakers.iter().enumerate() {
                let (port, waker) = (Arc::clone(&entry.port), Arc::clone(waker));
                let cpu = cpus.next().copied();
                let name = format!("worker-{name}.{number}");
                self.threads.push(spawn(name, failures, move || {
                    if let Some(cpu) = cpu {
                        pin(cpu)?;
                    }
                    worker::run(&waker, &port, poll)
                })?);
            }
            let path = entry.socket.path();
            let (entry, outcome) = (Arc::clone(entry), failures.clone());
            self.threads
                .push(spawn(format!("accept-{name}"), failures, move || {
                    entry.accept(share, &outcome)
                })?);
            log::info!("Port {name}: listening on {}", path.display());
        }
        let mut lines = Vec::new();
        for (port, OpenLine { line, threads }) in links.lines {
            let name = self.ports[port].port.context.name();
            for (number, body) in threads.into_iter().enumerate() {
                let name = format!("wire-{name}.{number}");
                self.threads.push(spawn(name, failures, body)?);
            }
            lines.push((port, line));
        }
        let (services, ports) = (Arc::clone(&self.services), self.ports.clone());
        self.threads.push(spawn("timer".into(), failures, move || {
            services.timer.run(|port, job| {
                if let Some(entry) = ports.get(port) {
                    perform(entry, job);
                }
            });
            Ok(())
        })?);
        if let Some(socket) = control {
            let (ports, services) = (self.ports.clone(), Arc::clone(&self.services));
            let links = LinkState {
                cables: config.cables.clone(),
                wires: config.wires.clone(),
                switches: config
                    .switches
                    .iter()
                    .cloned()
                    .zip(links.switches)
                    .collect(),
                lines,
            };
            let state = ServerState::new(ports, links, services);
            self.server = Some(Server::start(socket, state, failures)?);
        }
        Ok(())
    }

    /// Ends all connections, stops all threads and removes all sockets. The sockets go first: a
    /// thread that hangs may keep the rest from its end, and the caller from waiting for it.
    pub fn stop(mut self) {
        self.ports.iter().for_each(|port| port.socket.remove_file());
        self.server.iter().for_each(Server::remove_socket);
        if let Some(server) = self.server.take() {
            server.stop();
        }
        self.services.timer.stop();
        self.lines.iter().for_each(|line| line.stop());
        for entry in &self.ports {
            entry.stop();
            entry.port.wakers.iter().for_each(|waker| waker.stop());
        }
        for thread in self.threads.drain(..) {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// Performs a job of the timer.
fn perform(entry: &Entry, job: Job) {
    let port = &entry.port;
    match job {
        Job::Lane(direction, pair) => lanes::release_due(port, direction, pair),
        Job::FlushHeld(pair) => lanes::flush_held(port, pair),
        Job::Interrupt(ring) => interrupts::raise_moderated(&port.queues, ring),
        Job::LinkFlap(nanoseconds) => {
            admin::set_link(port, false);
            let back = port.context.now().saturating_add(nanoseconds);
            port.context.schedule(back, Job::LinkUp);
        }
        Job::LinkUp => admin::set_link(port, true),
        Job::DeviceReset => admin::reset_device(port),
        Job::Disconnect => entry.disconnect(),
        Job::DisconnectFailed => entry.disconnect_failed(),
    }
}
