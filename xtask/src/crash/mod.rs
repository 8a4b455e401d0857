//! `cargo xtask crash`: processes are killed or paused at every moment, and everything recovers.

mod frontend;
mod guest;
mod point;
mod tally;

use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::json;
use zcnic_results::{
    formats,
    report::{Outcome, Report, ReportArg},
};
use zcnic_testbed::{
    paths, sandbox,
    setup::{GuestArgs, Setup},
};

use self::tally::Tally;

/// Kill (SIGKILL) or pause (SIGSTOP) the backend, frontends, QEMU, programs and control clients
/// while they are at work, and check that everything recovers
///
/// A point is LEVEL/VICTIM/WORK/BLOW, such as frontend/backend/traffic/kill. On the level
/// `frontend` the model driver speaks vhost-user to the backend, 500 times a minute; on the level
/// `guest` it is a guest's kernel. Afterwards frames flow, every buffer was returned, the kernel's
/// log is clean, and the backend has as many descriptors as before.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Times that each point is tried; the time of the blow is drawn from the seed
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only points whose name contains this
    #[arg(long, value_name = "NAME", default_value = "")]
    point: String,
    /// Print the names of the points, and try none
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    report: ReportArg,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    formats::check(&args.report)?;
    args.guest.check()?;
    let frontend = frontend::points(&args.point)?;
    let guests = point::points(&args.point);
    let names = || {
        frontend
            .iter()
            .cloned()
            .chain(guests.iter().map(ToString::to_string))
    };
    if names().next().is_none() {
        bail!(
            "no point's name contains {:?}: --list names them",
            args.point
        );
    }
    if args.list {
        names().for_each(|name| println!("{name}"));
        return Ok(ExitCode::SUCCESS);
    }
    sandbox::clean_up_on_signals()?;
    let seeds = args.seed..args.seed.saturating_add(args.seeds);
    let mut tally = Tally::default();
    let mut report = Report::default();
    report
        .extra
        .insert("commit".to_owned(), json!(paths::commit()));
    if !frontend.is_empty() {
        frontend::run(&frontend, &seeds, &mut tally)?;
        tally.print();
    }
    let ended = if guests.is_empty() {
        Ok(())
    } else {
        let setup = Setup::for_zero_copy(&args.guest)?;
        report.extra.extend(setup.facts());
        guest::run(&setup, &guests, &seeds, &mut tally)
    };
    report.cases = tally.cases();
    report.extra.insert("points".to_owned(), tally.to_json());
    println!("{}", report.summary());
    formats::write(&args.report, "crash", &report)?;
    ended?;
    Ok(if report.count(Outcome::Fail) == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
