//! `zcnic-guest faults`: the driver under fire. Each case has the device misbehave (docs/faults.md), over
//! the control socket that the guest has as a virtio-serial port, sees what the driver makes of it under
//! traffic, takes the fault away, and sees that everything is as before: traffic, configuration, the
//! kernel's log, the page pools.

mod cases;
mod lab;
mod traffic;

use std::{process::ExitCode, time::Instant};

use serde::Serialize;

use crate::progress::say_result;
use lab::Lab;

/// Has the device misbehave, one case after the other, and prints a JSON object for each
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only cases whose name contains this
    filter: Option<String>,
    /// Print the names of all cases
    #[arg(long)]
    list: bool,
}

/// The end of a case.
#[derive(Serialize)]
struct Report<'a> {
    case: &'a str,
    error: Option<String>,
    seconds: f64,
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
    let mut failed = false;
    for case in selected {
        let started = Instant::now();
        let result = lab.judge(case);
        failed |= result.is_err();
        say_result(&Report {
            case: case.name,
            error: result.err().map(|error| format!("{error:#}")),
            seconds: started.elapsed().as_secs_f64(),
        });
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
