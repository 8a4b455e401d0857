//! The configuration of a backend: ports, cables, wires, workers. The command line is converted
//! into it (see args).

use std::{
    fmt::{self, Display},
    net::SocketAddr,
    num::NonZeroU64,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use thiserror::Error;

use crate::sandbox::SandboxMode;

/// The configuration of a backend. Converted from the command line, which checks it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Ports in their order.
    pub ports: Vec<PortConfig>,
    /// Cables between them.
    pub cables: Vec<CableConfig>,
    /// Wires of ports without a cable.
    pub wires: Vec<WireConfig>,
    /// Switches between ports without a cable or wire.
    pub switches: Vec<SwitchConfig>,
    /// Path of the control socket.
    pub control: Option<PathBuf>,
    /// Permissions of the sockets of ports and streams. The control socket is its owner's.
    pub socket_mode: SocketMode,
    /// The worker threads.
    pub workers: WorkersConfig,
    /// Frontends may hand over memory in files of tmpfs or hugetlbfs that can be shortened.
    pub trust_memory: bool,
    /// What happens to system calls that it does not need once it runs.
    pub sandbox: SandboxMode,
}

/// Permissions of a socket's file: who may connect needs write permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketMode(u32);

impl SocketMode {
    pub(crate) fn bits(self) -> u32 {
        self.0
    }
}

impl Default for SocketMode {
    fn default() -> Self {
        Self(0o600)
    }
}

/// Not permissions of a file.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not an octal mode from 600 to 777, such as 660")]
pub struct SocketModeError(String);

impl FromStr for SocketMode {
    type Err = SocketModeError;

    fn from_str(text: &str) -> Result<Self, SocketModeError> {
        let mode = u32::from_str_radix(text, 8).ok();
        mode.filter(|mode| (0o600..=0o777).contains(mode))
            .map(Self)
            .ok_or_else(|| SocketModeError(text.to_owned()))
    }
}

/// The threads that move frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkersConfig {
    /// Threads of each port, among which its queue pairs are shared out; at least one.
    pub per_port: usize,
    /// How long a thread polls rings that became empty before it waits for kicks.
    pub poll: Duration,
    /// Processors that the threads are pinned to, one after the other; empty: not pinned.
    pub cpus: Vec<usize>,
}

impl Default for WorkersConfig {
    fn default() -> Self {
        Self {
            per_port: 1,
            poll: Duration::from_micros(20),
            cpus: Vec::new(),
        }
    }
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Its name, unique.
    pub name: String,
    /// Path of its vhost-user socket, unique.
    pub path: PathBuf,
    /// Which driver may drive it.
    pub mode: PortMode,
}

/// Queue pairs of a port, the command pair included: SET_VRING_KICK names a ring in 8 bits.
pub const MAX_PAIRS: usize = 128;

/// Which driver may drive a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortMode {
    /// Either driver: HELLO makes it a zcnic port, an ordinary transmit a plain one.
    #[default]
    Auto,
    /// Only an ordinary virtio-net driver. It receives before it transmits for the first time.
    Plain,
    /// Only the zcnic driver.
    Zcnic,
}

/// One cable between two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CableConfig {
    /// Indices of the ports; no port has two cables.
    pub ends: [usize; 2],
    /// How frames are treated that find no receive buffer.
    pub flow_control: FlowControl,
    /// Its properties; `None`: frames arrive at once.
    pub shape: Option<CableShape>,
}

/// The properties of a cable, the same in each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CableShape {
    /// Bits of frames per second; `None`: not limited.
    pub rate: Option<NonZeroU64>,
    /// Time from the last bit sent to the last bit received.
    pub delay: Duration,
    /// Frames in a million that are lost.
    pub loss: u32,
    /// Determines which.
    pub seed: u64,
}

/// A learning switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchConfig {
    /// Its name, unique among switches.
    pub name: String,
    /// Indices of its ports, at least two; they have no cable and no wire.
    pub ports: Vec<usize>,
}

/// How a frame is treated that finds no receive buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlowControl {
    /// It is dropped and counted, as a NIC does.
    #[default]
    Drop,
    /// Its sender waits for a bounded time.
    Pause,
}

/// The wire of a port without a cable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireConfig {
    /// Index of the port; it has no cable and no other wire.
    pub port: usize,
    /// The wire.
    pub wire: Wire,
}

/// A wire that does not lead to another port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wire {
    /// The port receives what it sends.
    Loopback,
    /// What the port sends is discarded.
    Null,
    /// The port receives generated frames; what it sends is discarded.
    Generate(Generate),
    /// Frames go over a connection, as QEMU's `-netdev stream` has it.
    Stream(StreamConfig),
    /// Frames go to and come from a tap interface of the host.
    Tap(TapConfig),
    /// The port receives the frames of a capture; what it sends is discarded.
    Replay(ReplayConfig),
}

/// A `stream` wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamConfig {
    /// Who connects.
    pub role: StreamRole,
    /// To or at which address.
    pub address: StreamAddress,
    /// How frames from the peer are treated that find no receive buffer, and those to it that find
    /// a full queue.
    pub flow_control: FlowControl,
}

/// Which end of a connection the wire is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamRole {
    /// It connects, and again when the connection ends.
    Connect,
    /// It accepts one peer at a time.
    Listen,
}

/// The address of a `stream` wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamAddress {
    /// The path of a Unix socket.
    Unix(PathBuf),
    /// An IP address and a TCP port.
    Tcp(SocketAddr),
}

impl Display for StreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// A `tap` wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapConfig {
    /// The name of the interface, made if it does not exist.
    pub name: String,
    /// Its queues, 1 to 16.
    pub queues: usize,
    /// How frames are treated that find no receive buffer or a full queue.
    pub flow_control: FlowControl,
}

/// The most queues of a tap. Each has a thread.
pub(crate) const MAX_TAP_QUEUES: usize = 16;

/// A `pcap` wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayConfig {
    /// The capture, pcap or pcapng.
    pub file: PathBuf,
    /// When its frames are sent.
    pub pace: Pace,
    /// Whether it begins again at its end.
    pub repeats: bool,
}

/// When the frames of a capture are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// At their recorded distances in time.
    #[default]
    Recorded,
    /// As fast as the port has buffers for them.
    Line,
    /// This many frames per second.
    Frames(NonZeroU64),
    /// This many bits of frames per second.
    Bits(NonZeroU64),
}

/// Sizes of generated frames in bytes: at least headers without payload, not padded to Ethernet's
/// minimum.
pub(crate) const SIZES: std::ops::RangeInclusive<u16> = 60..=9216;

/// Numbers of flows of a generator; each flow has a source port.
pub(crate) const FLOWS: std::ops::RangeInclusive<u16> = 1..=60_000;

/// The frames of a `generate` wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generate {
    /// Bytes of a frame, 60 to 9216.
    pub size: u16,
    /// Number of flows whose frames alternate, 1 to 60000.
    pub flows: u16,
    /// Determines payload and addresses.
    pub seed: u64,
}

impl Default for Generate {
    fn default() -> Self {
        Self {
            size: 60,
            flows: 1,
            seed: 1,
        }
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac([u8; 6]);

/// Not an Ethernet address.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not a unicast MAC address of the form 52:54:00:12:34:56")]
pub struct MacError(String);

impl Mac {
    /// The default of zcnic ports: the zcnic driver binds to addresses that start with "ZCN", a
    /// locally administered prefix.
    pub(crate) const ZCNIC: Self = Self([0x5a, 0x43, 0x4e, 0, 0, 1]);
    /// The default of plain ports: QEMU's own range, which is left to virtio_net.
    pub(crate) const PLAIN: Self = Self([0x52, 0x54, 0, 0x7a, 0x63, 1]);

    pub(crate) fn plus(mut self, number: usize) -> Self {
        self.0[5] = self.0[5].wrapping_add(number as u8);
        self
    }
}

impl Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let wrong = || MacError(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts
                .next()
                .filter(|part| part.len() == 2)
                .ok_or_else(wrong)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() || octets[0] & 1 != 0 || octets == [0; 6] {
            return Err(wrong());
        }
        Ok(Self(octets))
    }
}

/// Not a size of memory.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not a size of memory such as 512M or 4G; a number alone means MiB")]
pub(crate) struct MemoryError(String);

/// Checks a size of memory as QEMU writes it.
///
/// # Errors
///
/// Unless it is a positive number, with or without one of the units M, G and T.
pub(crate) fn memory_size(text: &str) -> Result<String, MemoryError> {
    let units = ['M', 'm', 'G', 'g', 'T', 't'];
    let number = text.strip_suffix(units).unwrap_or(text);
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let positive = digits && number.parse::<u64>().is_ok_and(|number| number > 0);
    positive
        .then(|| text.to_owned())
        .ok_or_else(|| MemoryError(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_a_size_that_qemu_takes() {
        for size in ["512", "512M", "2G", "1t"] {
            assert_eq!(memory_size(size), Ok(size.into()));
        }
        for size in [
            "lots",
            "",
            "G",
            "0",
            "0G",
            "-1G",
            "+1G",
            "2GB",
            "1,share=off",
        ] {
            assert_eq!(memory_size(size), Err(MemoryError(size.into())));
        }
    }

    #[test]
    fn mac_addresses() {
        for wrong in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "53:54:00:12:34:56",
            "5:4:0:1:3:6",
        ] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
        assert_eq!(
            "52:54:00:12:34:56"
                .parse::<Mac>()
                .map(|mac| mac.plus(1).to_string()),
            Ok("52:54:00:12:34:57".into())
        );
    }
}
