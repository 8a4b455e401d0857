//! `cargo xtask test`: every test there is, except the kernel's selftests.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use crate::{
    cargo_tests, cases,
    report::{Outcome, Report, ReportArg},
    sandbox,
    setup::{GuestArgs, Setup},
};

/// Run every test: unit, in-process driver and device, vhost-user frontend, guest
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only tests whose name contains FILTER
    filter: Option<String>,
    /// Only those that need no guest
    #[arg(long, conflicts_with = "only_guest")]
    no_guest: bool,
    /// Only those that need a guest
    #[arg(long)]
    only_guest: bool,
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    report: ReportArg,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    sandbox::clean_up_on_signals()?;
    let mut report = Report::default();
    let result = fill(args, &mut report);
    // What was found out so far is worth having, whatever came between.
    if let Err(error) = &result {
        report
            .extra
            .insert("error".to_owned(), json!(format!("{error:#}")));
    }
    args.report.write(&report.to_json())?;
    result?;
    println!("{}", report.summary());
    Ok(if report.count(Outcome::Fail) == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn fill(args: &Args, report: &mut Report) -> Result<()> {
    let filter = args.filter.as_deref();
    if !args.only_guest {
        cargo_tests::run(filter, report)?;
    }
    if !args.no_guest && !cases::names(filter).is_empty() {
        let setup = Setup::new(&args.guest)?;
        setup.kernel.require_zcrx()?;
        report
            .extra
            .insert("kernel".to_owned(), json!(setup.kernel.release));
        report
            .extra
            .insert("qemu".to_owned(), json!(setup.qemu.version));
        report
            .extra
            .insert("acceleration".to_owned(), json!(setup.acceleration.name()));
        cases::run(&setup, filter, report)?;
    }
    Ok(())
}
