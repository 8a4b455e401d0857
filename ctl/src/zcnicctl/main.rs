//! `zcnicctl`: controls a running backend.

mod capture;
mod cli;
mod table;
mod trace;

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
        ErrorClass, FlowCounterAdd, FlowCounterId, Status, command,
        event::{Event, EventKind, Subscribe},
        fault::{FaultAdd, FaultRemove, FaultWait, Scenario},
        ledger::{LedgerHistory, LedgerSet},
        port::{FeaturesSet, LinkSet, PortName},
    },
};

use cli::{
    CaptureArgs, Cli, Command, FaultCommand, FlowCommand, LedgerArgs, LedgerCommand, LinkState,
    nanoseconds,
};
use table::{brief, objects, table};

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
        let status: Status = self.client.query(command::QUERY_STATUS)?;
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
                self.show(&status, status_text)
            }
            Command::Stats { watch } => loop {
                let stats = self.query(command::QUERY_STATS)?;
                self.print(&stats, stats_text);
                let Some(seconds) = watch else {
                    return Ok(ExitCode::SUCCESS);
                };
                let pause = Duration::try_from_secs_f64(seconds)
                    .context("Invalid number of seconds for --watch")?;
                thread::sleep(pause);
                if !self.json {
                    println!();
                }
            },
            Command::Features { offer: Some(names) } => {
                let port = self.port()?;
                let offered = (names != ["all"]).then_some(names);
                let done = self.ask(command::FEATURES_SET, &FeaturesSet { port, offered })?;
                self.done(&done)
            }
            Command::Features { offer: None } => {
                let features = self.about_port(command::QUERY_FEATURES)?;
                self.show(&features, members_text)
            }
            Command::Queues => {
                let queues = self.about_port(command::QUERY_QUEUES)?;
                self.show(&queues, |queues| objects(&queues["pairs"], &QUEUE_COLUMNS))
            }
            Command::Steering => {
                let steering = self.about_port(command::QUERY_STEERING)?;
                self.show(&steering, steering_text)
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
            Command::Completions { .. } | Command::Man => Ok(ExitCode::SUCCESS),
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
                self.show(&counts, flow_text)
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
                let port = self.port()?;
                let rule = add
                    .rule()
                    .unwrap_or_else(|error| usage(ErrorKind::InvalidValue, error));
                let rules = vec![rule];
                let ids = self.ask(command::FAULT_ADD, &FaultAdd { port, rules })?;
                self.show(&ids, ids_text)
            }
            FaultCommand::Load { file } => self.load(&file),
            FaultCommand::List => {
                let faults = self.query(command::FAULT_LIST)?;
                self.show(&faults, |faults| objects(&faults["faults"], &FAULT_COLUMNS))
            }
            FaultCommand::Remove { id, all } => {
                let port = if all { Some(self.port()?) } else { None };
                let done = self.ask(command::FAULT_REMOVE, &FaultRemove { id, port })?;
                self.done(&done)
            }
            FaultCommand::Wait { id, hits, timeout } => {
                let timeout = nanoseconds(timeout);
                let fault = self.ask(command::FAULT_WAIT, &FaultWait { id, hits, timeout })?;
                self.show(&fault, |fault| objects(&json!([fault]), &FAULT_COLUMNS))
            }
        }
    }

    /// Adds the rules of a scenario. If a port refuses its rules, those of the ports before are
    /// removed.
    fn load(&mut self, file: &Path) -> CommandResult {
        let mut all: Vec<Value> = Vec::new();
        for add in scenario(file)?.requests() {
            match self.ask(command::FAULT_ADD, &add) {
                Ok(ids) => all.extend(ids["ids"].as_array().into_iter().flatten().cloned()),
                Err(error) => {
                    for id in all.iter().map(Value::as_u64) {
                        self.ask(command::FAULT_REMOVE, &FaultRemove { id, port: None })?;
                    }
                    return Err(error.context(format!("Port {} of {}", add.port, file.display())));
                }
            }
        }
        self.show(&json!({ "ids": all }), ids_text)
    }

    fn ledger(&mut self, ledger: Option<&LedgerCommand>, check: bool) -> CommandResult {
        match ledger {
            None => {
                let ledger = self.about_port(command::QUERY_LEDGER)?;
                self.print(&ledger, |ledger| {
                    objects(&ledger["queues"], &LEDGER_COLUMNS)
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
            let events = vec![EventKind::FaultHit];
            self.ask(command::SUBSCRIBE, &Subscribe { events })?;
            let end = Instant::now() + wait;
            while hits.len() < trace::MAX_HITS {
                let left = end.saturating_duration_since(Instant::now());
                match self.client.event(Some(left)) {
                    Ok(Event::FaultHit(hit)) => hits.push(hit),
                    Ok(_) => {}
                    Err(ClientError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                        break;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            thread::sleep(end.saturating_duration_since(Instant::now()));
            self.ask(command::SUBSCRIBE, &Subscribe { events: Vec::new() })?;
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

const QUEUE_COLUMNS: [&str; 10] = [
    "queue",
    "commands",
    "layout",
    "transmits",
    "rx.size",
    "rx.next-available",
    "rx.held-chains",
    "rx.fault-drops",
    "tx.next-available",
    "tx.held-chains",
];

const FAULT_COLUMNS: [&str; 10] = [
    "id",
    "port",
    "rule.direction",
    "rule.queue",
    "rule.action",
    "rule.nth",
    "rule.every",
    "rule.probability",
    "seen",
    "hits",
];

const LEDGER_COLUMNS: [&str; 9] = [
    "queue",
    "posted",
    "filled",
    "unused",
    "with-device",
    "out",
    "out-most",
    "violations",
    "last-stop.clean",
];

fn ids_text(ids: &Value) -> String {
    let ids = ids["ids"].as_array().into_iter().flatten();
    ids.map(|id| format!("{id}\n")).collect()
}

fn status_text(status: &Value) -> String {
    let columns = ["name", "driver", "connected", "link", "data-pairs", "path"];
    let mut text = objects(&status["ports"], &columns);
    for cable in status["cables"].as_array().into_iter().flatten() {
        let pause = if cable["pause"] == true {
            " (pause)"
        } else {
            ""
        };
        text += &format!("cable {}{pause}\n", brief(&cable["ports"]));
    }
    text
}

fn stats_text(stats: &Value) -> String {
    let mut text = String::new();
    for port in stats["ports"].as_array().into_iter().flatten() {
        let counters = port.as_object().into_iter().flatten();
        let words = counters
            .filter(|(name, value)| {
                *name != "name" && value.as_u64().is_some_and(|count| count > 0)
            })
            .map(|(name, value)| format!(" {name} {value}"));
        text += &format!(
            "port {}:{}\n",
            brief(&port["name"]),
            words.collect::<String>()
        );
        let columns = [
            "queue",
            "rx-frames",
            "rx-bytes",
            "rx-split",
            "rx-csum-bad",
            "rx-no-buffer",
            "rx-stopped",
            "rx-bad-chain",
            "tx-frames",
            "tx-bytes",
            "tx-errors",
        ];
        text += &objects(&port["queues"], &columns);
    }
    text
}

fn members_text(value: &Value) -> String {
    let members = value.as_object().into_iter().flatten();
    let rows: Vec<_> = members
        .map(|(name, value)| vec![name.clone(), brief(value)])
        .collect();
    table(&["", ""], &rows).trim_start().to_owned()
}

fn steering_text(steering: &Value) -> String {
    format!(
        "addresses: {} promisc: {} allmulti: {}\n{}{}",
        brief(&steering["addresses"]),
        brief(&steering["promisc"]),
        brief(&steering["allmulti"]),
        objects(&steering["contexts"], &["context", "symmetric", "table"]),
        objects(
            &steering["rules"],
            &[
                "location",
                "rule-type",
                "action",
                "queue",
                "context",
                "fields"
            ]
        ),
    )
}

fn flow_text(counts: &Value) -> String {
    let queues = counts["queues"].as_object().into_iter().flatten();
    let rows: Vec<_> = queues
        .map(|(queue, counts)| {
            let names = ["delivered", "split", "unsplit", "dropped"];
            let counts = names.map(|name| brief(&counts[name]));
            [vec![queue.clone()], counts.to_vec()].concat()
        })
        .collect();
    table(
        &["queue", "delivered", "split", "unsplit", "dropped"],
        &rows,
    )
}

fn run(cli: Cli) -> CommandResult {
    match cli.command {
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "zcnicctl", &mut io::stdout());
            return Ok(ExitCode::SUCCESS);
        }
        Command::Man => {
            clap_mangen::Man::new(Cli::command()).render(&mut io::stdout())?;
            return Ok(ExitCode::SUCCESS);
        }
        _ => {}
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
    let mut session = Session {
        client: Client::connect(&socket)?,
        port: cli.port,
        json: cli.json,
    };
    session.run(cli.command)
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
        Some(ClientError::Connect(..)) => ExitCode::from(3),
        Some(ClientError::Refused(failure)) if failure.class == ErrorClass::Timeout => {
            ExitCode::from(4)
        }
        _ => ExitCode::FAILURE,
    }
}

fn main() -> ExitCode {
    run(Cli::parse()).unwrap_or_else(|error| {
        eprintln!("zcnicctl: {error:#}");
        status(&error)
    })
}
