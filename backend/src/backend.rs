//! The running backend: ports with their sockets and threads, cables, and the control socket.

use std::{
    any::Any,
    collections::BTreeMap,
    io,
    net::Shutdown,
    os::unix::net::UnixStream,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::Sender,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::thread::{CpuSet, sched_setaffinity};
use thiserror::Error;

use crate::{
    datapath::generate::{Generate, Generator},
    port::{FlowControl, Port, PortMode, lock},
    server::Server,
    socket::{Socket, SocketError},
    timer::Hub,
    vhost::connection,
    worker::Worker,
};

/// What to run. Made from the command line, where it is checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Ports in their order.
    pub ports: Vec<PortConfig>,
    /// Cables between them.
    pub cables: Vec<CableConfig>,
    /// What the other ports are plugged into.
    pub wires: Vec<WireConfig>,
    /// Path of the control socket.
    pub control: Option<PathBuf>,
    /// Who moves frames, and how.
    pub workers: WorkersConfig,
}

/// The threads that move frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkersConfig {
    /// Threads of each port, among which its queue pairs are shared out; at least one.
    pub per_port: usize,
    /// How long a thread looks at rings that became empty before it waits for kicks.
    pub poll: Duration,
    /// Processors that the threads are pinned to, in turn; none: wherever the system puts them.
    pub cpus: Vec<usize>,
}

impl Default for WorkersConfig {
    fn default() -> Self {
        Self {
            per_port: 1,
            poll: Duration::from_micros(20),
            cpus: Vec::new(),
        }
    }
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Its name, unique.
    pub name: String,
    /// Path of its vhost-user socket, unique.
    pub path: PathBuf,
    /// Who may drive it.
    pub mode: PortMode,
}

/// One cable between two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CableConfig {
    /// Indices of the ports; no port has two cables.
    pub ends: [usize; 2],
    /// What becomes of frames without a receive buffer.
    pub flow_control: FlowControl,
}

/// What one port is plugged into that has no cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireConfig {
    /// Index of the port; it has no cable and no other wire.
    pub port: usize,
    /// The wire.
    pub wire: Wire,
}

/// A wire that does not lead to another port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// What the port sends comes back to it.
    Loopback,
    /// What the port sends goes nowhere.
    Null,
    /// The port receives frames that nobody sent; what it sends goes nowhere.
    Generate(Generate),
}

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

/// How long a new frontend waits for the previous one's connection to end.
const HANDOVER: Duration = Duration::from_secs(1);

/// The frontend that is connected, and whether no more is welcome.
#[derive(Debug, Default)]
struct Slot {
    frontend: Mutex<Option<UnixStream>>,
    freed: Condvar,
    stopping: AtomicBool,
}

/// A port with its socket.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) port: Arc<Port>,
    pub(crate) socket: Socket,
    slot: Slot,
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
                    port.workers[number].run(&port, poll)
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
            hub.run(&ports);
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
            entry.port.workers.iter().for_each(Worker::stop);
        }
        for thread in self.threads.drain(..) {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

impl Entry {
    /// Ends the connection to the frontend, which may connect again.
    pub(crate) fn disconnect(&self) {
        // A frontend that loses its backend goes on where the used rings are then.
        self.port.abandon_rings();
        if let Some(frontend) = &*lock(&self.slot.frontend) {
            let _ = frontend.shutdown(Shutdown::Both);
        }
    }

    /// Serves one frontend after the other, each on a thread of its own.
    fn accept(self: &Arc<Self>, failures: &Sender<String>) -> io::Result<()> {
        let mut serving: Option<JoinHandle<()>> = None;
        while !self.slot.stopping.load(Ordering::Acquire) {
            let frontend = match self.socket.listener.accept() {
                Ok((frontend, _)) => frontend,
                Err(_) if self.slot.stopping.load(Ordering::Acquire) => break,
                Err(error) => {
                    // As a rule no more descriptors; nothing tells when there are some again.
                    self.port
                        .warn(format_args!("can't accept a frontend: {error}"));
                    thread::sleep(HANDOVER);
                    continue;
                }
            };
            if !self.claim(&frontend) {
                self.port
                    .warn(format_args!("refused a frontend: another one is connected"));
                continue;
            }
            if let Some(thread) = serving.take() {
                let _ = thread.join();
            }
            let entry = Arc::clone(self);
            let name = format!("port-{}", self.port.name);
            serving = Some(spawn(name, failures, move || {
                entry.serve(&frontend);
                Ok(())
            })?);
        }
        if let Some(thread) = serving {
            let _ = thread.join();
        }
        Ok(())
    }

    /// Waits a little for a frontend that is about to leave.
    fn claim(&self, frontend: &UnixStream) -> bool {
        let Ok(handle) = frontend.try_clone() else {
            return false;
        };
        let held = lock(&self.slot.frontend);
        let wait = self
            .slot
            .freed
            .wait_timeout_while(held, HANDOVER, |held| held.is_some());
        let (mut held, timeout) = wait.unwrap_or_else(std::sync::PoisonError::into_inner);
        if timeout.timed_out() || self.slot.stopping.load(Ordering::Acquire) {
            return false;
        }
        *held = Some(handle);
        true
    }

    fn serve(&self, frontend: &UnixStream) {
        self.port.info(format_args!("frontend connected"));
        if let Err(error) = connection::serve(&self.port, frontend, self.socket.path()) {
            self.port
                .warn(format_args!("{:#}", anyhow::Error::from(error)));
        }
        self.port.info(format_args!("frontend disconnected"));
        *lock(&self.slot.frontend) = None;
        self.slot.freed.notify_all();
    }
}

/// Has the calling thread run on `cpu` only.
fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set)
        .map_err(|errno| io::Error::other(format!("Can't run on CPU {cpu}: {errno}")))
}

/// Starts a thread that does not die silently.
pub(crate) fn spawn(
    name: String,
    failures: &Sender<String>,
    body: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let failures = failures.clone();
    thread::Builder::new().name(name.clone()).spawn(move || {
        let why = match catch_unwind(AssertUnwindSafe(body)) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => message(&*panic).to_owned(),
        };
        // If nobody listens any more the process is about to end.
        let _ = failures.send(format!("Thread {name} failed: {why}"));
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("panic")
}
