//! A backend under test and frontends that behave as QEMU does.

// Each test binary uses its own part of this.
#![allow(dead_code, reason = "shared by several test binaries")]

pub(crate) mod namespace;

use std::{
    path::PathBuf,
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use tempfile::TempDir;
use zcnic_backend::{
    Backend, CableConfig, CableShape, Config, FlowControl, PortConfig, PortMode, SwitchConfig,
    Wire, WireConfig,
};
use zcnic_ctl::client::Client;
use zcnic_model::{
    Driver,
    in_process::RING_SIZE,
    vhost_user::{Frontend, connect},
};

/// A cable between the first two ports.
pub(crate) fn cable(flow_control: FlowControl) -> CableConfig {
    CableConfig {
        ends: [0, 1],
        flow_control,
        shape: None,
    }
}

/// A running backend with two cabled ports and a control socket.
pub(crate) struct World {
    backend: Option<Backend>,
    failures: Receiver<String>,
    config: Config,
    directory: TempDir,
}

/// Starts a backend on a thread of its own: that thread and those of the backend are sandboxed as
/// in the program, the test's are not.
fn start(config: &Config) -> (Backend, Receiver<String>) {
    let (sender, failures) = mpsc::channel();
    let backend = thread::scope(|scope| {
        let starting = scope.spawn(|| Backend::start(config, &sender));
        starting.join().expect("no panic")
    });
    (backend.expect("backend starts"), failures)
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with([PortMode::Auto; 2], FlowControl::Drop)
    }

    pub(crate) fn with(modes: [PortMode; 2], flow_control: FlowControl) -> Self {
        Self::configured(|config| {
            config.cables = vec![cable(flow_control)];
            for (port, mode) in config.ports.iter_mut().zip(modes) {
                port.mode = mode;
            }
        })
    }

    /// Two ports without a cable.
    pub(crate) fn wired(wires: [Wire; 2]) -> Self {
        let wires = wires.into_iter().enumerate();
        let wires = wires.map(|(port, wire)| WireConfig { port, wire });
        Self::configured(|config| config.wires = wires.collect())
    }

    /// Two cabled ports with `workers` workers each.
    pub(crate) fn with_workers(workers: usize) -> Self {
        Self::configured(|config| {
            config.cables = vec![cable(FlowControl::Drop)];
            config.workers.per_port = workers;
        })
    }

    /// `count` ports on a switch.
    pub(crate) fn switched(count: usize) -> Self {
        let name = "lan".to_owned();
        let ports = (0..count).collect();
        Self::configured(|config| {
            for number in config.ports.len()..count {
                let mut port = config.ports[0].clone();
                port.name = number.to_string();
                port.path.set_file_name(format!("{number}.sock"));
                config.ports.push(port);
            }
            config.switches = vec![SwitchConfig { name, ports }];
        })
    }

    /// Two ports with a cable, on a switch, and with a cable that has properties.
    pub(crate) fn connected() -> [Self; 3] {
        let shape = CableShape {
            delay: Duration::from_millis(1),
            ..CableShape::default()
        };
        let shaped = CableConfig {
            shape: Some(shape),
            ..cable(FlowControl::Drop)
        };
        let shaped = Self::configured(|config| config.cables = vec![shaped]);
        [Self::new(), Self::switched(2), shaped]
    }

    /// Two ports as `configure` connects them.
    pub(crate) fn configured(configure: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let port = |number: usize| PortConfig {
            name: number.to_string(),
            path: directory.path().join(format!("{number}.sock")),
            mode: PortMode::Auto,
        };
        let mut config = Config {
            ports: vec![port(0), port(1)],
            control: Some(directory.path().join("control")),
            ..Config::default()
        };
        configure(&mut config);
        let (backend, failures) = start(&config);
        Self {
            backend: Some(backend),
            failures,
            config,
            directory,
        }
    }

    /// The path of port `number`'s socket.
    pub(crate) fn path(&self, number: usize) -> PathBuf {
        self.config.ports[number].path.clone()
    }

    pub(crate) fn control_path(&self) -> PathBuf {
        self.config.control.clone().expect("a control socket")
    }

    pub(crate) fn control(&self) -> Client {
        Client::connect(&self.control_path()).expect("control")
    }

    /// A driver with `pairs` queue pairs, the command pair included, on port `number`.
    pub(crate) fn driver(&self, number: usize, pairs: u16) -> Driver<Frontend> {
        connect(&self.path(number), pairs, RING_SIZE)
    }

    /// Drivers of both ports.
    pub(crate) fn drivers(&self, pairs: u16) -> [Driver<Frontend>; 2] {
        [0, 1].map(|number| self.driver(number, pairs))
    }

    /// Replaces the backend by another process on the same sockets, as after a kill.
    pub(crate) fn restart(&mut self) {
        self.stop();
        let (backend, failures) = start(&self.config);
        self.backend = Some(backend);
        self.failures = failures;
    }

    /// Stops the backend, and checks that no thread failed and nothing is left behind.
    pub(crate) fn stop(&mut self) {
        if let Some(backend) = self.backend.take() {
            backend.stop();
            assert_eq!(
                self.failures.try_recv().ok(),
                None,
                "a thread of the backend failed"
            );
            let left: Vec<_> = std::fs::read_dir(self.directory.path())
                .expect("directory")
                .map(|entry| entry.expect("entry").file_name())
                .collect();
            assert!(left.is_empty(), "the backend left {left:?} behind");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        self.stop();
    }
}
