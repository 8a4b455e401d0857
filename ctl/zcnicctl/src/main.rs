//! `zcnicctl`: controls a running backend.

mod actions;
mod capture;
mod cli;
mod rate;
mod table;
mod text;
mod top;
mod trace;
mod words;

use std::{
    fs, io,
    io::Write,
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::{CommandFactory, Parser, error::ErrorKind};
use serde_json::{Value, json};
use zcnic_ctl::{
    client::{Client, ClientError, find_port},
    protocol::{
        ErrorClass, FlowCounterAdd, FlowCounterId, command,
        event::{Event, EventKind, Subscribe},
        fault::{FaultAdd, FaultRemove, FaultRule, FaultWait},
        ledger::{LedgerHistory, LedgerSet},
        nanoseconds,
        port::{FeaturesSet, LinkSet, PortName},
        scenario::Scenario,
    },
};

use cli::{
    CaptureArgs, Cli, Command, FaultArgs, FaultCommand, FlowCommand, LedgerArgs, LedgerCommand,
    LinkState,
};
use table::objects;
use top::Top;

/// A ledger has violations.
const VIOLATIONS: u8 = 5;

/// A connection to a backend, and the options for all commands.
struct Session {
    client: Client,
    port: Option<String>,
    json: bool,
}

type CommandResult = anyhow::Result<ExitCode>;

impl Session {
    fn ask(&mut self, name: &str, arguments: &impl serde::Serialize) -> anyhow::Result<Value> {
        Ok(self.client.execute(name, Some(arguments))?)
    }

    fn query(&mut self, name: &str) -> anyhow::Result<Value> {
        Ok(self.client.query(name)?)
    }

    /// The chosen port, or the first one.
    fn port(&mut self) -> anyhow::Result<String> {
        if let Some(port) = &self.port {
            return Ok(port.clone());
        }
        let status = self.query(command::QUERY_STATUS)?;
        let first = status.pointer("/ports/0/name").and_then(Value::as_str);
        first.map(str::to_owned).context("The backend has no ports")
    }

    /// The names of all ports.
    fn ports(&mut self) -> anyhow::Result<Vec<String>> {
        let status = self.client.status()?;
        Ok(status.ports.into_iter().map(|port| port.name).collect())
    }

    fn about_port(&mut self, name: &str) -> anyhow::Result<Value> {
        let port = self.port()?;
        self.ask(name, &PortName { port })
    }

    /// Prints an answer: as JSON, or the `text` of it.
    fn print(&self, value: &Value, text: impl FnOnce(&Value) -> String) {
        let text = if self.json {
            format!("{value:#}\n")
        } else {
            text(value)
        };
        // The reader may have closed the pipe.
        let _ = io::stdout().write_all(text.as_bytes());
    }

    /// Prints the answer to a command without output for people.
    fn done(&self, value: &Value) -> CommandResult {
        self.print(value, |_| String::new());
        Ok(ExitCode::SUCCESS)
    }

    fn show(&self, value: &Value, text: impl FnOnce(&Value) -> String) -> CommandResult {
        self.print(value, text);
        Ok(ExitCode::SUCCESS)
    }

    fn run(&mut self, command: Command) -> CommandResult {
        match command {
            Command::Status => {
                let status = self.query(command::QUERY_STATUS)?;
                self.show(&status, text::status)
            }
            Command::Stats { watch: None } => {
                let stats = self.query(command::QUERY_STATS)?;
                self.show(&stats, |stats| text::stats(stats, None))
            }
            Command::Stats {
                watch: Some(interval),
            } => self.watch(interval),
            Command::Top { .. } => Ok(ExitCode::SUCCESS),
            Command::Features { offer: Some(names) } => {
                let port = self.port()?;
                let offered = (names != ["all"]).then_some(names);
                let done = self.ask(command::FEATURES_SET, &FeaturesSet { port, offered })?;
                self.done(&done)
            }
            Command::Features { offer: None } => {
                let features = self.about_port(command::QUERY_FEATURES)?;
                self.show(&features, text::members)
            }
            Command::Queues => {
                let queues = self.about_port(command::QUERY_QUEUES)?;
                self.show(&queues, |queues| {
                    objects(&queues["pairs"], &text::QUEUE_COLUMNS)
                })
            }
            Command::Steering => {
                let steering = self.about_port(command::QUERY_STEERING)?;
                self.show(&steering, text::steering)
            }
            Command::Flow(flow) => self.flow(flow),
            Command::Fault(fault) => self.fault(fault),
            Command::Ledger(LedgerArgs {
                trace: Some(file),
                wait,
                ..
            }) => self.trace(&file, wait.unwrap_or_default()),
            Command::Ledger(ledger) => self.ledger(ledger.command.as_ref(), ledger.check),
            Command::Link { state } => {
                let port = self.port()?;
                let up = matches!(state, LinkState::Up);
                let done = self.ask(command::LINK_SET, &LinkSet { port, up })?;
                self.done(&done)
            }
            Command::Reset => {
                let done = self.about_port(command::DEVICE_RESET)?;
                self.done(&done)
            }
            Command::Disconnect => {
                let done = self.about_port(command::DISCONNECT)?;
                self.done(&done)
            }
            Command::Events { kinds } => self.events(kinds),
            Command::Capture(args) => {
                let ports = if args.all {
                    self.ports()?
                } else {
                    vec![self.port()?]
                };
                capture::capture(&mut self.client, &ports, &args)?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Describe(_) => Ok(ExitCode::SUCCESS),
        }
    }

    /// Shows statistics again and again, with rates from the second time on.
    fn watch(&mut self, interval: Duration) -> CommandResult {
        let mut before: Option<(Value, Instant)> = None;
        loop {
            let stats = self.query(command::QUERY_STATS)?;
            let now = Instant::now();
            if before.is_some() && !self.json {
                println!();
            }
            self.print(&stats, |stats| {
                let before = before.as_ref();
                text::stats(
                    stats,
                    before.map(|(old, at)| (old, now.duration_since(*at))),
                )
            });
            before = Some((stats, now));
            thread::sleep(interval);
        }
    }

    fn flow(&mut self, flow: FlowCommand) -> CommandResult {
        match flow {
            FlowCommand::Add(pattern) => {
                let port = self.port()?;
                let pattern = pattern.into();
                let id = self.ask(command::FLOW_COUNTER_ADD, &FlowCounterAdd { port, pattern })?;
                self.show(&id, |id| format!("{}\n", id["id"]))
            }
            FlowCommand::Query { id } => {
                let counts = self.ask(command::FLOW_COUNTER_QUERY, &FlowCounterId { id })?;
                self.show(&counts, text::flow)
            }
            FlowCommand::Remove { id } => {
                let done = self.ask(command::FLOW_COUNTER_REMOVE, &FlowCounterId { id })?;
                self.done(&done)
            }
        }
    }

    fn fault(&mut self, fault: FaultCommand) -> CommandResult {
        match fault {
            FaultCommand::Add(add) => {
                let rules = vec![rule(&add)];
                let port = self.port()?;
                let ids = self.ask(command::FAULT_ADD, &FaultAdd { port, rules })?;
                self.show(&ids, text::ids)
            }
            FaultCommand::Load { file } => self.load(&file),
            FaultCommand::List => {
                let faults = self.query(command::FAULT_LIST)?;
                self.show(&faults, |faults| {
                    objects(&faults["faults"], &text::FAULT_COLUMNS)
                })
            }
            FaultCommand::Remove { id, all } => {
                let port = if all { Some(self.port()?) } else { None };
                let done = self.ask(command::FAULT_REMOVE, &FaultRemove { id, port })?;
                self.done(&done)
            }
            FaultCommand::Wait { id, hits, timeout } => {
                let timeout = nanoseconds(timeout);
                let fault = self.ask(command::FAULT_WAIT, &FaultWait { id, hits, timeout })?;
                self.show(&fault, |fault| {
                    objects(&json!([fault]), &text::FAULT_COLUMNS)
                })
            }
        }
    }

    /// Adds the rules of a scenario, or none of them.
    fn load(&mut self, file: &Path) -> CommandResult {
        let loaded = self.client.fault_load(scenario(file)?);
        let ids = loaded.with_context(|| file.display().to_string())?;
        self.show(&json!({ "ids": ids }), text::ids)
    }

    fn ledger(&mut self, ledger: Option<&LedgerCommand>, check: bool) -> CommandResult {
        match ledger {
            None => {
                let ledger = self.about_port(command::QUERY_LEDGER)?;
                self.print(&ledger, |ledger| {
                    objects(&ledger["queues"], &text::LEDGER_COLUMNS)
                });
                let queues = ledger["queues"].as_array();
                let bad = |queue: &Value| queue["violations"].as_u64().is_some_and(|bad| bad > 0);
                let any = queues.is_some_and(|queues| queues.iter().any(bad));
                Ok(if check && any {
                    ExitCode::from(VIOLATIONS)
                } else {
                    ExitCode::SUCCESS
                })
            }
            Some(&LedgerCommand::Set {
                mode,
                sanitize,
                overdue,
            }) => {
                let set = LedgerSet {
                    port: self.port()?,
                    mode,
                    sanitize,
                    overdue: overdue.map(nanoseconds),
                };
                let done = self.ask(command::LEDGER_SET, &set)?;
                self.done(&done)
            }
            Some(&LedgerCommand::History { queue, address }) => {
                let port = self.port()?;
                let asked = LedgerHistory {
                    port,
                    queue,
                    address,
                };
                let history = self.ask(command::LEDGER_HISTORY, &asked)?;
                self.show(&history, |history| {
                    format!(
                        "{} bytes at {:#x}\n{}",
                        history["length"],
                        history["address"].as_u64().unwrap_or_default(),
                        objects(&history["events"], &["time", "head", "what"])
                    )
                })
            }
        }
    }

    /// Writes the ledgers' records, and the hits of fault rules in the next `wait`, as a trace.
    fn trace(&mut self, file: &Path, wait: Duration) -> CommandResult {
        let ports = match &self.port {
            Some(port) => vec![port.clone()],
            None => self.ports()?,
        };
        let mut hits = Vec::new();
        if !wait.is_zero() {
            self.client.subscribe(&[EventKind::FaultHit])?;
            let end = Instant::now() + wait;
            while hits.len() < trace::MAX_HITS {
                let left = end.saturating_duration_since(Instant::now());
                match self.client.event(Some(left)) {
                    Ok(Event::FaultHit(hit)) => hits.push(hit),
                    Ok(_) => {}
                    Err(error) if error.is_timeout() => break,
                    Err(error) => return Err(error.into()),
                }
            }
            thread::sleep(end.saturating_duration_since(Instant::now()));
            self.client.subscribe(&[])?;
        }
        let buffers = trace::write(&mut self.client, &ports, &hits, file)?;
        if buffers == 0 {
            anyhow::bail!(
                "No buffers are recorded: `zcnicctl --port PORT ledger set full` starts a ledger"
            );
        }
        eprintln!("{buffers} buffers and {} hits of fault rules", hits.len());
        Ok(ExitCode::SUCCESS)
    }

    fn events(&mut self, kinds: Vec<EventKind>) -> CommandResult {
        let events = if kinds.is_empty() {
            EventKind::ALL.to_vec()
        } else {
            kinds
        };
        self.ask(command::SUBSCRIBE, &Subscribe { events })?;
        loop {
            let event = self.client.event(None)?;
            writeln!(io::stdout(), "{}", serde_json::to_string(&event)?)?;
        }
    }
}

fn scenario(file: &Path) -> anyhow::Result<Scenario> {
    let name = || file.display().to_string();
    let text = fs::read_to_string(file).with_context(name)?;
    if file.extension().is_some_and(|ending| ending == "json") {
        serde_json::from_str(&text).with_context(name)
    } else {
        toml::from_str(&text).with_context(name)
    }
}

fn run(cli: Cli) -> CommandResult {
    if let Command::Describe(describe) = cli.command {
        describe.run(Cli::command())?;
        return Ok(ExitCode::SUCCESS);
    }
    if cli.json && matches!(cli.command, Command::Top { .. }) {
        usage(
            ErrorKind::ArgumentConflict,
            "top has no JSON; stats --watch has",
        );
    }
    if let Command::Fault(FaultCommand::Add(add)) = &cli.command {
        // Before a backend is needed.
        rule(add);
    }
    if let (Command::Capture(CaptureArgs { all: true, .. }), Some(_)) = (&cli.command, &cli.port) {
        usage(
            ErrorKind::ArgumentConflict,
            "capture --all captures all ports: leave out --port or --all",
        )
    }
    let Some(socket) = cli.socket.or_else(find_port) else {
        usage(
            ErrorKind::MissingRequiredArgument,
            "the control socket is unknown: give --socket PATH or set ZCNIC_CONTROL",
        )
    };
    let client = Client::connect(&socket)?;
    if let Command::Top { interval, once } = cli.command {
        let top = Top {
            client,
            socket,
            interval,
            once,
        };
        return top.run().map(|()| ExitCode::SUCCESS);
    }
    let mut session = Session {
        client,
        port: cli.port,
        json: cli.json,
    };
    session.run(cli.command)
}

/// The rule of a command line.
fn rule(add: &FaultArgs) -> FaultRule {
    add.rule()
        .unwrap_or_else(|error| usage(ErrorKind::InvalidValue, error))
}

/// Exits because of an invalid command line.
fn usage(kind: ErrorKind, message: impl std::fmt::Display) -> ! {
    Cli::command().error(kind, message).exit()
}

/// The exit status for an error.
fn status(error: &anyhow::Error) -> ExitCode {
    let cause = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<ClientError>());
    match cause {
        Some(
            ClientError::Connect(..)
            | ClientError::NotControl { .. }
            | ClientError::NotServed { .. },
        ) => ExitCode::from(3),
        Some(error) if error.class() == Some(ErrorClass::Timeout) => ExitCode::from(4),
        _ => ExitCode::FAILURE,
    }
}

fn main() -> ExitCode {
    run(Cli::parse()).unwrap_or_else(|error| {
        eprintln!("zcnicctl: {error:#}");
        status(&error)
    })
}
