//! Faults of commands.

use crate::abi::Status;

/// What happens to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandFault {
    /// It is answered with an error and not executed.
    Error {
        /// Not [`Status::Ok`] nor [`Status::Accepted`].
        status: Status,
        /// What the response says in particular.
        detail: u32,
    },
    /// It is not answered in time.
    Timeout {
        /// Whether it is executed nevertheless.
        executed: bool,
        /// How late the answer comes; `None`: not before the rule is
        /// removed or the ring stops.
        nanoseconds: Option<u64>,
    },
}
