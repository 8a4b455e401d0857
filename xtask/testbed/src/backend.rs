//! The backend of a guest: one `zcnic` process with its ports cabled, run as an unprivileged user
//! like QEMU.

use std::{
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

/// A running backend.
#[derive(Debug)]
pub struct Backend {
    program: PathBuf,
    zcnicctl: PathBuf,
    ports: Vec<Port>,
    cable: Cable,
    running: Running,
}

impl Backend {
    /// Starts it in `sandbox` and waits until it listens on all its sockets.
    pub fn start(
        programs: &Programs,
        ports: &[Port],
        cable: Cable,
        sandbox: &Sandbox,
    ) -> Result<Self> {
        let program = sandbox.install(&programs.zcnic)?;
        let running = spawn(&program, ports, cable, sandbox)?;
        Ok(Self {
            program,
            zcnicctl: programs.zcnicctl.clone(),
            ports: ports.to_vec(),
            cable,
            running,
        })
    }

    /// Kills it with SIGKILL, as a crash would end it.
    pub fn kill(&mut self) -> Result<()> {
        self.running.kill()
    }

    /// Starts it again with the same options, after a kill or in place of the running one.
    pub fn restart(&mut self, sandbox: &Sandbox) -> Result<()> {
        self.running.kill()?;
        self.running = spawn(&self.program, &self.ports, self.cable, sandbox)?;
        Ok(())
    }

    /// Returns a client of its control socket.
    pub fn control(&self, sandbox: &Sandbox) -> Control {
        Control {
            zcnicctl: self.zcnicctl.clone(),
            socket: sandbox.path(control::SOCKET),
        }
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

fn spawn(program: &Path, ports: &[Port], cable: Cable, sandbox: &Sandbox) -> Result<Running> {
    let sockets: Vec<_> = ports.iter().map(|port| port.socket(sandbox)).collect();
    let control = sandbox.path(control::SOCKET);
    // A killed backend leaves its sockets, and the wait below must see the new one's.
    for path in sockets.iter().chain([&control]) {
        if path.exists() {
            fs::remove_file(path)?;
        }
    }
    let mut command = sandbox.command("zcnic", sandbox.directory(), program)?;
    for socket in &sockets {
        command
            .arg("--port")
            .arg(format!("path={}", socket.display()));
    }
    if let [_, _] = ports {
        command.arg("--cable").arg(match cable {
            Cable::Drop => "0:1",
            Cable::Pause => "0:1,pause",
        });
    }
    command.arg("--control").arg(&control);
    let mut running = Running::start("zcnic", &mut command)?;
    for path in sockets.iter().chain([&control]) {
        running
            .wait_for_file(path, PATIENCE)
            .map_err(|error| anyhow::anyhow!("{error:#}\n{}", sandbox.log("zcnic").trim_end()))?;
    }
    Ok(running)
}
