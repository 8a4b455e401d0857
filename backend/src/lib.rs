//! The zcnic backend: vhost-user ports, rings, workers and wires around the device.

pub mod args;
mod backend;
mod captures;
mod config;
mod control;
mod datapath;
mod entry;
mod events;
mod index;
mod limit;
mod memory;
mod port;
mod protocol;
pub mod qemu;
mod ring;
mod server;
mod services;
mod socket;
mod sync;
mod thread;
mod timer;
mod vhost;
mod waker;
mod worker;

pub use backend::{Backend, StartError};
pub use config::{
    CableConfig, Config, FlowControl, Generate, MAX_PAIRS, Mac, MacError, PortConfig, PortMode,
    Wire, WireConfig, WorkersConfig,
};
pub use socket::SocketError;
