//! The command line, from which completions and the manual page are made, too.

use std::{net::IpAddr, num::NonZeroU64, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use serde_json::{Map, Value, json};
use zcnic_ctl::protocol::{
    FlowMatch, Protocol,
    event::EventKind,
    fault::{Action, Direction, FaultRule, Opcode},
};

/// Talks to a running zcnic backend over its control socket.
///
/// Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 no backend, 4 what was waited for did not happen
/// in time, 5 a ledger has violations (ledger --check).
#[derive(Debug, Parser)]
#[command(name = "zcnicctl", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// The backend's control socket (zcnic --control); in a guest that it is wired into that port if missing
    #[arg(long, short, value_name = "PATH", env = "ZCNIC_CONTROL", global = true)]
    pub(crate) socket: Option<PathBuf>,
    /// Name of the port that is meant; the first one if it is missing
    #[arg(long, short, value_name = "NAME", global = true)]
    pub(crate) port: Option<String>,
    /// Print what the backend answers, as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ports, who drives them, and cables
    Status,
    /// Counters of ports and queues
    Stats {
        /// Print them again and again, every so many seconds
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
        watch: Option<f64>,
    },
    /// Features that were negotiated, and offloads
    Features {
        /// Offer these and no others from the next session on (see `reset`); `all`: all that the device can do
        #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
        offer: Option<Vec<String>>,
    },
    /// Rings and queues
    Queues,
    /// Address filter, RSS contexts and flow rules
    Steering,
    /// Counters of single flows
    #[command(subcommand)]
    Flow(FlowCommand),
    /// Things that go wrong on demand (docs/faults.md)
    #[command(subcommand)]
    Fault(FaultCommand),
    /// Who owns which receive buffer
    Ledger(LedgerArgs),
    /// Takes the carrier away or gives it back
    Link {
        /// What it is to be
        state: LinkState,
    },
    /// Has the device forget its session and its configuration
    Reset,
    /// Breaks the connection to the virtual machine monitor
    Disconnect,
    /// Prints events as they happen, one JSON object per line
    Events {
        /// Kinds of events; all if none is given
        #[arg(value_parser = word::<EventKind>)]
        kinds: Vec<EventKind>,
    },
    /// Writes what the port sends and receives to a pcapng file, as Wireshark and tcpdump read it
    Capture {
        /// The file; `-`: standard output
        file: PathBuf,
        /// Only the first bytes of each frame
        #[arg(long, value_name = "BYTES", default_value_t = 65536)]
        length: u32,
        /// End after so many frames
        #[arg(long, value_name = "FRAMES")]
        count: Option<u64>,
    },
    /// Prints a completion script
    Completions {
        /// For which shell
        shell: Shell,
    },
    /// Prints the manual page
    Man,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LinkState {
    Up,
    Down,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FlowCommand {
    /// Begins to count the frames of a flow that the port receives; prints the counter's number
    Add(FlowArgs),
    /// Prints the counts by receive queue
    Query {
        /// The counter's number
        id: u64,
    },
    /// Ends a counter
    Remove {
        /// The counter's number
        id: u64,
    },
}

/// Which frames.
#[derive(Args, Clone, Debug)]
pub(crate) struct FlowArgs {
    /// tcp or udp
    #[arg(long, value_parser = word::<Protocol>)]
    protocol: Option<Protocol>,
    /// Source IP address
    #[arg(long)]
    source: Option<IpAddr>,
    /// Destination IP address
    #[arg(long)]
    destination: Option<IpAddr>,
    /// Source port
    #[arg(long)]
    source_port: Option<u16>,
    /// Destination port
    #[arg(long)]
    destination_port: Option<u16>,
}

impl From<FlowArgs> for FlowMatch {
    fn from(pattern: FlowArgs) -> Self {
        Self {
            protocol: pattern.protocol,
            source: pattern.source,
            destination: pattern.destination,
            source_port: pattern.source_port,
            destination_port: pattern.destination_port,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum FaultCommand {
    /// Adds a rule; prints its number
    Add(Box<FaultArgs>),
    /// Adds all rules of a scenario file (TOML, or JSON if its name ends so); prints their numbers
    Load {
        /// The file
        file: PathBuf,
    },
    /// The rules of all ports and how often they hit
    List,
    /// Removes a rule, or all of the port
    Remove {
        /// The rule's number
        #[arg(required_unless_present = "all")]
        id: Option<u64>,
        /// All rules of the port
        #[arg(long, conflicts_with = "id")]
        all: bool,
    },
    /// Waits until a rule has hit
    Wait {
        /// The rule's number
        id: u64,
        /// How often
        #[arg(long, default_value_t = 1)]
        hits: u64,
        /// For how long at most (5s, 200ms)
        #[arg(long, default_value = "60s", value_parser = duration)]
        timeout: Duration,
    },
}

/// A rule.
#[derive(Args, Debug)]
pub(crate) struct FaultArgs {
    /// rx, tx or command
    #[arg(value_parser = word::<Direction>)]
    direction: Direction,
    /// What goes wrong (docs/faults.md)
    action: String,
    /// On this frame only, counted from 1 per queue
    #[arg(long, group = "trigger")]
    nth: Option<NonZeroU64>,
    /// On each multiple of this
    #[arg(long, group = "trigger")]
    every: Option<NonZeroU64>,
    /// On each with this chance
    #[arg(long, group = "trigger")]
    probability: Option<f64>,
    /// What chance depends on
    #[arg(long)]
    seed: Option<u64>,
    /// Only on this queue
    #[arg(long)]
    queue: Option<u16>,
    #[command(flatten)]
    pattern: FlowArgs,
    /// Only these commands
    #[arg(long, value_parser = word::<Opcode>)]
    opcode: Option<Opcode>,
    /// How often at most, per queue
    #[arg(long)]
    times: Option<NonZeroU64>,
    /// Only while the queue is in this state
    #[arg(long)]
    state: Option<String>,
    /// The state that the queue enters
    #[arg(long)]
    enter: Option<String>,
    #[command(flatten)]
    parameters: ActionArgs,
}

/// Parameters of actions.
#[derive(Args, Debug)]
#[command(next_help_heading = "Parameters of actions")]
struct ActionArgs {
    /// delay, stall, link-flap, command-timeout: how long (5ms, 2s)
    #[arg(long, value_parser = duration)]
    time: Option<Duration>,
    /// duplicate: additional copies
    #[arg(long)]
    copies: Option<u32>,
    /// reorder: behind how many frames
    #[arg(long)]
    by: Option<u32>,
    /// corrupt: which bit of the frame
    #[arg(long)]
    bit: Option<u32>,
    /// truncate: bytes that are left
    #[arg(long)]
    length: Option<u32>,
    /// short-buffer: bytes that the used length lacks
    #[arg(long)]
    bytes: Option<u32>,
    /// split-wrong: where
    #[arg(long)]
    at: Option<u32>,
    /// wrong-queue: which one
    #[arg(long)]
    to_queue: Option<u16>,
    /// wrong-hash: what it is said to be
    #[arg(long)]
    value: Option<u32>,
    /// wrong-checksum: inverted, good, bad or unknown
    #[arg(long)]
    verdict: Option<String>,
    /// bad-used-id: how far beyond the ring
    #[arg(long)]
    beyond: Option<u32>,
    /// withhold-completion: behind how many frames
    #[arg(long)]
    frames: Option<u32>,
    /// command-error: the response's status
    #[arg(long)]
    status: Option<String>,
    /// command-error: the response's detail
    #[arg(long)]
    detail: Option<u32>,
    /// command-timeout: the command is executed nevertheless
    #[arg(long)]
    executed: bool,
}

impl ActionArgs {
    fn members(&self) -> Map<String, Value> {
        let all = [
            (
                "nanoseconds",
                self.time.map(|time| json!(nanoseconds(time))),
            ),
            ("copies", self.copies.map(|value| json!(value))),
            ("by", self.by.map(|value| json!(value))),
            ("bit", self.bit.map(|value| json!(value))),
            ("length", self.length.map(|value| json!(value))),
            ("bytes", self.bytes.map(|value| json!(value))),
            ("at", self.at.map(|value| json!(value))),
            ("queue", self.to_queue.map(|value| json!(value))),
            ("value", self.value.map(|value| json!(value))),
            ("verdict", self.verdict.as_ref().map(|value| json!(value))),
            ("beyond", self.beyond.map(|value| json!(value))),
            ("frames", self.frames.map(|value| json!(value))),
            ("status", self.status.as_ref().map(|value| json!(value))),
            ("detail", self.detail.map(|value| json!(value))),
            ("executed", self.executed.then_some(Value::Bool(true))),
        ];
        all.into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect()
    }
}

impl FaultArgs {
    /// The rule.
    ///
    /// # Errors
    ///
    /// There is no such action, or it lacks a parameter or has one too many.
    pub(crate) fn rule(self) -> Result<FaultRule, String> {
        let pattern = FlowMatch::from(self.pattern);
        Ok(FaultRule {
            direction: self.direction,
            queue: self.queue,
            pattern: (pattern != FlowMatch::default()).then_some(pattern),
            opcode: self.opcode,
            state: self.state,
            nth: self.nth,
            every: self.every,
            probability: self.probability,
            seed: self.seed,
            stream: None,
            times: self.times,
            enter: self.enter,
            action: action(&self.action, &self.parameters.members())?,
        })
    }
}

fn action(name: &str, members: &Map<String, Value>) -> Result<Action, String> {
    // Some actions have no parameters at all, and are words.
    if members.is_empty()
        && let Ok(action) = serde_json::from_value(json!(name))
    {
        return Ok(action);
    }
    serde_json::from_value(json!({ name: members })).map_err(|error| format!("{name}: {error}"))
}

#[derive(Args, Debug)]
pub(crate) struct LedgerArgs {
    /// Exit with status 5 if there are violations
    #[arg(long)]
    pub(crate) check: bool,
    #[command(subcommand)]
    pub(crate) command: Option<LedgerCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Begins a new ledger
    Set {
        /// off, counting or full
        #[arg(value_parser = word::<zcnic_ctl::protocol::ledger::LedgerMode>)]
        mode: zcnic_ctl::protocol::ledger::LedgerMode,
        /// Poison buffers and check that nobody writes to them while the device owns them
        #[arg(long)]
        sanitize: bool,
        /// Buffers that the driver keeps for longer than this are violations
        #[arg(long, value_parser = duration)]
        overdue: Option<Duration>,
    },
    /// The last owners of a buffer
    History {
        /// The receive queue
        queue: u16,
        /// A guest-physical address, as 0x1000
        #[arg(value_parser = number)]
        address: u64,
    },
}

/// As nanoseconds, for the protocol.
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A value as the protocol spells it.
fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(json!(text)).map_err(|error| error.to_string())
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time like 5s, 20ms, 100us or 800ns");
    let split = text
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .ok_or_else(wrong)?;
    let (count, unit) = text.split_at(split);
    let count = f64::from_str(count).map_err(|_| wrong())?;
    let unit = match unit {
        "ns" => 1e-9,
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(count * unit).map_err(|_| wrong())
}

fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn rule(words: &str) -> Result<FaultRule, String> {
        let words = ["zcnicctl", "fault", "add"]
            .into_iter()
            .chain(words.split(' '));
        match Cli::try_parse_from(words)
            .map_err(|error| error.to_string())?
            .command
        {
            Command::Fault(FaultCommand::Add(add)) => add.rule(),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn command_lines_become_rules() {
        let drop = rule("rx drop --nth 3 --queue 2").expect("a rule");
        assert_eq!(
            serde_json::to_value(drop).expect("JSON"),
            json!({"direction": "rx", "nth": 3, "queue": 2, "action": "drop"})
        );
        let delay = rule("tx delay --time 1.5ms --probability 0.5 --protocol udp").expect("a rule");
        assert_eq!(
            serde_json::to_value(delay).expect("JSON"),
            json!({"direction": "tx", "probability": 0.5, "match": {"protocol": "udp"},
                "action": {"delay": {"nanoseconds": 1_500_000}}})
        );
        assert!(rule("rx corrupt").is_ok(), "parameters have defaults");
        for (wrong, named) in [
            ("rx explode", "explode"),
            ("rx delay", "nanoseconds"),
            ("rx drop --bit 3", "drop"),
            ("up drop", "up"),
            ("rx drop --nth 0", "nth"),
            ("rx drop --nth 1 --every 2", "every"),
            ("rx delay --time 5", "not a time"),
        ] {
            let said = rule(wrong).expect_err(wrong);
            assert!(said.contains(named), "{wrong}: {said}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(duration("0.5us"), Ok(Duration::from_nanos(500)));
        for wrong in ["", "5", "s", "-1s", "1.2.3s", "1e400s", "5h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(number("0x1000"), Ok(4096));
    }
}
