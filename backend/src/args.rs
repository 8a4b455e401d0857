//! The command line.

#[cfg(test)]
mod tests;
mod wires;

use std::{collections::BTreeSet, path::PathBuf, str::FromStr, time::Duration};

use clap::{Parser, Subcommand};
use rustix::thread::CpuSet;
use thiserror::Error;

pub use self::wires::{CableArg, SwitchArg, WireArg, WireOptionError};
use crate::{
    config::{
        CableConfig, Config, MAX_PAIRS, Mac, PortConfig, PortMode, SocketMode, SwitchConfig,
        WireConfig, WorkersConfig, memory_size,
    },
    sandbox::SandboxMode,
};

/// A multi-queue NIC with header/data split and flow steering for QEMU guests.
///
/// Each --port is a vhost-user socket and one port of a guest's NIC; --cable connects two of them.
/// Guests and QEMU may come and go while zcnic runs, and zcnic may be restarted under them.
///
/// Example: two ports with a cable between them, and the QEMU options for them:
///
///   zcnic --port path=/run/a.sock --port path=/run/b.sock --cable 0:1 --control /run/zcnic.ctl
///   zcnic qemu-args --port path=/run/a.sock --port path=/run/b.sock --queues 4
///
/// Events are logged to standard error; RUST_LOG=debug logs more, RUST_LOG=warn less.
#[derive(Debug, Parser)]
#[command(name = "zcnic", version = env!("ZCNIC_VERSION"), verbatim_doc_comment)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// The command; without one, zcnic runs the backend.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The ports and how to run them.
    #[command(flatten)]
    pub run: Run,
}

/// Commands that do not run the backend.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the QEMU options for these ports, ready to paste into a shell.
    QemuArgs(QemuArgs),
    /// Manual pages and completions.
    #[command(flatten)]
    Describe(zcnic_cli::Describe),
}

/// The ports and how to run them.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// A port; modes are auto (the default), plain and zcnic
    ///
    /// Ports are numbered from 0 in the order given; a port without a name is called by its number.
    /// A port of mode "auto" follows its driver: it becomes a zcnic port when the zcnic driver says
    /// HELLO, and a plain virtio-net port at the first ordinary transmit. Until then it receives
    /// nothing, so a driver that never transmits needs "plain". Modes "plain" and "zcnic" accept
    /// only that driver.
    #[arg(long = "port", value_name = "path=SOCKET[,name=NAME][,mode=MODE]")]
    pub ports: Vec<PortArg>,
    /// A cable between two ports
    ///
    /// A and B are names or numbers of ports. A frame that finds no receive buffer is dropped and
    /// counted; with "pause" its sender waits for up to half a second first. Properties hold for
    /// each direction: "rate=BITS" per second (100M, 2.5G), "delay=TIME" (5ms, 100us), "loss=P"
    /// with P from 0 to 1, and "seed=NUMBER", which determines the frames that are lost. A
    /// direction with a rate has a queue of 256 KiB.
    #[arg(
        long = "cable",
        value_name = "A:B[,pause][,rate=BITS][,delay=TIME][,loss=P][,seed=NUMBER]"
    )]
    pub cables: Vec<CableArg>,
    /// Something other than a cable for a port; wires are loopback, null, generate, stream, tap and
    /// pcap
    ///
    /// PORT is a name or number. With "loopback" the port receives its own frames, through address
    /// filter, rules and RSS like any frame. With "null" its frames are counted as sent and
    /// discarded. With "generate" its frames are discarded, too, and the port receives UDP frames
    /// as fast as it has buffers: by default of 60 bytes and one flow, otherwise as
    /// "generate,size=BYTES,flows=NUMBER,seed=NUMBER" specifies. The same seed makes the same
    /// frames.
    ///
    /// "stream,connect=ADDRESS" and "stream,listen=ADDRESS" speak the protocol of QEMU's -netdev
    /// stream and of passt; ADDRESS is unix:PATH or tcp:IP:PORT. "tap,ifname=NAME[,queues=NUMBER]"
    /// is a tap interface of the host, made if it does not exist. "pcap,file=FILE" sends the frames
    /// of a capture to the port at their recorded times, with ",rate=line" as fast as it has
    /// buffers, with ",rate=1000pps" or ",rate=10M" that many frames or bits per second, and with
    /// ",loop" again and again. On stream and tap ",pause" makes frames wait for buffers as on a
    /// cable.
    #[arg(long = "wire", value_name = "PORT=WIRE")]
    pub wires: Vec<WireArg>,
    /// A learning switch for two ports or more
    ///
    /// Ports are names or numbers. A frame to an address that a port has sent from goes to that
    /// port, other frames to all but the sender. A frame that finds no receive buffer is dropped.
    #[arg(long = "switch", value_name = "[NAME=]PORT,PORT[,PORT...]")]
    pub switches: Vec<SwitchArg>,
    /// Listen for control commands on this Unix socket (one JSON object per line, see zcnicctl)
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Accept guest memory in files that can be shortened, as DPDK and hugetlbfs files are
    ///
    /// Without it a frontend's memory must be a memfd that can be sealed against that, as QEMU's
    /// memory-backend-memfd is. With it, memory may also be in unsealed memfds and in files of tmpfs
    /// and hugetlbfs. A frontend that shortens such a file loses its session, and the frames in
    /// flight to and from it are lost.
    #[arg(long)]
    pub trust_memory: bool,
    /// Permissions of the sockets of ports and streams, whatever the umask
    ///
    /// Connecting needs write permission: 660 lets QEMU run as another user of the socket's group,
    /// which a directory with the set-group-ID bit gives to it. The control socket is always its
    /// owner's, and sockets that systemd passes have their unit's SocketMode.
    #[arg(
        long,
        default_value = "600",
        value_name = "OCTAL",
        overrides_with = "socket_mode"
    )]
    pub socket_mode: SocketMode,
    /// Threads of each port that move its frames; queue pairs are shared out among them
    #[arg(long, default_value_t = 1, value_name = "NUMBER",
        value_parser = clap::value_parser!(u16).range(1..=MAX_PAIRS as i64))]
    pub workers: u16,
    /// How long to poll a ring that became empty before waiting for a kick
    ///
    /// More saves system calls on both sides under load and costs CPU time after each burst; an
    /// idle port costs none. 0 turns polling off.
    #[arg(long, default_value_t = 20, value_name = "MICROSECONDS",
        value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub poll_us: u32,
    /// CPUs that the threads of --workers are pinned to, one after the other, port by port: 2,3 or
    /// 4-7
    #[arg(long, value_name = "LIST")]
    pub cpus: Option<CpuList>,
    /// What happens to system calls that a running backend does not need
    ///
    /// Once its sockets and wires are open, zcnic opens no file and starts no program. This makes
    /// sure of it (docs/security.md).
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    pub sandbox: SandboxMode,
}

/// Options of `qemu-args`.
#[derive(Debug, clap::Args)]
pub struct QemuArgs {
    /// A port as given to zcnic itself; its mode decides which default MAC address it gets
    #[arg(
        long = "port",
        value_name = "path=SOCKET[,name=NAME][,mode=MODE]",
        required = true
    )]
    pub ports: Vec<PortArg>,
    /// The control socket as given to zcnic itself: the guest gets it as a virtio-serial port,
    /// where zcnicctl finds it
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Number of data queue pairs of each port
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..MAX_PAIRS as i64))]
    pub queues: u16,
    /// Memory of the guest, as QEMU writes it
    #[arg(long, default_value = "2G", value_name = "SIZE", value_parser = memory_size)]
    pub memory: String,
    /// MAC address of the first port; the last byte counts up. The zcnic driver binds only to
    /// addresses that start with 5a:43:4e; by default plain ports get another prefix
    #[arg(long)]
    pub mac: Option<Mac>,
    /// Whom the output is for
    #[arg(long, value_enum, default_value_t)]
    pub format: OptionsFormat,
    /// Leave out the machine and its memory, for a guest that has shared memory already
    #[arg(long)]
    pub devices_only: bool,
}

/// Whom `qemu-args` prints the options for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OptionsFormat {
    /// A shell: one option per line, continued by backslashes
    #[default]
    Shell,
    /// A shell, on one line
    Line,
    /// A program: a JSON array of all words
    Json,
    /// libvirt: a domain without disks, or only its interfaces
    Libvirt,
}

/// A port on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortArg {
    /// Path of its socket.
    pub path: PathBuf,
    /// Its name, if it has one other than its number.
    pub name: Option<String>,
    /// Which driver may drive it.
    pub mode: PortMode,
}

/// CPUs on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(pub Vec<usize>);

/// Why an option's value is invalid.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OptionError {
    /// Not of the form `key=value`.
    #[error("{0:?} is not of the form key=value; keys are path, name and mode")]
    KeyValue(String),
    /// No such key.
    #[error("there is no key {0:?}; keys are path, name and mode")]
    Key(String),
    /// A key twice.
    #[error("{0} is given twice")]
    Twice(&'static str),
    /// No such mode.
    #[error("there is no mode {0:?}; modes are auto, plain and zcnic")]
    Mode(String),
    /// No path.
    #[error("the path of the socket is missing: path=SOCKET")]
    NoPath,
    /// A name with other characters than those allowed, or none.
    #[error("{0:?} is not a valid name: use letters, digits, '-', '_' and '.'")]
    Name(String),
    /// Not a list of CPUs.
    #[error("{0:?} is not a list of CPU numbers and ranges below 1024, such as 2,4-7")]
    Cpus(String),
}

/// Why the options are invalid as a whole.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// No port.
    #[error("No port: give at least one --port path=SOCKET (see --help)")]
    NoPorts,
    /// One path for two sockets.
    #[error("Path {0} is given twice")]
    PathTwice(PathBuf),
    /// One name for two ports.
    #[error("Two ports are called {0}")]
    NameTwice(String),
    /// A cable or wire names a port that does not exist.
    #[error("{option}: there is no port {end}; ports are {}", .known.join(", "))]
    NoSuchPort {
        /// The option.
        option: String,
        /// Its end.
        end: String,
        /// The ports.
        known: Vec<String>,
    },
    /// One name for two switches.
    #[error("Two switches are called {0}")]
    SwitchTwice(String),
    /// Both ends in one port.
    #[error("--cable {0}: a cable connects two different ports")]
    Loop(String),
    /// Two cables or wires in one port.
    #[error("{option}: port {port} has a cable, wire or switch already")]
    Occupied {
        /// The option.
        option: String,
        /// The port.
        port: String,
    },
}

impl FromStr for PortArg {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let (mut path, mut name, mut mode) = (None, None, None);
        for part in text.split(',') {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| OptionError::KeyValue(part.to_owned()))?;
            match key {
                "path" => once(&mut path, "path", PathBuf::from(value))?,
                "name" => {
                    let legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                    if value.is_empty() || !value.chars().all(legal) {
                        return Err(OptionError::Name(value.to_owned()));
                    }
                    once(&mut name, "name", value.to_owned())?;
                }
                "mode" => {
                    let value = match value {
                        "auto" => PortMode::Auto,
                        "plain" => PortMode::Plain,
                        "zcnic" => PortMode::Zcnic,
                        other => return Err(OptionError::Mode(other.to_owned())),
                    };
                    once(&mut mode, "mode", value)?;
                }
                other => return Err(OptionError::Key(other.to_owned())),
            }
        }
        let path = path
            .filter(|path| !path.as_os_str().is_empty())
            .ok_or(OptionError::NoPath)?;
        Ok(Self {
            path,
            name,
            mode: mode.unwrap_or_default(),
        })
    }
}

fn once<T>(slot: &mut Option<T>, key: &'static str, value: T) -> Result<(), OptionError> {
    match slot.replace(value) {
        Some(_) => Err(OptionError::Twice(key)),
        None => Ok(()),
    }
}

impl FromStr for CpuList {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let number = |text: &str| {
            let number = text.parse().ok();
            number.filter(|&cpu: &usize| cpu < CpuSet::MAX_CPU)
        };
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let range = number(first)?..=number(last)?;
            (!range.is_empty()).then_some(range)
        };
        let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
        let ranges = ranges.ok_or_else(|| OptionError::Cpus(text.to_owned()))?;
        Ok(Self(ranges.into_iter().flatten().collect()))
    }
}

/// The index of the port that is called `name`, or else has that number.
fn find(ports: &[PortConfig], name: &str, option: &str) -> Result<usize, ConfigError> {
    let by_name = ports.iter().position(|port| port.name == name);
    let by_number = || name.parse().ok().filter(|number| *number < ports.len());
    by_name
        .or_else(by_number)
        .ok_or_else(|| ConfigError::NoSuchPort {
            option: option.to_owned(),
            end: name.to_owned(),
            known: ports.iter().map(|port| port.name.clone()).collect(),
        })
}

impl TryFrom<Run> for Config {
    type Error = ConfigError;

    fn try_from(run: Run) -> Result<Self, ConfigError> {
        if run.ports.is_empty() {
            return Err(ConfigError::NoPorts);
        }
        let mut paths = BTreeSet::new();
        let mut names = BTreeSet::new();
        for path in run.ports.iter().map(|port| &port.path).chain(&run.control) {
            if !paths.insert(path) {
                return Err(ConfigError::PathTwice(path.clone()));
            }
        }
        let mut ports = Vec::new();
        for (number, port) in run.ports.iter().enumerate() {
            let name = port.name.clone().unwrap_or_else(|| number.to_string());
            if !names.insert(name.clone()) {
                return Err(ConfigError::NameTwice(name));
            }
            ports.push(PortConfig {
                name,
                path: port.path.clone(),
                mode: port.mode,
            });
        }
        let mut plugged = BTreeSet::new();
        let mut plug = |port: usize, option: &str| {
            if plugged.insert(port) {
                return Ok(());
            }
            Err(ConfigError::Occupied {
                option: option.to_owned(),
                port: ports[port].name.clone(),
            })
        };
        let mut cables = Vec::new();
        for CableArg {
            ends: [a, b],
            flow_control,
            shape,
        } in &run.cables
        {
            let option = format!("--cable {a}:{b}");
            let ends = [find(&ports, a, &option)?, find(&ports, b, &option)?];
            if ends[0] == ends[1] {
                return Err(ConfigError::Loop(format!("{a}:{b}")));
            }
            for end in ends {
                plug(end, &option)?;
            }
            cables.push(CableConfig {
                ends,
                flow_control: *flow_control,
                shape: *shape,
            });
        }
        let mut wires = Vec::new();
        for WireArg { port: name, wire } in run.wires {
            let option = format!("--wire {name}");
            let port = find(&ports, &name, &option)?;
            plug(port, &option)?;
            wires.push(WireConfig { port, wire });
        }
        let mut switches: Vec<SwitchConfig> = Vec::new();
        for (number, SwitchArg { name, ports: ends }) in run.switches.into_iter().enumerate() {
            let option = format!("--switch {}", ends.join(","));
            let name = name.unwrap_or_else(|| format!("switch{number}"));
            if switches.iter().any(|switch| switch.name == name) {
                return Err(ConfigError::SwitchTwice(name));
            }
            let ends = ends.iter().map(|end| {
                let port = find(&ports, end, &option)?;
                plug(port, &option).map(|()| port)
            });
            let ports = ends.collect::<Result<_, ConfigError>>()?;
            switches.push(SwitchConfig { name, ports });
        }
        Ok(Self {
            ports,
            cables,
            wires,
            switches,
            control: run.control,
            socket_mode: run.socket_mode,
            workers: WorkersConfig {
                per_port: usize::from(run.workers),
                poll: Duration::from_micros(run.poll_us.into()),
                cpus: run.cpus.map(|cpus| cpus.0).unwrap_or_default(),
            },
            trust_memory: run.trust_memory,
            sandbox: run.sandbox,
        })
    }
}
