//! `cargo xtask test`: all tests except the kernel's selftests.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;
use zcnic_results::{
    formats,
    report::{Outcome, Report, ReportArg},
};
use zcnic_testbed::{paths, sandbox, setup::GuestArgs};

use crate::cases::{self, cargo_tests};

/// Run the tests: unit, in-process driver and device, vhost-user frontend, guest
///
/// The guest tests of the receive-path features and of the seeded bugs, and those of the packages, take minutes each,
/// and run with --all or if FILTER names them. FILTER `hostile` runs the attacks on the backend and nothing
/// else. The results are also written as KTAP (FILE.ktap) and
/// JUnit (FILE.xml) beside the report FILE.json.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only tests whose name contains FILTER
    filter: Option<String>,
    /// Every test, the long groups included
    #[arg(long, conflicts_with_all = ["filter", "no_guest"])]
    all: bool,
    /// Leave out the tests that boot guests or run whole programs
    #[arg(long)]
    no_guest: bool,
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    report: ReportArg,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    formats::check(&args.report)?;
    sandbox::clean_up_on_signals()?;
    args.guest.check()?;
    let filter = args.filter.as_deref();
    let mut report = Report::default();
    report
        .extra
        .insert("commit".to_owned(), json!(paths::commit()));
    // Guest tests have sentences as names; no Rust test has a space in its name.
    if filter.is_none_or(|filter| !filter.contains(' ')) {
        cargo_tests::run(filter, &mut report)?;
    }
    let guests = if args.no_guest {
        Ok(())
    } else {
        cases::run(&args.guest, filter, args.all, &mut report)
    };
    // Results so far are reported even if a guest test could not be set up.
    println!("{}", report.summary());
    formats::write(&args.report, "test", &report)?;
    guests?;
    if report.cases.is_empty()
        && let Some(filter) = filter
    {
        anyhow::bail!("no test's name contains {filter:?}");
    }
    Ok(if report.count(Outcome::Fail) == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
