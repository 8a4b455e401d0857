//! The command line, from which completions and the manual page are made, too.

use std::{
    net::IpAddr,
    num::{NonZeroU32, NonZeroU64},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};
use zcnic_cli::Describe;
use zcnic_ctl::protocol::{
    CounterId, FlowMatch, Protocol,
    event::EventKind,
    fault::{CommandStatus, Direction, FaultId, FaultRule, Opcode, Verdict},
    ledger::LedgerMode,
    nanoseconds,
};

use crate::{
    actions::{self, OPTIONS, action},
    words,
};

/// Controls a running zcnic backend over its control socket.
///
/// Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 no backend, 4 wait timed out, 5 the
/// ledger has violations (ledger --check).
#[derive(Debug, Parser)]
#[command(name = "zcnicctl", version = env!("ZCNIC_VERSION"), max_term_width = 100)]
pub(crate) struct Cli {
    /// The backend's control socket (zcnic --control); the default in a guest is the virtio-serial
    /// port wired to it
    #[arg(long, short, value_name = "PATH", env = "ZCNIC_CONTROL", global = true)]
    pub(crate) socket: Option<PathBuf>,
    /// Name of the port; the default is the first one
    #[arg(long, short, value_name = "NAME", global = true)]
    pub(crate) port: Option<String>,
    /// Print the backend's answer as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show ports, their drivers, cables, wires and switches
    Status,
    /// Show counters of ports and queues
    Stats {
        /// Repeat every this many seconds, with rates per second
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1",
            value_parser = seconds)]
        watch: Option<Duration>,
    },
    /// Show queues, rates, drops, buffers and faults live in the terminal; q quits
    ///
    /// Rates are per second. The columns out (filled buffers that the driver has) and viol
    /// (violations) need a ledger (see `ledger set`). Without a terminal, one frame is printed.
    Top {
        /// Seconds between two frames
        #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
        interval: Duration,
        /// Print one frame as text
        #[arg(long)]
        once: bool,
    },
    /// Show negotiated features and offloads, or set the offered features
    Features {
        /// Offer only these features from the next session on (see `reset`); `all`: all features of
        /// the device
        #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
        offer: Option<Vec<String>>,
    },
    /// Show rings and queues
    Queues,
    /// Show the address filter, RSS contexts and flow rules
    Steering,
    /// Manage counters of single flows
    #[command(subcommand)]
    Flow(FlowCommand),
    /// Manage fault rules (docs/faults.md)
    #[command(subcommand)]
    Fault(FaultCommand),
    /// Show or set the ledger of receive buffers
    Ledger(LedgerArgs),
    /// Set the carrier of the port
    Link {
        /// The new state of the carrier
        state: LinkState,
    },
    /// Reset the device: it loses its session and its configuration
    Reset,
    /// Disconnect the virtual machine monitor
    Disconnect,
    /// Print events as they happen, one JSON object per line
    Events {
        /// Kinds of events; the default is all
        #[arg(value_parser = words::parser::<EventKind>())]
        kinds: Vec<EventKind>,
    },
    /// Write the frames that the port sends and receives to a pcapng file, for Wireshark and
    /// tcpdump, until SIGINT or SIGTERM or the end of the backend
    ///
    /// Options and a comment of each packet have its queue, RSS hash, split point, flow rule and
    /// fault rules.
    Capture(CaptureArgs),
    #[command(flatten)]
    Describe(Describe),
}

#[derive(Args, Debug)]
pub(crate) struct CaptureArgs {
    /// The file; `-` is standard output
    pub(crate) file: PathBuf,
    /// Capture all ports, each as an interface of the file
    #[arg(long)]
    pub(crate) all: bool,
    /// Capture only the first bytes of each frame
    #[arg(long, value_name = "BYTES", default_value_t = 65536)]
    pub(crate) length: u32,
    /// Stop after this many frames
    #[arg(long, value_name = "FRAMES")]
    pub(crate) count: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LinkState {
    Up,
    Down,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FlowCommand {
    /// Add a counter for the frames of a flow that the port receives, and print its number
    Add(FlowArgs),
    /// Show the counts by receive queue
    Query {
        /// The counter's number
        id: CounterId,
    },
    /// Remove a counter
    Remove {
        /// The counter's number
        id: CounterId,
    },
}

/// A flow.
#[derive(Args, Clone, Debug)]
pub(crate) struct FlowArgs {
    /// Transport protocol
    #[arg(long, value_parser = words::parser::<Protocol>())]
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
    /// Add a rule and print its number
    Add(Box<FaultArgs>),
    /// Add all rules of a scenario file (TOML, or JSON if its name ends in .json) and print their
    /// numbers
    Load {
        /// The file
        file: PathBuf,
    },
    /// List the rules of all ports and their hits
    List,
    /// Remove a rule, or all rules of the port
    Remove {
        /// The rule's number
        #[arg(required_unless_present = "all")]
        id: Option<FaultId>,
        /// Remove all rules of the port
        #[arg(long, conflicts_with = "id")]
        all: bool,
    },
    /// Wait until a rule has hit
    Wait {
        /// The rule's number
        id: FaultId,
        /// Number of hits to wait for
        #[arg(long, default_value_t = 1)]
        hits: u64,
        /// The timeout (5s, 200ms)
        #[arg(long, default_value = "60s", value_parser = duration)]
        timeout: Duration,
    },
}

/// A fault rule.
#[derive(Args, Debug)]
pub(crate) struct FaultArgs {
    /// Traffic that the rule applies to
    #[arg(value_parser = words::parser::<Direction>())]
    direction: Direction,
    /// What happens to a frame or command that is hit (docs/faults.md)
    #[arg(value_parser = actions::parser())]
    action: String,
    /// Hit this frame only, counted from 1 per queue
    #[arg(long, group = "trigger")]
    nth: Option<NonZeroU64>,
    /// Hit each multiple of this
    #[arg(long, group = "trigger")]
    every: Option<NonZeroU64>,
    /// Hit with this probability, 0 to 1
    #[arg(long, group = "trigger")]
    probability: Option<f64>,
    /// Seed of random draws
    #[arg(long)]
    seed: Option<u64>,
    /// Apply only to this queue
    #[arg(long)]
    queue: Option<u16>,
    #[command(flatten)]
    pattern: FlowArgs,
    /// Apply only to commands with this opcode
    #[arg(long, value_parser = words::parser::<Opcode>())]
    opcode: Option<Opcode>,
    /// The most hits per queue
    #[arg(long)]
    times: Option<NonZeroU64>,
    /// Apply only while the queue is in this state
    #[arg(long)]
    state: Option<String>,
    /// The state that the queue enters on a hit
    #[arg(long)]
    enter: Option<String>,
    #[command(flatten)]
    parameters: ActionArgs,
}

/// Parameters of actions.
#[derive(Args, Debug)]
#[command(next_help_heading = "Parameters of actions")]
struct ActionArgs {
    /// delay, stall, link-flap, command-timeout: duration (5ms, 2s)
    #[arg(long, value_parser = duration)]
    time: Option<Duration>,
    /// duplicate: additional copies
    #[arg(long)]
    copies: Option<NonZeroU32>,
    /// reorder: number of frames that overtake
    #[arg(long)]
    by: Option<NonZeroU32>,
    /// corrupt: number of the bit
    #[arg(long)]
    bit: Option<u32>,
    /// truncate: remaining bytes
    #[arg(long)]
    length: Option<u32>,
    /// short-buffer: bytes missing from the used length
    #[arg(long)]
    bytes: Option<u32>,
    /// split-wrong: offset of the split
    #[arg(long)]
    at: Option<u32>,
    /// wrong-queue: the queue
    #[arg(long)]
    to_queue: Option<u16>,
    /// wrong-hash: the reported hash
    #[arg(long)]
    value: Option<u32>,
    /// wrong-checksum: the reported verdict
    #[arg(long, value_parser = words::parser::<Verdict>())]
    verdict: Option<Verdict>,
    /// bad-used-id: distance beyond the ring
    #[arg(long)]
    beyond: Option<u32>,
    /// withhold-completion: number of frames to wait for
    #[arg(long)]
    frames: Option<NonZeroU32>,
    /// command-error: the response's status
    #[arg(long, value_parser = words::parser::<CommandStatus>())]
    status: Option<CommandStatus>,
    /// command-error: the response's detail
    #[arg(long)]
    detail: Option<u32>,
    /// command-timeout: execute the command nevertheless
    #[arg(long)]
    executed: bool,
}

impl ActionArgs {
    fn members(&self) -> Map<String, Value> {
        let values = [
            self.time.map(|time| json!(nanoseconds(time))),
            self.copies.map(|value| json!(value)),
            self.by.map(|value| json!(value)),
            self.bit.map(|value| json!(value)),
            self.length.map(|value| json!(value)),
            self.bytes.map(|value| json!(value)),
            self.at.map(|value| json!(value)),
            self.to_queue.map(|value| json!(value)),
            self.value.map(|value| json!(value)),
            self.verdict.map(|value| json!(value)),
            self.beyond.map(|value| json!(value)),
            self.frames.map(|value| json!(value)),
            self.status.map(|value| json!(value)),
            self.detail.map(|value| json!(value)),
            self.executed.then_some(Value::Bool(true)),
        ];
        let all = OPTIONS.iter().zip(values);
        all.filter_map(|(&(name, _), value)| Some((name.to_owned(), value?)))
            .collect()
    }
}

impl FaultArgs {
    /// The rule.
    ///
    /// # Errors
    ///
    /// The action is not for this direction, an option is missing, or there is one too many.
    pub(crate) fn rule(&self) -> Result<FaultRule, String> {
        let pattern = FlowMatch::from(self.pattern.clone());
        Ok(FaultRule {
            direction: self.direction,
            queue: self.queue,
            pattern: (pattern != FlowMatch::default()).then_some(pattern),
            opcode: self.opcode,
            state: self.state.clone(),
            nth: self.nth,
            every: self.every,
            probability: self.probability,
            seed: self.seed,
            stream: None,
            times: self.times,
            enter: self.enter.clone(),
            action: action(&self.action, self.direction, &self.parameters.members())?,
        })
    }
}

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct LedgerArgs {
    /// Exit with status 5 if there are violations
    #[arg(long)]
    pub(crate) check: bool,
    /// Write the records of a full ledger as a trace for Perfetto (ui.perfetto.dev): the owners of
    /// each receive buffer over time, and violations; of all ports unless --port is given
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    pub(crate) trace: Option<PathBuf>,
    /// Wait for this time before, and add the hits of fault rules meanwhile to the trace
    #[arg(long = "for", value_name = "TIME", value_parser = duration, requires = "trace")]
    pub(crate) wait: Option<Duration>,
    #[command(subcommand)]
    pub(crate) command: Option<LedgerCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Restart the ledger with these settings
    Set {
        /// Records to keep
        #[arg(value_parser = words::parser::<LedgerMode>())]
        mode: LedgerMode,
        /// Poison buffers and check that the guest does not write to them while the device owns
        /// them
        #[arg(long)]
        sanitize: bool,
        /// Report buffers that the driver keeps for longer than this as violations
        #[arg(long, value_parser = duration)]
        overdue: Option<Duration>,
    },
    /// Show the last owners of a buffer
    History {
        /// The receive queue
        queue: u16,
        /// A guest-physical address, as 0x1000
        #[arg(value_parser = number)]
        address: u64,
    },
}

/// Bounds of the time between two looks at the backend.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_hours(1);

/// Parses a number of seconds as a time between two looks at the backend.
fn seconds(text: &str) -> Result<Duration, String> {
    let parsed = f64::from_str(text).ok();
    let time = parsed.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.filter(|time| (SHORTEST..=LONGEST).contains(time))
        .ok_or_else(|| format!("{text:?} is not a number of seconds from 0.1 to 3600"))
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
            ("rx delay", "delay needs --time"),
            ("rx drop --bit 3", "drop takes no --bit; it has no options"),
            (
                "rx delay --time 1s --copies 2",
                "delay takes no --copies; its options are --time",
            ),
            ("tx wrong-hash", "wrong-hash is for rx, not for tx"),
            ("rx duplicate --copies 0", "copies"),
            ("rx wrong-checksum --verdict maybe", "inverted"),
            ("command command-error --status full", "no-space"),
            ("up drop", "up"),
            ("rx drop --nth 0", "nth"),
            ("rx drop --nth 1 --every 2", "every"),
            ("rx delay --time 5", "not a time"),
        ] {
            let error = rule(wrong).expect_err(wrong);
            assert!(error.contains(named), "{wrong}: {error}");
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
