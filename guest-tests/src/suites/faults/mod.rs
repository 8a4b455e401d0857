//! `zcnic-guest faults`: the driver under fire. Each case has the device misbehave (docs/faults.md), over
//! the control socket that the guest has as a virtio-serial port, sees what the driver makes of it under
//! traffic, takes the fault away, and sees that everything is as before: traffic, configuration, the
//! kernel's log, the page pools.

mod case;
mod cases;
mod verify;

use std::process::ExitCode;

use crate::fixture::cases::Selection;

/// Has the device misbehave, one case after the other, and prints a JSON object for each
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
