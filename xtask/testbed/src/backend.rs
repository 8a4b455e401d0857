//! The backend of a guest: one `zcnic` process with its ports cabled, run as an unprivileged user
//! like QEMU.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail};

use crate::{
    control::{self, Control},
    machine::Port,
    paths::{self, Installation},
    process::Running,
    provision::programs,
    sandbox::Sandbox,
    step::{run, step},
};

/// From its start until it listens.
const PATIENCE: Duration = Duration::from_secs(10);

/// The programs that run on the host.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The backend.
    pub zcnic: PathBuf,
    /// The client of its control socket.
    pub zcnicctl: PathBuf,
}

/// Builds them for guests.
pub fn build() -> Result<Programs> {
    let built = programs::build()?;
    Ok(Programs {
        zcnic: built.zcnic,
        zcnicctl: built.zcnicctl,
    })
}

/// Builds them with the release profile, as users do, for benchmarks; an installation has them.
pub fn build_release() -> Result<Programs> {
    if Installation::current().is_some() {
        return build();
    }
    let mut command = paths::cargo();
    command
        .args(["build", "--release", "--bin", "zcnic", "--bin", "zcnicctl"])
        .args(["-p", "zcnic-backend", "-p", "zcnicctl"]);
    step("build the backend", || run(&mut command))?;
    let directory = paths::target().join("release");
    Ok(Programs {
        zcnic: directory.join("zcnic"),
        zcnicctl: directory.join("zcnicctl"),
    })
}

/// What the cable between the two ports does without a receive buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Cable {
    /// Drops the frame, as a wire does
    #[default]
    Drop,
    /// Lets the sender wait, for a bounded time
    Pause,
}

/// The backend's ports, and what they are connected to.
#[derive(Clone, Debug)]
pub struct Wiring {
    /// The ports.
    pub ports: Vec<BackendPort>,
    /// Options of `zcnic` for cables, wires and switches, such as `--cable` and `0:1`.
    pub options: Vec<String>,
}

/// A port as the backend sees it.
#[derive(Clone, Debug)]
pub struct BackendPort {
    /// The guest's port.
    pub port: Port,
    /// Its name; without one it is called by its number.
    pub name: Option<String>,
}

impl Wiring {
    /// Connects `ports` by a cable if they are two.
    pub fn cabled(ports: &[Port], cable: Cable) -> Self {
        let ends = match cable {
            Cable::Drop => "0:1",
            Cable::Pause => "0:1,pause",
        };
        let options = match ports {
            [_, _] => vec!["--cable".to_owned(), ends.to_owned()],
            _ => Vec::new(),
        };
        let named = |&port| BackendPort { port, name: None };
        Self {
            ports: ports.iter().map(named).collect(),
            options,
        }
    }

    /// Returns the arguments of `zcnic` with its sockets in `directory`.
    pub fn arguments(&self, directory: &Path) -> Vec<String> {
        let mut arguments = Vec::new();
        for BackendPort { port, name } in &self.ports {
            let name = name.iter().map(|name| format!(",name={name}"));
            let socket = port.socket(directory);
            arguments.push("--port".to_owned());
            arguments.push(format!("path={}", socket.display()) + &name.collect::<String>());
        }
        arguments.extend(self.options.iter().cloned());
        arguments.push("--control".to_owned());
        arguments.push(directory.join(control::SOCKET).display().to_string());
        arguments
    }
}

/// A running backend.
#[derive(Debug)]
pub struct Backend {
    program: PathBuf,
    zcnicctl: PathBuf,
    wiring: Wiring,
    running: Running,
}

impl Backend {
    /// Starts it in `sandbox` and waits until it listens on all its sockets.
    pub fn start(programs: &Programs, wiring: Wiring, sandbox: &Sandbox) -> Result<Self> {
        let program = sandbox.install(&programs.zcnic)?;
        let running = spawn(&program, &wiring, sandbox)?;
        Ok(Self {
            program,
            zcnicctl: programs.zcnicctl.clone(),
            wiring,
            running,
        })
    }

    /// Kills it with SIGKILL, as a crash would end it.
    pub fn kill(&mut self) -> Result<()> {
        self.running.kill()
    }

    /// Stops it for a time.
    pub fn pause(&self, time: Duration) -> Result<()> {
        self.running.pause(time)
    }

    /// Returns the number of its open descriptors.
    pub fn descriptors(&self) -> Result<usize> {
        self.running.descriptors()
    }

    /// Starts it again with the same options, after a kill or in place of the running one.
    pub fn restart(&mut self, sandbox: &Sandbox) -> Result<()> {
        self.running.kill()?;
        self.running = spawn(&self.program, &self.wiring, sandbox)?;
        Ok(())
    }

    /// Returns a client of its control socket.
    pub fn control(&self, sandbox: &Sandbox) -> Control {
        Control {
            zcnicctl: self.zcnicctl.clone(),
            socket: sandbox.path(control::SOCKET),
        }
    }

    /// Returns its command line.
    pub fn words(&self, sandbox: &Sandbox) -> Vec<OsString> {
        let program = self.program.clone().into_os_string();
        let arguments = self.wiring.arguments(sandbox.directory());
        std::iter::once(program)
            .chain(arguments.into_iter().map(OsString::from))
            .collect()
    }

    /// Returns the id of the user that it runs as.
    pub fn user(&self) -> Result<u32> {
        self.running.user()
    }

    /// Fails if it has ended; the error has its log.
    pub fn check(&mut self, sandbox: &Sandbox) -> Result<()> {
        match self.running.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("zcnic ended with {status}\n{}", sandbox.log("zcnic")),
        }
    }
}

fn spawn(program: &Path, wiring: &Wiring, sandbox: &Sandbox) -> Result<Running> {
    let directory = sandbox.directory();
    let ports = wiring.ports.iter();
    let sockets: Vec<_> = ports
        .map(|BackendPort { port, .. }| port.socket(directory))
        .collect();
    let control = sandbox.path(control::SOCKET);
    // A killed backend leaves its sockets, and the wait below must see the new one's.
    for path in sockets.iter().chain([&control]) {
        if path.exists() {
            fs::remove_file(path)?;
        }
    }
    let mut command = sandbox.command("zcnic", directory, program)?;
    command.args(wiring.arguments(directory));
    let mut running = Running::start("zcnic", &mut command)?;
    for path in sockets.iter().chain([&control]) {
        running
            .wait_for_file(path, PATIENCE)
            .map_err(|error| anyhow::anyhow!("{error:#}\n{}", sandbox.log("zcnic").trim_end()))?;
    }
    Ok(running)
}
