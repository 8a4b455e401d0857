//! The command line.

use std::{collections::BTreeSet, path::PathBuf, str::FromStr};

use clap::{Parser, Subcommand};
use thiserror::Error;

use crate::{
    backend::{CableConfig, Config, PortConfig},
    port::{FlowControl, MAX_PAIRS, PortMode},
    qemu::Mac,
};

/// A multi-queue network card with header/data split and flow steering for QEMU guests.
///
/// Each --port is a vhost-user socket for one network card of a guest; --cable connects two of them. Guests
/// and QEMU may come and go while zcnic runs, and zcnic may be restarted under them.
///
/// Example: two cards, cabled, and the QEMU options for them:
///
///   zcnic --port path=/run/a.sock --port path=/run/b.sock --cable 0:1 --control /run/zcnic.ctl
///   zcnic qemu-args --port path=/run/a.sock --port path=/run/b.sock --queues 4
///
/// What happens is logged to standard error; RUST_LOG=debug says more, RUST_LOG=warn less.
#[derive(Debug, Parser)]
#[command(version, verbatim_doc_comment, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; without a command zcnic runs.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What to run.
    #[command(flatten)]
    pub run: Run,
}

/// Commands other than running.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the QEMU options for these ports, ready to paste into a shell.
    QemuArgs(QemuArgs),
}

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// A port; modes are auto (the default), plain and zcnic
    ///
    /// Ports are numbered from 0 in the order given; without a name a port is called by its number.
    /// A port of mode "auto" becomes what its driver speaks: a zcnic card when the zcnic driver says hello, a
    /// plain virtio-net card at the first ordinary transmit. Until then it receives nothing, so
    /// a driver that never transmits needs "plain". "plain" and "zcnic" allow only that one.
    #[arg(long = "port", value_name = "path=SOCKET[,name=NAME][,mode=MODE]")]
    pub ports: Vec<PortArg>,
    /// A cable between two ports
    ///
    /// A and B are names or numbers of ports. A frame that finds no receive buffer is dropped and counted; with
    /// "pause" its sender waits for up to half a second first.
    #[arg(long = "cable", value_name = "A:B[,pause]")]
    pub cables: Vec<CableArg>,
    /// Listen for control commands on this Unix socket (one JSON object per line, see zcnicctl)
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
}

/// Options of `qemu-args`.
#[derive(Debug, clap::Args)]
pub struct QemuArgs {
    /// A port as given to zcnic itself; the mode decides about the MAC address
    #[arg(
        long = "port",
        value_name = "path=SOCKET[,name=NAME][,mode=MODE]",
        required = true
    )]
    pub ports: Vec<PortArg>,
    /// Number of data queue pairs of each port
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..MAX_PAIRS as i64))]
    pub queues: u16,
    /// Memory of the guest, as QEMU writes it
    #[arg(long, default_value = "2G", value_name = "SIZE")]
    pub memory: String,
    /// MAC address of the first port; the last byte counts up. The zcnic driver takes only cards whose
    /// address starts with 5a:43:4e, and by default plain ports get another
    #[arg(long)]
    pub mac: Option<Mac>,
}

/// A port on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortArg {
    /// Path of its socket.
    pub path: PathBuf,
    /// Its name, if it has one other than its number.
    pub name: Option<String>,
    /// Who may drive it.
    pub mode: PortMode,
}

/// A cable on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CableArg {
    /// Names of the ports.
    pub ends: [String; 2],
    /// What becomes of frames without a receive buffer.
    pub flow_control: FlowControl,
}

/// What is wrong with an option's value.
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
    /// A name that could be mistaken for something else.
    #[error("{0:?} is no name: letters, digits, '-', '_' and '.' are allowed")]
    Name(String),
    /// Not a cable.
    #[error("{0:?} is not of the form A:B or A:B,pause")]
    Cable(String),
}

/// What is wrong with the options as a whole.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Nothing to do.
    #[error("No port: give at least one --port path=SOCKET (see --help)")]
    NoPorts,
    /// One path for two sockets.
    #[error("Path {0} is given twice")]
    PathTwice(PathBuf),
    /// One name for two ports.
    #[error("Two ports are called {0}")]
    NameTwice(String),
    /// A cable to nowhere.
    #[error("--cable {cable}: there is no port {end}; ports are {}", .known.join(", "))]
    NoSuchPort {
        /// The cable.
        cable: String,
        /// Its end.
        end: String,
        /// The ports.
        known: Vec<String>,
    },
    /// Both ends in one port.
    #[error("--cable {0}: a cable connects two different ports")]
    Loop(String),
    /// Two cables in one port.
    #[error("--cable {cable}: port {port} has a cable already")]
    Occupied {
        /// The cable.
        cable: String,
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

impl FromStr for CableArg {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let wrong = || OptionError::Cable(text.to_owned());
        let (ends, flow_control) = match text.split_once(',') {
            None => (text, FlowControl::Drop),
            Some((ends, "pause")) => (ends, FlowControl::Pause),
            Some(_) => return Err(wrong()),
        };
        let (a, b) = ends.split_once(':').ok_or_else(wrong)?;
        if a.is_empty() || b.is_empty() || b.contains(':') {
            return Err(wrong());
        }
        Ok(Self {
            ends: [a.to_owned(), b.to_owned()],
            flow_control,
        })
    }
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
        let mut cables: Vec<CableConfig> = Vec::new();
        for CableArg {
            ends: [a, b],
            flow_control,
        } in &run.cables
        {
            let cable = format!("{a}:{b}");
            let find = |end: &String| {
                let by_name = ports.iter().position(|port| port.name == *end);
                by_name
                    .or_else(|| {
                        end.parse()
                            .ok()
                            .filter(|&number: &usize| number < ports.len())
                    })
                    .ok_or_else(|| ConfigError::NoSuchPort {
                        cable: cable.clone(),
                        end: end.clone(),
                        known: ports.iter().map(|port| port.name.clone()).collect(),
                    })
            };
            let ends = [find(a)?, find(b)?];
            if ends[0] == ends[1] {
                return Err(ConfigError::Loop(cable));
            }
            for end in ends {
                if cables.iter().any(|other| other.ends.contains(&end)) {
                    return Err(ConfigError::Occupied {
                        cable,
                        port: ports[end].name.clone(),
                    });
                }
            }
            cables.push(CableConfig {
                ends,
                flow_control: *flow_control,
            });
        }
        Ok(Self {
            ports,
            cables,
            control: run.control,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;

    fn config(line: &str) -> Result<Config, ConfigError> {
        let words = std::iter::once("zcnic").chain(line.split_whitespace());
        Cli::try_parse_from(words).expect("options").run.try_into()
    }

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn whole_line() {
        let config = config(
            "--port path=/a --port path=/b,name=eth1,mode=plain --cable 0:eth1,pause --control /c",
        )
        .expect("valid");
        assert_eq!(config.ports[0].name, "0");
        assert_eq!(config.ports[1].mode, PortMode::Plain);
        let cable = CableConfig {
            ends: [0, 1],
            flow_control: FlowControl::Pause,
        };
        assert_eq!(config.cables, [cable]);
        assert_eq!(config.control, Some("/c".into()));
    }

    #[test]
    fn option_values() {
        for (text, error) in [
            ("/a", OptionError::KeyValue("/a".into())),
            ("path=/a,colour=red", OptionError::Key("colour".into())),
            ("path=/a,path=/b", OptionError::Twice("path")),
            ("path=/a,mode=fast", OptionError::Mode("fast".into())),
            ("name=x", OptionError::NoPath),
            ("path=", OptionError::NoPath),
            ("path=/a,name=a:b", OptionError::Name("a:b".into())),
        ] {
            assert_eq!(text.parse::<PortArg>(), Err(error));
        }
        for text in ["0", "0:", ":1", "0:1,slow", "0:1:2"] {
            assert_eq!(
                text.parse::<CableArg>(),
                Err(OptionError::Cable(text.into()))
            );
        }
    }

    #[test]
    fn whole_line_errors() {
        assert_eq!(config(""), Err(ConfigError::NoPorts));
        assert_eq!(
            config("--port path=/a --port path=/a"),
            Err(ConfigError::PathTwice("/a".into()))
        );
        assert_eq!(
            config("--port path=/a --control /a"),
            Err(ConfigError::PathTwice("/a".into()))
        );
        let twice = config("--port path=/a --port path=/b,name=0");
        assert_eq!(twice, Err(ConfigError::NameTwice("0".into())));
        let missing = config("--port path=/a --port path=/b --cable 0:2").expect_err("no port 2");
        assert_eq!(
            missing.to_string(),
            "--cable 0:2: there is no port 2; ports are 0, 1"
        );
        let ports = "--port path=/a --port path=/b --port path=/c";
        assert_eq!(
            config(&format!("{ports} --cable 1:1")),
            Err(ConfigError::Loop("1:1".into()))
        );
        let occupied = ConfigError::Occupied {
            cable: "1:2".into(),
            port: "1".into(),
        };
        assert_eq!(
            config(&format!("{ports} --cable 0:1 --cable 1:2")),
            Err(occupied)
        );
    }

    #[test]
    fn queue_count_is_bounded() {
        let words = ["zcnic", "qemu-args", "--port", "path=/a", "--queues", "128"];
        let error = Cli::try_parse_from(words).expect_err("127 data pairs and the command pair");
        assert_eq!(error.kind(), ErrorKind::ValueValidation);
    }
}
