//! `zcnic-guest soak`: operations of a soak, one per line of standard input, and the end of each,
//! one per line of standard output. The host generates them; a log of them can be replayed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An operation. Those of [`Operation::is_of_host`] are carried out by the host.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Operation {
    /// A TCP stream, received by plain reads, that goes on in the background.
    Stream {
        /// Its length.
        bytes: u64,
    },
    /// The same, received by io_uring zero-copy receive.
    ZeroCopy {
        /// Receive queue.
        queue: u32,
        /// Its length.
        bytes: u64,
    },
    /// The same, received by devmem TCP.
    Devmem {
        /// Receive queue.
        queue: u32,
        /// Its length.
        bytes: u64,
    },
    /// Kills the receiver of the oldest stream that has one.
    KillReceiver,
    /// A program that sends datagrams back, until the next quiet point.
    Echo {
        /// How.
        by: EchoBy,
        /// Receive queue of an AF_XDP socket.
        queue: u32,
    },
    /// Kills the oldest echo.
    KillEcho,
    /// `ethtool -L`.
    Channels {
        /// Combined channels.
        count: u32,
    },
    /// `ethtool -G`.
    Rings {
        /// Receive descriptors.
        rx: u32,
        /// Transmit descriptors.
        tx: u32,
    },
    /// `ethtool -G tcp-data-split`.
    Split {
        /// Whether headers are split from payload.
        on: bool,
    },
    /// `ethtool -K`.
    Feature {
        /// As ethtool calls it.
        name: String,
        /// Its new state.
        on: bool,
    },
    /// `ethtool -C`.
    Coalesce {
        /// Microseconds until a receive interrupt.
        rx: u32,
        /// Microseconds until a transmit interrupt.
        tx: u32,
    },
    /// `ethtool -X equal`.
    Spread {
        /// Number of queues, from queue 0 on.
        queues: u32,
    },
    /// `ethtool -X context new`, or the deletion of the oldest such context.
    Context {
        /// Whether a context is made.
        new: bool,
    },
    /// `ethtool -N`: a flow rule that nothing matches.
    Rule {
        /// Location.
        location: u32,
        /// Receive queue.
        queue: u32,
    },
    /// `ethtool -N delete`.
    DeleteRule {
        /// Location.
        location: u32,
    },
    /// The MTU of both ports.
    Mtu {
        /// Bytes.
        bytes: u32,
    },
    /// A port goes down and up.
    Flap {
        /// 0 or 1.
        port: usize,
        /// Milliseconds in between.
        milliseconds: u64,
    },
    /// A port moves to another network namespace, and back.
    Namespace {
        /// 0 or 1.
        port: usize,
    },
    /// Suspends and resumes all devices (`pm_test`).
    Suspend,
    /// Lets everything run for a time.
    Wait {
        /// Milliseconds.
        milliseconds: u64,
    },
    /// Waits until all streams have ended, checks that every byte was right, closes everything,
    /// restores all settings, and checks the kernel's log and page pools and that traffic flows.
    Quiet,
    /// Adds a fault rule to a port of the device.
    Fault {
        /// 0 or 1.
        port: usize,
        /// Arguments of `zcnicctl fault add`.
        rule: Vec<String>,
    },
    /// Removes all fault rules.
    Disarm,
    /// `zcnicctl link`: no carrier for a time.
    Carrier {
        /// 0 or 1.
        port: usize,
        /// Milliseconds.
        milliseconds: u64,
    },
    /// `zcnicctl reset`: the device loses its configuration.
    Reset {
        /// 0 or 1.
        port: usize,
    },
    /// `zcnicctl disconnect`: the frontend of a port has to connect again.
    Disconnect {
        /// 0 or 1.
        port: usize,
    },
    /// The backend is killed, and started again after a time.
    KillBackend {
        /// Milliseconds.
        milliseconds: u64,
    },
    /// The backend is stopped by SIGSTOP for a time.
    PauseBackend {
        /// Milliseconds.
        milliseconds: u64,
    },
    /// The machine is stopped by QEMU's monitor for a time.
    PauseMachine {
        /// Milliseconds.
        milliseconds: u64,
    },
}

/// How datagrams are sent back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EchoBy {
    /// By an XDP program.
    Tx,
    /// Through an AF_XDP socket.
    Socket,
}

impl Operation {
    /// Whether the host carries it out, and not the guest.
    #[must_use]
    pub fn is_of_host(&self) -> bool {
        matches!(
            self,
            Self::Fault { .. }
                | Self::Disarm
                | Self::Carrier { .. }
                | Self::Reset { .. }
                | Self::Disconnect { .. }
                | Self::KillBackend { .. }
                | Self::PauseBackend { .. }
                | Self::PauseMachine { .. }
        )
    }

    /// Time limit of the operation in the guest, on a busy host.
    #[must_use]
    pub fn patience(&self) -> Duration {
        match self {
            Self::Quiet => Duration::from_secs(420),
            _ => Duration::from_secs(180),
        }
    }
}

/// The end of an operation in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationEnd {
    /// It was done.
    Done,
    /// The kernel refused it, as it may in this state.
    Refused(String),
    /// It failed, or an invariant does not hold.
    Failed(String),
}
