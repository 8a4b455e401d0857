//! The control protocol of zcnic and a client for it (docs/control-protocol.md).

#![forbid(unsafe_code)]

pub mod client;
pub mod protocol;
mod stream;
