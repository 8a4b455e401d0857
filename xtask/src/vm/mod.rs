//! `cargo xtask vm`: a guest to work in.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;
use zcnic_results::report::ReportArg;
use zcnic_testbed::{
    backend::Cable,
    sandbox,
    setup::{GuestArgs, PORTS, Setup},
    step::{since_call, step},
};

mod session;

/// Boot a guest with two ports, for a shell or for one command
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    report: ReportArg,
    /// Run this in the guest, pass on its input, output and exit status, and power off
    #[arg(last = true)]
    command: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    sandbox::clean_up_on_signals()?;
    let setup = Setup::new(&args.guest)?;
    let mut guest = setup.boot(&setup.machine(), Cable::Drop)?;
    let first_output = since_call()?;
    step(&format!("bring up {} ports", PORTS.len()), || {
        guest.bring_up(setup.driver())
    })?;
    let agent = guest.agent().clone();
    let status = session::run(&agent, &args.command).map_err(|error| guest.explain(&error))?;
    let report = json!({
        "status": status.code(),
        "kernel": guest.kernel,
        "qemu": setup.qemu.version,
        "acceleration": setup.acceleration.name(),
        "boot_seconds": guest.boot.as_secs_f64(),
        "first_output_seconds": first_output.as_secs_f64(),
    });
    guest.power_off()?;
    args.report.write(&report)?;
    Ok(ExitCode::from(status.code()))
}
