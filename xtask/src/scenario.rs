//! `cargo xtask scenario`: shows the kernel's behaviour in cases that users ask about.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};
use serde_json::json;
use zcnic_results::{
    formats,
    report::{Case, Outcome, Report, ReportArg},
};
use zcnic_testbed::{
    backend::Cable,
    paths,
    provision::programs,
    sandbox,
    setup::{GuestArgs, Setup},
    step::{run as run_command, step},
};

use crate::cases::program::{self, CaseProgress};

/// Show what the kernel does when, for instance, buffers run out: the steps, the observed values,
/// and the reason
///
/// Every value that is shown is checked. docs/scenarios.md has the output of all scenarios.
/// The results are also written as KTAP (FILE.ktap) and JUnit (FILE.xml) beside the report FILE.json.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    report: ReportArg,
    /// Only list the scenarios
    #[arg(long)]
    list: bool,
    /// Names of scenarios; without names all of them, in one guest
    names: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    formats::check(&args.report)?;
    args.guest.check()?;
    // The program lists its scenarios on the host, too.
    let program = programs::build()?.zcnic_guest;
    let list = |how: &[&str]| {
        run_command(
            Command::new(&program)
                .args(["scenarios", "--list"])
                .args(how),
        )
    };
    if args.list {
        print!("{}", list(&[])?);
        return Ok(ExitCode::SUCCESS);
    }
    let known = list(&["--json"])?;
    let known: Vec<_> = known.lines().collect();
    if let Some(name) = args
        .names
        .iter()
        .find(|name| !known.contains(&name.as_str()))
    {
        let list = paths::invocation("scenario --list");
        bail!("there is no scenario {name}; `{list}` names them");
    }
    let wanted = if args.names.is_empty() {
        known
    } else {
        args.names.iter().map(String::as_str).collect()
    };
    sandbox::clean_up_on_signals()?;
    let setup = Setup::for_zero_copy(&args.guest)?;
    let mut report = Report::default();
    report.extra.extend(setup.facts());
    report
        .extra
        .insert("commit".to_owned(), json!(paths::commit()));
    let mut guest = setup.boot(&setup.machine(), Cable::Drop)?;
    step("bring up two ports, cabled", || {
        guest.bring_up(setup.driver())
    })?;
    let words = [&["scenarios", "--json"], &wanted[..]].concat();
    let played = program::run(
        &mut guest,
        &words,
        &wanted,
        &mut |progress| match progress {
            CaseProgress::Line(text) => println!("{text}"),
            CaseProgress::Ended(case) => {
                ended(&case);
                report.cases.push(case);
            }
        },
    );
    let end = step("look for warnings and leaks, power off", || guest.finish());
    println!("{}", report.summary());
    formats::write(&args.report, "scenario", &report)?;
    end?;
    // Failures were printed with their cases.
    Ok(if played.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn ended(case: &Case) {
    let Case {
        name,
        outcome,
        seconds,
        ..
    } = case;
    if *outcome != Outcome::Pass {
        println!("  {}", case.detail.lines().last().unwrap_or_default());
    }
    println!("{:5} {seconds:6.1}s  {name}\n", outcome.word());
}
