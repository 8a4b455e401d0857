//! The zcnic backend: vhost-user ports, rings, workers and wires around the device.

pub mod args;
mod backend;
mod command;
mod connection;
mod flow;
mod limit;
mod memory;
mod port;
pub mod qemu;
mod relay;
mod ring;
mod server;
mod socket;
mod vring;
mod wire;
mod worker;

pub use backend::{
    Backend, CableConfig, Config, PortConfig, StartError, Wire, WireConfig, WorkersConfig,
};
pub use port::{FlowControl, MAX_PAIRS, PortMode};
pub use socket::SocketError;
