//! Events: lines on standard output of programs that run for a while. The last one is the result.
//!
//! | program | result |
//! |---|---|
//! | `zcnic-guest receive` | [`ReceiveResult`] |
//! | `zcnic-guest send` | [`SendResult`] |
//! | `zcnic-guest udp-ping` | [`UdpPingResult`] |
//! | `zcnic-guest echo` | none: it runs until it is killed |
//! | `zcnic-guest faults`, `features`, `scenarios --json` | [`CaseEnd`], one per case |

use serde::{Deserialize, Serialize};

use crate::interface::PagePool;

/// One line while a program runs.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<R> {
    /// The receiver accepts its connection now.
    Listening {
        /// TCP port.
        port: u16,
    },
    /// The connection is established.
    Connected {
        /// Address and port of the other side.
        peer: String,
    },
    /// Bytes have moved; at most once per second, and once after each stall.
    Progress {
        /// Bytes sent, or received and verified, so far.
        bytes: u64,
    },
    /// Data has arrived and stays in its buffers (`receive --hold`).
    Held,
    /// A line for people, of the case that runs.
    Line {
        /// The line, without its end.
        text: String,
    },
    /// Datagrams are sent back from now on.
    Echoing {
        /// Whether the device uses the memory of the AF_XDP socket; false if there is none.
        zero_copy: bool,
    },
    /// No byte has moved for a second; once per stall.
    Stalled {
        /// Bytes sent, or received and verified, so far.
        bytes: u64,
    },
    /// The result of a program, or the end of a case.
    Result(R),
}

/// The result of a program that has none, such as `zcnic-guest echo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum NoResult {}

/// The beginning of [`ReceiveResult::error`] if the sender closed before all bytes had come.
pub const ENDED_EARLY: &str = "the stream ended after ";

/// The result of `zcnic-guest receive`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct ReceiveResult {
    /// All bytes came and match the pattern.
    pub ok: bool,
    /// Why not, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Interface whose queue received; None for plain reads and without a device.
    pub interface: Option<String>,
    /// That queue.
    pub queue: Option<u32>,
    /// Bytes that came and match the pattern.
    pub bytes_verified: u64,
    /// Bytes that the kernel copied, by its zero-copy receive statistics; None if it has none.
    pub bytes_copied: Option<u64>,
    /// Times that it copied.
    pub copies: Option<u64>,
    /// Bytes per receive buffer.
    pub rx_buf_len: Option<u32>,
    /// Pieces that the data came in.
    pub completions: u64,
    /// Requests made: more than one if the kernel ended one early, or with `--oneshot`.
    pub requests: u64,
    /// The interface's page pools at the end, while the queue was still bound.
    pub page_pool: Vec<PagePool>,
    /// The guest's kernel release.
    pub kernel: String,
    /// From the start of the program to its end.
    pub seconds: f64,
}

impl ReceiveResult {
    /// Whether the stream was right as far as it went, but the sender closed too early.
    #[must_use]
    pub fn ended_early(&self) -> bool {
        self.error
            .as_deref()
            .is_some_and(|error| error.starts_with(ENDED_EARLY))
    }

    /// The page pool that takes its memory from io_uring.
    #[must_use]
    pub fn io_uring_pool(&self) -> Option<&PagePool> {
        self.page_pool
            .iter()
            .find(|pool| pool.io_uring_rx_buf_len.is_some())
    }
}

/// The result of `zcnic-guest send`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct SendResult {
    /// Everything was sent, and the receiver closed after it.
    pub ok: bool,
    /// Why not, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Bytes that the kernel took.
    pub bytes_sent: u64,
    /// From the start of the program to its end.
    pub seconds: f64,
}

/// The result of `zcnic-guest udp-ping`. If a datagram does not come back, there is no result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct UdpPingResult {
    /// Datagrams that came back.
    pub datagrams: u32,
    /// Their payload bytes, all of which match the pattern.
    pub bytes_verified: u64,
}

/// The end of a case of `zcnic-guest faults`, `features` or `scenarios`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct CaseEnd {
    /// Name of the case.
    pub case: String,
    /// Why it failed; None if it passed.
    pub error: Option<String>,
    /// How long it took.
    pub seconds: f64,
}
