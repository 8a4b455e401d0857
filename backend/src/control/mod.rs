//! The control plane of a port: commands of the driver, messages of the frontend, requests of the
//! control server.
//!
//! Lock order: the control lock of the port, then one queue at a time. Interrupts are raised when
//! no queue is locked.

pub(crate) mod admin;
pub(crate) mod command;
pub(crate) mod events;
pub(crate) mod faults;
pub(crate) mod frontend;
mod rings;
mod session;
