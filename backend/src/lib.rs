//! The zcnic backend: vhost-user ports, rings, workers and wires around the device.
//!
//! The modules are layers, from the lowest to the highest: leaves, `ring`, `port`, `datapath`,
//! `control`, `vhost`, `worker`, `entry` and `wire`, `server`, `backend`. A module imports modules of lower
//! layers, and of its own folder without circles.
//!
//! The order of the layers is the order of the locks. A thread takes them downwards: the lists of
//! the server and the slot of a frontend, the control lock of a port, a transmit queue, a receive
//! queue, the locks of leaves. The head of each module says which locks it takes.

pub mod args;
mod backend;
mod captures;
mod config;
mod control;
mod datapath;
mod descriptors;
mod entry;
mod events;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod index;
#[cfg(feature = "fuzzing")]
mod input;
mod limit;
mod memory;
mod notifier;
mod port;
mod protocol;
pub mod qemu;
mod ring;
mod sandbox;
mod server;
mod services;
mod socket;
pub mod stderr;
mod sync;
mod thread;
mod timer;
mod vhost;
mod waker;
mod wire;
mod worker;

pub use backend::{Backend, StartError};
pub use config::{
    CableConfig, CableShape, Config, FlowControl, Generate, MAX_PAIRS, Mac, MacError, Pace,
    PortConfig, PortMode, ReplayConfig, SocketMode, SocketModeError, StreamAddress, StreamConfig,
    StreamRole, SwitchConfig, TapConfig, Wire, WireConfig, WorkersConfig,
};
pub use descriptors::TooFewDescriptors;
pub use limit::BoundedLog;
pub use sandbox::{FilesError, SandboxError, SandboxMode, allowed_calls, refused_calls};
pub use socket::{SocketError, adopt_passed};
pub use wire::WireError;
