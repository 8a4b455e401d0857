//! The running backend: ports with their sockets and threads, cables, and the control socket.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, atomic::Ordering, mpsc::Sender},
    thread::JoinHandle,
};

use thiserror::Error;

use crate::{
    config::{CableConfig, Config, FlowControl, PortConfig, Wire, WireConfig, WorkersConfig},
    entry::{Entry, Slot},
    port::{Port, generator::Generator},
    server::Server,
    socket::{Socket, SocketError},
    thread::{pin, spawn},
    timer::{Hub, Job},
    waker::Waker,
    worker,
};

/// Why the backend can't start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A socket can't be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The system has no more of something.
    #[error("Can't start a port")]
    Resources(#[from] io::Error),
}

/// A running backend.
#[derive(Debug)]
pub struct Backend {
    ports: Vec<Arc<Entry>>,
    hub: Arc<Hub>,
    server: Option<Server>,
    threads: Vec<JoinHandle<()>>,
}

/// What the parts of a running backend share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) ports: Vec<Arc<Entry>>,
    pub(crate) cables: Vec<CableConfig>,
    pub(crate) flow_counters: Mutex<BTreeMap<u64, usize>>,
    pub(crate) hub: Arc<Hub>,
}

impl Backend {
    /// Makes all sockets and starts all threads. A thread that ends although it should not says so over
    /// `failures`; the backend should be stopped then.
    ///
    /// # Errors
    ///
    /// A socket can't be made. Nothing is left running or behind.
    pub fn start(config: &Config, failures: &Sender<String>) -> Result<Self, StartError> {
        let mut ports = Vec::new();
        let hub = Arc::new(Hub::default());
        for (index, PortConfig { name, path, mode }) in config.ports.iter().enumerate() {
            let socket = Socket::listen(path, false)?;
            let port = Arc::new(Port::new(
                name.clone(),
                *mode,
                config.workers.per_port,
                (index, &hub),
            )?);
            ports.push(Arc::new(Entry {
                port,
                socket,
                slot: Slot::default(),
            }));
        }
        for &CableConfig {
            ends: [a, b],
            flow_control,
        } in &config.cables
        {
            let (a, b) = (&ports[a].port, &ports[b].port);
            a.plug(b, flow_control);
            b.plug(a, flow_control);
        }
        for WireConfig { port, wire } in &config.wires {
            let port = &ports[*port].port;
            match wire {
                Wire::Loopback => port.plug(port, FlowControl::Drop),
                Wire::Null => port.plug_null(),
                Wire::Generate(what) => port.plug_generator(Generator::new(what)),
            }
        }
        let shared = Shared {
            ports: ports.clone(),
            cables: config.cables.clone(),
            flow_counters: Mutex::default(),
            hub: Arc::clone(&hub),
        };
        let control = config.control.as_ref();
        let server = control
            .map(|path| Ok::<_, StartError>((Socket::listen(path, true)?, shared)))
            .transpose()?;

        let mut backend = Self {
            ports,
            hub,
            server: None,
            threads: Vec::new(),
        };
        match backend.spawn_all(server, &config.workers, failures) {
            Ok(()) => Ok(backend),
            Err(error) => {
                backend.stop();
                Err(error.into())
            }
        }
    }

    fn spawn_all(
        &mut self,
        server: Option<(Socket, Shared)>,
        workers: &WorkersConfig,
        failures: &Sender<String>,
    ) -> io::Result<()> {
        let mut cpus = workers.cpus.iter().cycle();
        let poll = workers.poll;
        for entry in &self.ports {
            let name = &entry.port.name;
            for number in 0..entry.port.workers.len() {
                let port = Arc::clone(&entry.port);
                let cpu = cpus.next().copied();
                let name = format!("worker-{name}.{number}");
                self.threads.push(spawn(name, failures, move || {
                    if let Some(cpu) = cpu {
                        pin(cpu)?;
                    }
                    worker::run(&port.workers[number], &port, poll)
                })?);
            }
            let (entry, outcome) = (Arc::clone(entry), failures.clone());
            self.threads
                .push(spawn(format!("accept-{name}"), failures, move || {
                    entry.accept(&outcome)
                })?);
            log::info!("Port {name}: listening on {}", self.ports_path(name));
        }
        let (hub, ports) = (Arc::clone(&self.hub), self.ports.clone());
        self.threads.push(spawn("hub".into(), failures, move || {
            hub.run(|job| perform(&hub, &ports, job));
            Ok(())
        })?);
        if let Some((socket, shared)) = server {
            self.server = Some(Server::start(socket, shared, failures)?);
        }
        Ok(())
    }

    fn ports_path(&self, name: &str) -> String {
        let entry = self.ports.iter().find(|entry| entry.port.name == name);
        entry
            .map(|entry| entry.socket.path().display().to_string())
            .unwrap_or_default()
    }

    /// Ends all connections, stops all threads and removes all sockets.
    pub fn stop(mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
        }
        self.hub.stop();
        for entry in &self.ports {
            entry.slot.stopping.store(true, Ordering::Release);
            entry.socket.shut_down();
            entry.disconnect();
            entry.port.workers.iter().for_each(Waker::stop);
        }
        for thread in self.threads.drain(..) {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// Does what is due.
fn perform(hub: &Hub, entries: &[Arc<Entry>], job: Job) {
    let (Job::Lane(port, ..)
    | Job::Release(port, _)
    | Job::Interrupt(port, _)
    | Job::LinkFlap(port, _)
    | Job::LinkUp(port)
    | Job::DeviceReset(port)
    | Job::Disconnect(port)) = job;
    let Some(entry) = entries.get(port) else {
        return;
    };
    match job {
        Job::Lane(_, direction, queue) => entry.port.lane_due(direction, queue),
        Job::Release(_, queue) => entry.port.release_held(queue),
        Job::Interrupt(_, ring) => entry.port.moderated_interrupt_due(ring),
        Job::LinkFlap(port, nanoseconds) => {
            entry.port.set_link(false);
            let back = hub.now().saturating_add(nanoseconds);
            hub.schedule(back, Job::LinkUp(port));
        }
        Job::LinkUp(_) => entry.port.set_link(true),
        Job::DeviceReset(_) => entry.port.reset_device(),
        Job::Disconnect(_) => entry.disconnect(),
    }
}
