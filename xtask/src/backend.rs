//! The backend of a guest: one `zcnic` process, its ports cabled, run like QEMU as an unprivileged
//! user.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail};

use crate::{
    control::Control,
    machine::Port,
    paths,
    process::Running,
    programs,
    sandbox::Sandbox,
    step::{run, step},
};

/// Name of the control socket in the sandbox.
pub(crate) const CONTROL_SOCKET: &str = "control.sock";

/// From start to listening.
const PATIENCE: Duration = Duration::from_secs(10);

/// The programs of the host's side.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) zcnic: PathBuf,
    pub(crate) zcnicctl: PathBuf,
}

/// Builds them for guests.
pub(crate) fn build() -> Result<Programs> {
    let built = programs::build()?;
    Ok(Programs {
        zcnic: built.zcnic,
        zcnicctl: built.zcnicctl,
    })
}

/// Builds them as users do, for benchmarks.
pub(crate) fn build_release() -> Result<Programs> {
    let mut command = paths::cargo();
    command
        .args(["build", "--quiet", "--release"])
        .args(["--bin", "zcnic", "--bin", "zcnicctl"])
        .args(["-p", "zcnic-backend", "-p", "zcnic-ctl"]);
    step("build the backend", || run(&mut command))?;
    let directory = paths::target().join("release");
    Ok(Programs {
        zcnic: directory.join("zcnic"),
        zcnicctl: directory.join("zcnicctl"),
    })
}

/// How the two ports are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Cable {
    /// A frame that finds no buffer is dropped, as on a wire.
    #[default]
    Drop,
    /// Its sender waits, for a bounded time.
    Pause,
}

/// A running backend.
#[derive(Debug)]
pub(crate) struct Backend {
    program: PathBuf,
    zcnicctl: PathBuf,
    ports: Vec<Port>,
    cable: Cable,
    running: Running,
}

impl Backend {
    /// Starts it in `sandbox` and waits until all its sockets are there.
    pub(crate) fn start(
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

    /// Kills it without a chance to clean up, as a crash would.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.running.kill()
    }

    /// Starts it again, with the same options.
    pub(crate) fn restart(&mut self, sandbox: &Sandbox) -> Result<()> {
        self.running.kill()?;
        self.running = spawn(&self.program, &self.ports, self.cable, sandbox)?;
        Ok(())
    }

    /// A way to ask it.
    pub(crate) fn control(&self, sandbox: &Sandbox) -> Control {
        Control {
            zcnicctl: self.zcnicctl.clone(),
            socket: sandbox.path(CONTROL_SOCKET),
        }
    }

    /// The user that it runs as.
    pub(crate) fn user(&self) -> Result<u32> {
        self.running.user()
    }

    /// Fails if it is no longer there.
    pub(crate) fn check(&mut self, sandbox: &Sandbox) -> Result<()> {
        match self.running.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("zcnic ended with {status}\n{}", sandbox.log("zcnic")),
        }
    }
}

fn spawn(program: &Path, ports: &[Port], cable: Cable, sandbox: &Sandbox) -> Result<Running> {
    let sockets: Vec<_> = ports.iter().map(|port| port.socket(sandbox)).collect();
    let control = sandbox.path(CONTROL_SOCKET);
    // A killed backend leaves its sockets; what is awaited below must be the new one's.
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
