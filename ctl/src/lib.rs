//! The control protocol of zcnic and a client for it (docs/control-protocol.md).
//!
//! A test arms a fault, waits for it, and removes it:
//!
//! ```no_run
//! use std::{path::Path, time::Duration};
//!
//! use zcnic_ctl::{Action, Client, FaultRule};
//!
//! let mut client = Client::connect(Path::new("/run/zcnic.ctl"))?;
//! let mut fault = client.fault("1", &FaultRule::rx(Action::Drop).nth(3))?;
//! // … traffic …
//! let status = fault.wait(1, Duration::from_secs(5))?;
//! assert_eq!(status.hits, 1);
//! fault.remove()?;
//! # Ok::<(), zcnic_ctl::ClientError>(())
//! ```
//!
//! Backends of later versions may send members, events and words that this version does not know.
//! Members are ignored; words become `Other`, and an event [`Event::Other`].

#![forbid(unsafe_code)]

pub mod client;
mod commands;
pub mod protocol;
#[cfg(feature = "schema")]
pub mod schema;
mod stream;

pub use client::{Client, ClientError};
pub use commands::Fault;
pub use protocol::{
    FlowMatch, Protocol,
    event::{Event, EventKind},
    fault::{Action, Direction, FaultId, FaultRule},
    ledger::{LedgerMode, LedgerSet},
};
