//! Carries out the operations of a soak: those of the host itself, the others by `zcnic-guest soak`.

use std::{
    collections::BTreeMap,
    io::Write,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::json;
use zcnic_guest_protocol::{
    event::Event,
    soak::{Operation, OperationEnd},
};
use zcnic_testbed::{
    agent::{Exec, Process},
    backend::Cable,
    guest::Guest,
    setup::Setup,
};

/// Time limit for QEMU to connect to a backend.
const CONNECTS: Duration = Duration::from_secs(20);

/// How often each kind of operation was done and refused, by its name.
#[derive(Debug, Default)]
pub(super) struct Tally(pub(super) BTreeMap<String, [u64; 2]>);

impl Tally {
    fn count(&mut self, operation: &Operation, refused: bool) {
        let name = json!(operation)["do"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        self.0.entry(name).or_default()[usize::from(refused)] += 1;
    }

    pub(super) fn total(&self) -> u64 {
        self.0.values().flatten().sum()
    }
}

/// A guest with its ports up, and the program in it.
pub(super) struct Player {
    guest: Guest,
    program: Process,
}

impl Player {
    /// Boots a guest.
    pub(super) fn boot(setup: &Setup) -> Result<Self> {
        let guest = setup.boot(&setup.machine(), Cable::Drop)?;
        guest.expect_answers()?;
        Self::start(guest, setup)
    }

    fn start(mut guest: Guest, setup: &Setup) -> Result<Self> {
        guest.bring_up(setup.driver())?;
        keep_ledger(&guest)?;
        let exec = Exec::new(["zcnic-guest", "soak"]).stdin().timeout(None);
        let program = guest.spawn(&exec)?;
        Ok(Self { guest, program })
    }

    /// Loads the driver again, for another run in the same guest.
    pub(super) fn again(self, setup: &Setup) -> Result<Self> {
        let guest = self.close(setup)?;
        Self::start(guest, setup)
    }

    /// Passes the gate, unloads the driver and powers the guest off.
    pub(super) fn finish(self, setup: &Setup) -> Result<()> {
        self.close(setup)?.power_off().map(drop)
    }

    fn close(mut self, setup: &Setup) -> Result<Guest> {
        self.program.kill(9)?;
        self.program.wait()?;
        let mut problems = self.guest.gate()?;
        self.guest.unload(setup.driver())?;
        problems.extend(self.guest.gate()?);
        if !problems.is_empty() {
            bail!("the gate found problems: {}", problems.join("; "));
        }
        Ok(self.guest)
    }

    /// Ends the guest of a failure; returns the failure with what its kernel reported, and where
    /// its logs are.
    pub(super) fn explain(mut self, error: &anyhow::Error) -> String {
        format!("{:#}", self.guest.explain(error))
    }

    /// Carries an operation out. Returns the reason if the kernel refused it, as it may.
    pub(super) fn play(
        &mut self,
        operation: &Operation,
        tally: &mut Tally,
    ) -> Result<Option<String>> {
        if *operation == Operation::Quiet {
            self.host(&Operation::Disarm)?;
        }
        let refused = if operation.is_of_host() {
            self.host(operation)?;
            None
        } else {
            self.in_guest(operation)?
        };
        if *operation == Operation::Quiet {
            self.ledger_is_clean()?;
        }
        tally.count(operation, refused.is_some());
        Ok(refused)
    }

    fn in_guest(&mut self, operation: &Operation) -> Result<Option<String>> {
        let line = serde_json::to_string(operation)? + "\n";
        self.program.input().write_all(line.as_bytes())?;
        self.program.expect_within(operation.patience());
        let end = self
            .program
            .wait_for_event(|event| matches!(event, Event::Result(_)))?;
        match end {
            Event::Result(OperationEnd::Done) => Ok(None),
            Event::Result(OperationEnd::Refused(reason)) => Ok(Some(reason)),
            Event::Result(OperationEnd::Failed(reason)) => bail!(reason),
            other => bail!("zcnic-guest soak printed {other:?}"),
        }
    }

    fn host(&mut self, operation: &Operation) -> Result<()> {
        let control = self.guest.control()?;
        let on = |port: usize| format!("--port={port}");
        let sleep = |milliseconds: u64| thread::sleep(Duration::from_millis(milliseconds));
        match operation {
            Operation::Fault { port, rule } => {
                let rule = rule.iter().map(String::as_str);
                let port = on(*port);
                let words: Vec<_> = [&*port, "fault", "add"].into_iter().chain(rule).collect();
                control.run(&words)
            }
            Operation::Disarm => {
                let mut ports = [0, 1].into_iter();
                ports.try_for_each(|port| control.run(&[&on(port), "fault", "remove", "--all"]))
            }
            Operation::Carrier { port, milliseconds } => {
                control.run(&[&on(*port), "link", "down"])?;
                sleep(*milliseconds);
                control.run(&[&on(*port), "link", "up"])
            }
            Operation::Reset { port } => control.run(&[&on(*port), "reset"]),
            Operation::Disconnect { port } => {
                control.run(&[&on(*port), "disconnect"])?;
                self.connected()
            }
            Operation::KillBackend { milliseconds } => {
                self.guest.kill_backend()?;
                sleep(*milliseconds);
                self.guest.restart_backend()?;
                keep_ledger(&self.guest)?;
                self.connected()
            }
            Operation::PauseBackend { milliseconds } => {
                let time = Duration::from_millis(*milliseconds);
                self.guest.pause_backend(time)
            }
            Operation::PauseMachine { milliseconds } => {
                self.guest.qmp().execute("stop", &json!({}))?;
                sleep(*milliseconds);
                self.guest.qmp().execute("cont", &json!({})).map(drop)
            }
            _ => bail!("the guest carries out {operation:?}"),
        }
    }

    /// Waits until QEMU has connected both ports.
    fn connected(&self) -> Result<()> {
        let control = self.guest.control()?;
        let deadline = Instant::now() + CONNECTS;
        loop {
            let status: Status = control.ask(&["status"])?;
            if status.ports.iter().all(|port| port.connected) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("QEMU does not connect to the backend: {status:?}");
            }
            // The control socket has no event for it.
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Fails if the ledger found a violation, or a queue's last stop left a buffer out.
    fn ledger_is_clean(&self) -> Result<()> {
        let ledger: Ledger = self.guest.control()?.ask(&["--port=0", "ledger"])?;
        let mut queues = ledger.queues.iter();
        let bad = queues
            .find(|queue| queue.violations > 0 || queue.last_stop.is_some_and(|stop| !stop.clean));
        match bad {
            Some(queue) => bail!("the ledger has {queue:?}"),
            None => Ok(()),
        }
    }
}

fn keep_ledger(guest: &Guest) -> Result<()> {
    let set = ["--port=0", "ledger", "set", "full", "--sanitize"];
    guest.control()?.run(&set).context("the ledger")
}

/// The part of `zcnicctl status`'s answer that is read.
#[derive(Debug, Deserialize)]
struct Status {
    ports: Vec<PortStatus>,
}

#[derive(Debug, Deserialize)]
struct PortStatus {
    connected: bool,
}

/// The part of `zcnicctl ledger`'s answer that is read.
#[derive(Debug, Deserialize)]
struct Ledger {
    queues: Vec<QueueLedger>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct QueueLedger {
    #[expect(dead_code, reason = "shown in an error")]
    queue: u64,
    violations: u64,
    #[serde(default)]
    last_stop: Option<Stop>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Stop {
    clean: bool,
}
