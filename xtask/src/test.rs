//! `cargo xtask test`: every test there is, except the kernel's selftests.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    cargo_tests,
    report::{Outcome, Report, ReportArg},
};

/// Run every test: unit, in-process driver and device, vhost-user frontend, guest
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only tests whose name contains FILTER
    filter: Option<String>,
    #[command(flatten)]
    report: ReportArg,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut report = Report::default();
    cargo_tests::run(args.filter.as_deref(), &mut report)?;
    args.report.write(&report.to_json())?;
    println!("{}", report.summary());
    Ok(if report.count(Outcome::Fail) == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
