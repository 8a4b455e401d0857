//! The guest's init, the agent that runs commands for the host, and the set-up of the two ports.

pub mod agent;
pub mod flow_steer;
pub mod init;
pub mod ports;
pub mod snapshot;
