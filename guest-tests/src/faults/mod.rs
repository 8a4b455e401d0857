//! `zcnic-guest faults`: the driver under fire. Each case has the device misbehave (docs/faults.md), over
//! the control socket that the guest has as a virtio-serial port, sees what the driver makes of it under
//! traffic, takes the fault away, and sees that everything is as before: traffic, configuration, the
//! kernel's log, the page pools.

mod cases;
mod judge;

use std::process::ExitCode;

use crate::lab::{Lab, cases::each};

/// Has the device misbehave, one case after the other, and prints a JSON object for each
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only cases whose name contains this
    filter: Option<String>,
    /// Print the names of all cases
    #[arg(long)]
    list: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let selected = cases::all().filter(|case| {
        let filter = args.filter.as_deref();
        filter.is_none_or(|filter| case.name.contains(filter))
    });
    if args.list {
        selected.for_each(|case| println!("{}", case.name));
        return Ok(ExitCode::SUCCESS);
    }
    let mut lab = Lab::new()?;
    Ok(each(selected, |case| {
        (case.name, judge::judge(&mut lab, case))
    }))
}
