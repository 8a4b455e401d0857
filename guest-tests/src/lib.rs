//! What runs inside the guest: init, zero-copy receive scenarios, selftest runner.
//!
//! One module per subcommand of `zcnic-guest`. Each has `Args` (its command line) and
//! `run(&Args) -> anyhow::Result<ExitCode>`; `main.rs` only dispatches.

pub mod agent;
mod bpf;
pub mod compare;
pub mod devmem;
pub mod dmabuf;
pub mod echo;
pub mod faults;
pub mod gate;
pub mod genl;
pub mod init;
pub mod kselftest;
pub mod ktap;
mod lab;
pub mod link;
mod mapped;
pub mod memory;
pub mod net;
pub mod pattern;
pub mod ports;
pub mod progress;
mod provided;
pub mod receive;
pub mod scenarios;
pub mod send;
pub mod socket;
pub mod steer;
pub mod systems;
pub mod volley;
pub mod zcrx;
