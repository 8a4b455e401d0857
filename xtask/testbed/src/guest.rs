//! A running guest: QEMU, the connections to its agent and monitor, and the backend of its ports.
//! Dropping it ends all of them.

use std::{
    fmt,
    os::unix::net::UnixListener,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use zcnic_guest_protocol::check::CheckResult;

use crate::{
    acceleration::Acceleration,
    agent::{self, Agent, Exec, Finished, Output, Process},
    backend::Backend,
    control::Control,
    machine::Machine,
    process::Running,
    provision::{cache::Cache, qemu::Qemu},
    qmp::Qmp,
    sandbox::Sandbox,
    step::tail,
};

/// From QEMU's start to the agent's first message; a loaded two-core host under TCG takes about ten
/// seconds.
const BOOT_PATIENCE: Duration = Duration::from_secs(120);
/// From power-off to QEMU's end.
const POWER_OFF_PATIENCE: Duration = Duration::from_secs(60);
/// From QEMU's start until it connects to our sockets, before the guest's first instruction.
const QEMU_PATIENCE: Duration = Duration::from_secs(30);
/// Lines of the console in an error.
const CONSOLE_LINES: usize = 25;
/// Lines of the backend's log in an error.
const BACKEND_LINES: usize = 8;
/// Lines of QEMU's own messages in an error.
const QEMU_LINES: usize = 4;

/// Name of the socket in the sandbox that [`Guest::serve_others`] makes.
pub const ATTACH: &str = "attach.sock";

/// The driver of the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// zcnic.ko.
    Zcnic,
    /// The kernel's virtio_net.
    VirtioNet,
}

/// A running guest.
pub struct Guest {
    // Dropped in this order: the connections, QEMU, the backend, then the directory of the sockets.
    agent: Agent,
    qmp: Qmp,
    qemu: Running,
    backend: Option<Backend>,
    sandbox: Sandbox,
    /// Sequence number of the first record of the kernel's log that the gate has not seen.
    log: u64,
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// From QEMU's start to the agent's first message.
    pub boot: Duration,
}

impl Guest {
    /// Boots `machine` in `sandbox` and waits for its agent. `backend`, if the machine has ports,
    /// was started in the same sandbox.
    ///
    /// # Errors
    ///
    /// If QEMU or the guest ends, or the agent does not come up within two minutes; with the ends
    /// of their logs.
    pub fn boot(
        qemu: &Qemu,
        machine: &Machine,
        backend: Option<Backend>,
        mut sandbox: Sandbox,
        cache: &Cache,
    ) -> Result<Self> {
        let start = Instant::now();
        if let Acceleration::Kvm { group: Some(group) } = machine.acceleration {
            sandbox.keep_group(group);
        }
        let qmp = sandbox.listen("qmp.sock")?;
        let agent = sandbox.listen("agent.sock")?;
        let program = qemu.command(cache.root());
        let mut command = sandbox.command("qemu", cache.root(), Path::new(&program[0]))?;
        command
            .args(&program[1..])
            .args(machine.arguments(&sandbox, cache)?);
        let inherit = |inherit| {
            machine
                .shares
                .iter()
                .try_for_each(|share| share.inherit(inherit))
        };
        inherit(true)?;
        let mut running = Running::start("QEMU", &mut command)?;
        inherit(false)?;
        let connect = |running: &mut Running| -> Result<_> {
            let qmp = Qmp::new(running.accept(&qmp, QEMU_PATIENCE)?)?;
            let agent = running.accept(&agent, QEMU_PATIENCE)?;
            let (agent, kernel) = Agent::connect(agent, BOOT_PATIENCE)?;
            Ok((qmp, agent, kernel))
        };
        let (qmp, agent, kernel) =
            connect(&mut running).map_err(|error| explain(&error, &mut running, &sandbox))?;
        Ok(Self {
            agent,
            qmp,
            qemu: running,
            backend,
            sandbox,
            log: 0,
            kernel,
            boot: start.elapsed(),
        })
    }

    /// Runs a command to its end. A failing exit status is no error.
    pub fn run(&mut self, exec: &Exec) -> Result<Finished> {
        let result = self.agent.spawn(exec).and_then(Process::wait);
        result.map_err(|error| explain(&error, &mut self.qemu, &self.sandbox))
    }

    /// Runs a command and returns its standard output. A failing exit status is an error with all
    /// output.
    pub fn check(&mut self, exec: &Exec) -> Result<String> {
        let finished = self.run(exec)?;
        if finished.status.success() {
            return Ok(finished.stdout);
        }
        bail!(
            "in the guest: {exec} failed, {}\n{}{}",
            finished.status,
            finished.stdout,
            finished.stderr
        );
    }

    /// Runs a bash script as [`Self::check`] does.
    pub fn sh(&mut self, script: &str) -> Result<String> {
        self.check(&Exec::shell(script))
    }

    /// Runs a command and passes each piece of its output to `each` as it comes.
    pub fn stream(
        &mut self,
        exec: &Exec,
        mut each: impl FnMut(Output) -> Result<()>,
    ) -> Result<()> {
        let mut process = self.agent.spawn(exec)?;
        loop {
            let event = process
                .next_output()
                .map_err(|error| explain(&error, &mut self.qemu, &self.sandbox))?;
            let ended = matches!(event, Output::Ended(_));
            each(event)?;
            if ended {
                return Ok(());
            }
        }
    }

    /// Starts a command that runs beside others; see [`Agent::spawn`].
    pub fn spawn(&self, exec: &Exec) -> Result<Process> {
        self.agent.spawn(exec)
    }

    /// Loads `driver` and configures the ports: eth0 in the initial network namespace and eth1 in
    /// `peer`, both with addresses.
    pub fn bring_up(&mut self, driver: Driver) -> Result<()> {
        self.load(driver)?;
        self.check(&Exec::new(["zcnic-guest", "ports", "up"]))
            .map(drop)
    }

    /// Loads a driver, which takes the ports that have none.
    pub fn load(&mut self, driver: Driver) -> Result<()> {
        let load = match driver {
            Driver::Zcnic => Exec::new(["insmod", "/run/zcnic/zcnic.ko"]),
            Driver::VirtioNet => Exec::new(["modprobe", "virtio_net"]),
        };
        self.check(&load).map(drop)
    }

    /// Unloads a driver, and with it all that a test changed about the ports.
    ///
    /// # Errors
    ///
    /// If the driver can't be unloaded, or leaves DMA mappings behind (seen on kernels with
    /// DMA_API_DEBUG).
    pub fn unload(&mut self, driver: Driver) -> Result<()> {
        self.check(&Exec::new(["zcnic-guest", "ports", "down"]))?;
        let module = match driver {
            Driver::Zcnic => "zcnic",
            Driver::VirtioNet => "virtio_net",
        };
        self.check(&Exec::new(["rmmod", module]))?;
        // Only a kernel with DMA_API_DEBUG has this file.
        self.sh("! grep -s '^virtio-pci ' /sys/kernel/debug/dma-api/dump")
            .context("memory is mapped for a device whose driver is gone")
            .map(drop)
    }

    /// Returns the connection to its agent, for threads that run commands beside others.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Adds to an error of [`Self::agent`] the ends of the logs.
    pub fn explain(&mut self, error: &anyhow::Error) -> anyhow::Error {
        explain(error, &mut self.qemu, &self.sandbox)
    }

    /// Lets other processes of this user run commands in the guest, by [`agent::serve`] on
    /// [`ATTACH`] in the sandbox's directory, which is returned.
    ///
    /// # Errors
    ///
    /// If the socket can't be made.
    pub fn serve_others(&self) -> Result<&Path> {
        let path = self.sandbox.path(ATTACH);
        let listener = UnixListener::bind(&path)
            .with_context(|| format!("cannot listen on {}", path.display()))?;
        agent::serve(&self.agent, &self.kernel, listener);
        Ok(self.sandbox.directory())
    }

    /// Returns QEMU's monitor.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// Kills the backend with SIGKILL, as a crash would end it.
    pub fn kill_backend(&mut self) -> Result<()> {
        self.backend
            .as_mut()
            .context("this guest has no backend")?
            .kill()
    }

    /// Starts the backend again, after a kill or in place of the running one.
    pub fn restart_backend(&mut self) -> Result<()> {
        let backend = self.backend.as_mut().context("this guest has no backend")?;
        backend.restart(&self.sandbox)
    }

    /// Returns the backend's log.
    pub fn backend_log(&self) -> String {
        self.sandbox.log("zcnic")
    }

    /// Returns a client of the backend's control socket.
    ///
    /// # Errors
    ///
    /// If the machine has no ports, and hence no backend.
    pub fn control(&self) -> Result<Control> {
        let backend = self.backend.as_ref().context("this guest has no backend")?;
        Ok(backend.control(&self.sandbox))
    }

    /// Returns the ids of the users that QEMU and the backend run as.
    pub fn users(&self) -> Result<Vec<u32>> {
        let backend = self.backend.as_ref().map(Backend::user);
        std::iter::once(self.qemu.user()).chain(backend).collect()
    }

    /// Returns everything that the kernel printed on the console.
    pub fn console(&self) -> String {
        self.sandbox.log("console")
    }

    /// The gate: checks the kernel after what happened since the last call, and returns the
    /// problems: bad lines in its log, and page pools that leak.
    pub fn gate(&mut self) -> Result<Vec<String>> {
        let since = self.log.to_string();
        let finished = self.run(&Exec::new(["zcnic-guest", "check", "--since", &since]))?;
        let found: CheckResult = serde_json::from_str(&finished.stdout)
            .map_err(|_| anyhow!("the guest's gate failed: {}", finished.stderr))?;
        self.log = found.log.next_seq;
        Ok(found.problems)
    }

    /// Ends a test: takes the ports down, passes the gate, and powers the guest off.
    ///
    /// # Errors
    ///
    /// If the gate finds problems, or the guest does not power off in order.
    pub fn finish(mut self) -> Result<()> {
        self.check(&Exec::new(["zcnic-guest", "ports", "down"]))?;
        let problems = self.gate()?;
        if !problems.is_empty() {
            bail!("the gate found problems: {}", problems.join("; "));
        }
        self.power_off().map(drop)
    }

    /// Powers the guest off in order and returns the console's text.
    ///
    /// # Errors
    ///
    /// If the backend has ended, or QEMU does not end within a minute with status 0.
    pub fn power_off(mut self) -> Result<String> {
        if let Some(backend) = &mut self.backend {
            backend.check(&self.sandbox)?;
        }
        self.agent.power_off()?;
        let status = self.qemu.wait(POWER_OFF_PATIENCE)?;
        if !status.success() {
            bail!("QEMU ended with {status}\n{}", self.sandbox.log("qemu"));
        }
        Ok(self.console())
    }
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "guest with Linux {}", self.kernel)
    }
}

/// Adds to an error the ends of QEMU's log, the backend's and the guest's console.
fn explain(error: &anyhow::Error, qemu: &mut Running, sandbox: &Sandbox) -> anyhow::Error {
    let console = sandbox.log("console");
    let words = sandbox.log("qemu");
    let mut text = String::new();
    if console.contains("Kernel panic") {
        text.push_str("the guest's kernel panicked\n");
    }
    if let Ok(Some(status)) = qemu.try_wait() {
        text.push_str(&format!("QEMU ended with {status}\n"));
    }
    // QEMU repeats a message while it tries to connect again and again.
    for line in words.lines().take(QEMU_LINES) {
        text.push_str(&format!("{line}\n"));
    }
    let backend = sandbox.log("zcnic");
    if !backend.is_empty() {
        text.push_str(&format!(
            "the end of zcnic's log:\n{}\n",
            tail(&backend, BACKEND_LINES)
        ));
    }
    if !console.is_empty() {
        text.push_str(&format!(
            "the console's end:\n{}",
            tail(&console, CONSOLE_LINES)
        ));
    }
    anyhow!("{error:#}\n{}", text.trim_end())
}
