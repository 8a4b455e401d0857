//! The zcnic backend: vhost-user ports, rings, workers and wires around the device.

mod limit;
mod memory;
mod relay;
