//! A running guest: QEMU, the connections to its agent and monitor, and the backend of its ports.
//! Dropping it ends all of them.

use std::{
    ffi::OsString,
    fmt, fs,
    os::unix::{net::UnixListener, process::ExitStatusExt},
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
    diagnosis::Diagnosis,
    machine::{Machine, Places, Runner, shell_line},
    process::Running,
    provision::{cache::Cache, qemu::Qemu},
    qmp::Qmp,
    sandbox::{COMMANDS, Sandbox},
    step::tail,
    watch::{self, ConsoleWatch, Reason},
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

/// How long a guest may boot that a debugger may stop.
const DEBUGGER_PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// Name of the socket in the sandbox that [`Guest::serve_others`] makes.
pub const ATTACH: &str = "attach.sock";

/// The backend of a guest's ports.
#[derive(Debug)]
pub struct Ports<'a> {
    /// The backend that ends with the guest, started in its sandbox. Another guest's may serve the
    /// ports instead.
    pub backend: Option<Backend>,
    /// The directory of the sockets.
    pub directory: &'a Path,
}

/// The driver of the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// zcnic.ko.
    Zcnic,
    /// The kernel's virtio_net.
    VirtioNet,
}

/// The context of errors that say nothing about the guest's kernel: QEMU or the backend could not be
/// started, or the host killed QEMU.
#[derive(Clone, Copy, Debug)]
pub struct HostFault;

impl fmt::Display for HostFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this is a fault of the host, not of the guest's kernel")
    }
}

/// A running guest.
pub struct Guest {
    // Dropped in this order: the connections, QEMU, then what ends with it, the backend, and last
    // the directory of the sockets.
    agent: Agent,
    qmp: Qmp,
    qemu: Running,
    _console: ConsoleWatch,
    backend: Option<Backend>,
    sandbox: Sandbox,
    diagnosis: Diagnosis,
    /// Why QEMU was killed.
    killed: Reason,
    /// It has ended in order, or is no longer needed.
    done: bool,
    /// Sequence number of the first record of the kernel's log that the gate has not seen.
    log: u64,
    /// Bytes of the console before the reports that the gate has not returned.
    reported: usize,
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// From QEMU's start to the agent's first message.
    pub boot: Duration,
}

impl Guest {
    /// Boots `machine` in `sandbox` and waits for its agent.
    ///
    /// # Errors
    ///
    /// If QEMU or the guest ends, or the agent does not come up within two minutes; with the
    /// kernel's report or the ends of the logs.
    pub fn boot(
        qemu: &Qemu,
        machine: &Machine,
        ports: Ports<'_>,
        mut sandbox: Sandbox,
        cache: &Cache,
        diagnosis: Diagnosis,
    ) -> Result<Self> {
        let start = Instant::now();
        if let Acceleration::Kvm { group: Some(group) } = machine.acceleration {
            sandbox.keep_group(group);
        }
        if let Some(artifacts) = diagnosis.artifacts() {
            sandbox.save_on_signals(&artifacts);
        }
        let qmp = sandbox.listen("qmp.sock")?;
        let agent = sandbox.listen("agent.sock")?;
        let mut words = qemu.command(cache.root());
        let places = Places {
            own: sandbox.directory(),
            backend: ports.directory,
            runner: Runner::Testbed,
        };
        words.extend(machine.arguments(places, cache)?);
        let commands = commands(&words, ports.backend.as_ref(), &sandbox, cache);
        fs::write(sandbox.path(COMMANDS), commands)?;
        let mut command = sandbox.command("qemu", cache.root(), Path::new(&words[0]))?;
        command.args(&words[1..]);
        let inherit = |inherit| {
            machine
                .shares
                .iter()
                .try_for_each(|share| share.inherit(inherit))
        };
        inherit(true)?;
        let mut running = Running::start("QEMU", &mut command).context(HostFault)?;
        inherit(false)?;
        let console = sandbox.path("console.log");
        let killed = Reason::default();
        let console = ConsoleWatch::start(&console, &running, machine.watching, &killed)?;
        let patience = match machine.debugger {
            None => BOOT_PATIENCE,
            Some(_) => DEBUGGER_PATIENCE,
        };
        // Before the guest's first instruction.
        let connect = |running: &mut Running| -> Result<_> {
            let qmp = Qmp::new(running.accept(&qmp, QEMU_PATIENCE)?)?;
            Ok((qmp, running.accept(&agent, QEMU_PATIENCE)?))
        };
        let connected = connect(&mut running);
        let (qmp, agent) = connected.map_err(|error| {
            explain(&error, &mut running, &sandbox, &diagnosis, killed.get()).context(HostFault)
        })?;
        let connected = Agent::connect(agent, patience);
        let (agent, kernel) = connected
            .map_err(|error| explain(&error, &mut running, &sandbox, &diagnosis, killed.get()))?;
        Ok(Self {
            agent,
            qmp,
            qemu: running,
            _console: console,
            backend: ports.backend,
            sandbox,
            diagnosis,
            killed,
            done: false,
            log: 0,
            reported: 0,
            kernel,
            boot: start.elapsed(),
        })
    }

    /// Ends the guest from now on if it stops running programs, for commands without a time limit.
    pub fn expect_answers(&self) -> Result<()> {
        watch::expect_answers(&self.agent, &self.qemu, &self.killed)
    }

    /// Runs a command to its end. A failing exit status is no error.
    pub fn run(&mut self, exec: &Exec) -> Result<Finished> {
        let result = self.agent.spawn(exec).and_then(Process::wait);
        result.map_err(|error| self.explain(&error))
    }

    /// Adds to an error of this guest the kernel's report, or the ends of the logs, and where these
    /// are kept.
    pub fn explain(&mut self, error: &anyhow::Error) -> anyhow::Error {
        // The message names the logs.
        self.done = true;
        explain(
            error,
            &mut self.qemu,
            &self.sandbox,
            &self.diagnosis,
            self.killed.get(),
        )
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
                .map_err(|error| self.explain(&error))?;
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

    /// Stops QEMU by SIGSTOP for a time.
    pub fn pause(&self, time: Duration) -> Result<()> {
        self.qemu.pause(time)
    }

    /// Stops the backend by SIGSTOP for a time.
    pub fn pause_backend(&self, time: Duration) -> Result<()> {
        let backend = self.backend.as_ref().context("this guest has no backend")?;
        backend.pause(time)
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

    /// Returns the directory of its sockets, logs and programs.
    pub fn directory(&self) -> &Path {
        self.sandbox.directory()
    }

    /// Returns everything that the kernel printed on the console.
    pub fn console(&self) -> String {
        self.sandbox.log("console")
    }

    /// The gate: checks the kernel after what happened since the last call, and returns the
    /// problems: bad lines in its log, page pools that leak, and the first report on its console.
    pub fn gate(&mut self) -> Result<Vec<String>> {
        let since = self.log.to_string();
        let finished = self.run(&Exec::new(["zcnic-guest", "check", "--since", &since]))?;
        let found: CheckResult = serde_json::from_str(&finished.stdout)
            .map_err(|_| anyhow!("the guest's gate failed: {}", finished.stderr))?;
        self.log = found.log.next_seq;
        let mut problems = found.problems;
        let console = self.console();
        let new = console.get(self.reported..).unwrap_or_default();
        if !problems.is_empty() {
            problems.extend(self.diagnosis.report(new));
        }
        self.reported = console.len();
        Ok(problems)
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
        self.try_power_off().map_err(|error| self.explain(&error))?;
        self.done = true;
        self.diagnosis.save(&self.sandbox)?;
        Ok(self.console())
    }

    /// As [`Self::power_off`]; returns what the kernel reported while the guest ran, and where the
    /// logs of a guest with a report are.
    pub fn power_off_with_report(mut self) -> Result<Option<String>> {
        self.try_power_off().map_err(|error| self.explain(&error))?;
        self.done = true;
        self.diagnosis.save(&self.sandbox)?;
        let report = self.diagnosis.report(&self.console());
        Ok(report.map(|report| format!("{report}\n{}", self.diagnosis.keep(&self.sandbox))))
    }

    fn try_power_off(&mut self) -> Result<()> {
        if let Some(backend) = &mut self.backend {
            backend.check(&self.sandbox)?;
        }
        self.agent.power_off()?;
        let status = self.qemu.wait(POWER_OFF_PATIENCE)?;
        if !status.success() {
            bail!("QEMU ended with {status}\n{}", self.sandbox.log("qemu"));
        }
        Ok(())
    }

    /// Ends a guest that is no longer needed, whatever its state. Its logs are not kept.
    pub fn discard(mut self) -> Result<()> {
        self.done = true;
        self.diagnosis.save(&self.sandbox)
    }
}

/// A guest that is dropped without having ended in order has failed: its logs are kept.
impl Drop for Guest {
    fn drop(&mut self) {
        if !self.done {
            if let Some(report) = self.diagnosis.report(&self.console()) {
                eprintln!("{report}");
            }
            eprintln!("         {}", self.diagnosis.keep(&self.sandbox));
        }
    }
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "guest with Linux {}", self.kernel)
    }
}

/// Returns the command lines of the backend and of QEMU, as a script.
fn commands(
    qemu: &[OsString],
    backend: Option<&Backend>,
    sandbox: &Sandbox,
    cache: &Cache,
) -> String {
    let mut text = String::new();
    if let Some(backend) = backend {
        text.push_str(&format!("{} &\n", shell_line(backend.words(sandbox))));
    }
    text.push_str(&format!(
        "cd {} && {}\n",
        shell_line([cache.root()]),
        shell_line(qemu)
    ));
    text
}

/// Adds to an error the kernel's report, or without one the ends of the logs, and where these are
/// kept. `killed` is the reason for which QEMU was killed.
fn explain(
    error: &anyhow::Error,
    qemu: &mut Running,
    sandbox: &Sandbox,
    diagnosis: &Diagnosis,
    killed: Option<String>,
) -> anyhow::Error {
    let console = sandbox.log("console");
    let words = sandbox.log("qemu");
    let mut parts = vec![format!("{error:#}")];
    let mut by_host = false;
    match (killed, qemu.try_wait()) {
        (Some(reason), _) => parts.push(reason),
        (None, Ok(Some(status))) if !status.success() => {
            by_host = status.signal().is_some();
            parts.push(format!("QEMU ended with {status}"));
        }
        _ => {}
    }
    // QEMU repeats a message while it tries to connect again and again.
    parts.extend(words.lines().take(QEMU_LINES).map(str::to_owned));
    let backend = sandbox.log("zcnic");
    if !backend.is_empty() {
        let end = tail(&backend, BACKEND_LINES);
        parts.push(format!("the end of zcnic's log:\n{end}"));
    }
    match diagnosis.report(&console) {
        Some(report) => parts.push(report),
        None if console.is_empty() => {}
        None => parts.push(format!(
            "the console's end:\n{}",
            tail(&console, CONSOLE_LINES)
        )),
    }
    parts.push(diagnosis.keep(sandbox));
    let error = anyhow!(parts.join("\n"));
    if by_host {
        error.context(HostFault)
    } else {
        error
    }
}
