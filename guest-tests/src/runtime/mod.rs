//! A guest's life: its init, the agent that runs commands for the host, the two ports.

pub mod agent;
pub mod flow_steer;
pub mod init;
pub mod ports;
pub mod snapshot;
