//! Faults of commands.

use crate::abi::Status;

/// The fault of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandFault {
    /// The device answers with an error and does not execute the command.
    Error {
        /// Any status but [`Status::Ok`] and [`Status::Accepted`].
        status: Status,
        /// The detail of the response.
        detail: u32,
    },
    /// The answer is late.
    Timeout {
        /// Whether the device executes the command nevertheless.
        executed: bool,
        /// The delay of the answer; `None`: until the rule is removed or the ring stops.
        nanoseconds: Option<u64>,
    },
}
