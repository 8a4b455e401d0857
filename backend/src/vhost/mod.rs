//! The vhost-user side of a port: a frontend's connection, and rings as the vhost-user crate sees
//! them.
//!
//! The functions of `control::frontend` that it calls take their locks themselves; no lock is held
//! here.

pub(crate) mod arrivals;
pub(crate) mod connection;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
pub(crate) mod gate;
mod private;
mod relay;
mod vring;
