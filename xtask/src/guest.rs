//! A running guest: QEMU, the connection to its agent, and everything that belongs to them. Dropping
//! it ends all of that.

use std::{
    fmt,
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::{
    agent::{Agent, Event, Exec, Finished, Process},
    cache::Cache,
    machine::{Acceleration, Machine},
    qemu::Qemu,
    qmp::Qmp,
    sandbox::Sandbox,
    step::tail,
};

/// From QEMU's start to the agent's first line; a loaded two-core host under TCG takes about ten
/// seconds.
const BOOT_PATIENCE: Duration = Duration::from_secs(120);
/// From power-off to QEMU's end.
const POWER_OFF_PATIENCE: Duration = Duration::from_secs(60);
/// QEMU itself, before the guest's first instruction.
const QEMU_PATIENCE: Duration = Duration::from_secs(30);
/// How much of the console goes with an error.
const CONSOLE_LINES: usize = 25;

/// A running guest.
pub(crate) struct Guest {
    // Dropped in this order: the connection, QEMU, then the directory that it has open.
    agent: Agent,
    qmp: Qmp,
    qemu: Running,
    sandbox: Sandbox,
    /// What `uname -r` says in it.
    pub(crate) kernel: String,
    /// From QEMU's start to the agent's first line.
    pub(crate) boot: Duration,
}

impl Guest {
    /// Boots `machine` in `sandbox` and waits for its agent.
    pub(crate) fn boot(
        qemu: &Qemu,
        machine: &Machine,
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
        let mut running = Running::start("QEMU", &mut command)?;
        let connect = |running: &mut Running| -> Result<_> {
            let qmp = Qmp::new(running.accept(&qmp, QEMU_PATIENCE)?)?;
            let agent = running.accept(&agent, QEMU_PATIENCE)?;
            let (agent, kernel) = Agent::connect(agent, BOOT_PATIENCE)?;
            Ok((qmp, agent, kernel))
        };
        let (qmp, agent, kernel) =
            connect(&mut running).map_err(|error| explain(error, &mut running, &sandbox))?;
        Ok(Self {
            agent,
            qmp,
            qemu: running,
            sandbox,
            kernel,
            boot: start.elapsed(),
        })
    }

    /// Runs a command to its end, whatever its exit status.
    pub(crate) fn run(&mut self, exec: &Exec) -> Result<Finished> {
        let result = self.agent.spawn(exec).and_then(Process::wait);
        result.map_err(|error| explain(error, &mut self.qemu, &self.sandbox))
    }

    /// Runs a command that must succeed and returns its standard output.
    pub(crate) fn check(&mut self, exec: &Exec) -> Result<String> {
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

    /// Runs words that must succeed, as [`Self::check`] does.
    pub(crate) fn sh(&mut self, script: &str) -> Result<String> {
        self.check(&Exec::shell(script))
    }

    /// Runs a command, handing each piece of its output to `each` as it comes.
    pub(crate) fn stream(
        &mut self,
        exec: &Exec,
        mut each: impl FnMut(Event) -> Result<()>,
    ) -> Result<()> {
        let mut process = self.agent.spawn(exec)?;
        loop {
            let event = process
                .next()
                .map_err(|error| explain(error, &mut self.qemu, &self.sandbox))?;
            let ended = matches!(event, Event::Ended(_));
            each(event)?;
            if ended {
                return Ok(());
            }
        }
    }

    /// The agent, for commands that run at once.
    pub(crate) fn agent(&self) -> &Agent {
        &self.agent
    }

    /// QEMU's monitor.
    pub(crate) fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// Everything the kernel printed.
    pub(crate) fn console(&self) -> String {
        self.sandbox.log("console")
    }

    /// Powers the guest off in an orderly way and returns its console's text.
    pub(crate) fn power_off(mut self) -> Result<String> {
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

/// Adds to an error what QEMU and the guest's console have to say about it.
fn explain(error: anyhow::Error, qemu: &mut Running, sandbox: &Sandbox) -> anyhow::Error {
    let console = sandbox.log("console");
    let words = sandbox.log("qemu");
    let mut text = String::new();
    if console.contains("Kernel panic") {
        text.push_str("the guest's kernel panicked\n");
    }
    if let Ok(Some(status)) = qemu.child.try_wait() {
        text.push_str(&format!("QEMU ended with {status}\n"));
    }
    if !words.trim().is_empty() {
        text.push_str(&format!("QEMU said: {}\n", words.trim()));
    }
    if !console.is_empty() {
        text.push_str(&format!(
            "the console's end:\n{}",
            tail(&console, CONSOLE_LINES)
        ));
    }
    anyhow!("{error:#}\n{}", text.trim_end())
}

/// A process of ours; killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    name: &'static str,
    child: Child,
}

impl Running {
    pub(crate) fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child })
    }

    /// Accepts the connection that the process makes, unless it ends first.
    fn accept(&mut self, listener: &UnixListener, patience: Duration) -> Result<UnixStream> {
        let ended = self.pidfd()?;
        let mut fds = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::new(&ended, PollFlags::IN),
        ];
        poll(&mut fds, Some(&Timespec::try_from(patience)?)).context("poll")?;
        if !fds[0].revents().is_empty() {
            return Ok(listener.accept()?.0);
        }
        if fds[1].revents().is_empty() {
            bail!(
                "{} did not connect within {} s",
                self.name,
                patience.as_secs()
            );
        }
        bail!("{} ended with {}", self.name, self.child.wait()?);
    }

    /// Waits for the process to end by itself.
    pub(crate) fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let ended = self.pidfd()?;
        let mut fds = [PollFd::from_borrowed_fd(ended.as_fd(), PollFlags::IN)];
        if poll(&mut fds, Some(&Timespec::try_from(patience)?)).context("poll")? == 0 {
            bail!("{} did not end within {} s", self.name, patience.as_secs());
        }
        Ok(self.child.wait()?)
    }

    fn pidfd(&self) -> Result<std::os::fd::OwnedFd> {
        let pid = Pid::from_raw(self.child.id().cast_signed()).context("no process id")?;
        pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
