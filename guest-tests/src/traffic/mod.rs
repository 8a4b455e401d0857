//! Programs that send and receive over the two ports.

pub mod echo;
pub mod pattern;
pub mod progress;
pub mod receive;
pub mod send;
pub mod udp_ping;
