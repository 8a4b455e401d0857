//! The zcnic backend: vhost-user ports, rings, workers and wires around the device.

pub mod args;
mod backend;
mod control;
mod datapath;
mod events;
mod limit;
mod memory;
mod port;
mod protocol;
pub mod qemu;
mod ring;
mod server;
mod socket;
mod timer;
mod vhost;
mod worker;

pub use backend::{
    Backend, CableConfig, Config, PortConfig, StartError, Wire, WireConfig, WorkersConfig,
};
pub use datapath::generate::Generate;
pub use port::{FlowControl, MAX_PAIRS, PortMode};
pub use socket::SocketError;
