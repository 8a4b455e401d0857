//! Everything that runs inside the guest: init, zero-copy receive scenarios, selftest runner.
//!
//! One module per subcommand of `zcnic-guest`. Each has `Args` (its command line) and
//! `run(&Args) -> anyhow::Result<ExitCode>`; `main.rs` only dispatches.

pub mod checks;
mod fixture;
pub mod kit;
pub mod runtime;
pub mod suites;
pub mod traffic;
