//! The zcnic backend: vhost-user ports, rings, workers and wires around the device.

mod admin;
pub mod args;
mod backend;
mod capture;
mod command;
mod connection;
mod events;
mod fault;
mod flow;
mod generate;
mod hub;
mod ledger;
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
pub use generate::Generate;
pub use port::{FlowControl, MAX_PAIRS, PortMode};
pub use socket::SocketError;
