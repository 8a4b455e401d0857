//! The running backend: ports with their sockets and threads, cables, and the control socket.

use std::{
    io,
    sync::{Arc, mpsc::Sender},
    thread::JoinHandle,
};

use thiserror::Error;

use crate::{
    config::{CableConfig, Config, FlowControl, PortConfig, Wire, WireConfig},
    control::admin,
    datapath::{interrupts, lanes},
    entry::Entry,
    port::{Port, generator::Generator},
    server::{Server, state::ServerState},
    services::Services,
    socket::{Socket, SocketError},
    thread::{pin, spawn},
    timer::Job,
    worker,
};

/// Why the backend can't start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A socket can't be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
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
    threads: Vec<JoinHandle<()>>,
}

impl Backend {
    /// Makes all sockets and starts all threads. If a thread fails, a message is sent over
    /// `failures`; the backend should be stopped then.
    ///
    /// # Errors
    ///
    /// A socket can't be made. Nothing is left running or behind.
    pub fn start(config: &Config, failures: &Sender<String>) -> Result<Self, StartError> {
        let mut ports = Vec::new();
        let services = Arc::new(Services::default());
        for (index, PortConfig { name, path, mode }) in config.ports.iter().enumerate() {
            let socket = Socket::listen(path, false)?;
            let port = Arc::new(Port::new(
                name.clone(),
                *mode,
                config.workers.per_port,
                (index, &services),
            )?);
            ports.push(Arc::new(Entry::new(port, socket)));
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
                Wire::Generate(config) => port.plug_generator(Generator::new(config)),
            }
        }
        let control = config.control.as_ref();
        let control = control.map(|path| Socket::listen(path, true)).transpose()?;

        let mut backend = Self {
            ports,
            services,
            server: None,
            threads: Vec::new(),
        };
        match backend.spawn_all(config, control, failures) {
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
        control: Option<Socket>,
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
                    entry.accept(&outcome)
                })?);
            log::info!("Port {name}: listening on {}", path.display());
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
            let state = ServerState::new(ports, config.cables.clone(), services);
            self.server = Some(Server::start(socket, state, failures)?);
        }
        Ok(())
    }

    /// Ends all connections, stops all threads and removes all sockets.
    pub fn stop(mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
        }
        self.services.timer.stop();
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
    }
}
