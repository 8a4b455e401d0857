//! `zcnic-guest faults`: the driver under faults of the device (docs/faults.md). Each case arms a
//! fault rule over the control socket, which the guest has as a virtio-serial port, and checks the
//! driver's reaction under traffic. Then it removes the rule and checks that everything is as
//! before: traffic, configuration, the kernel's log, the page pools.

mod case;
mod cases;
mod verify;

use std::process::ExitCode;

use crate::fixture::cases::Selection;

/// Runs cases in which the device misbehaves, and prints a JSON object for each
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    args.selection.run(
        cases::all(),
        |case| case.name,
        |lab, case| verify::verify(lab, case),
    )
}
