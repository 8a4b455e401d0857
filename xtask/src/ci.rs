//! `cargo xtask ci`: everything that must hold of a commit.

use std::{process::ExitCode, time::Instant};

use anyhow::{Context, Result};
use serde_json::json;
use zcnic_results::report::{Case, Outcome, Report, ReportArg};
use zcnic_testbed::{paths, sandbox};

/// Format, lints, the driver on all kernels, the demo, benchmarks as a smoke test, the kernel's selftests, and every
/// test
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    report: ReportArg,
}

/// A part, and the command that decides about it.
struct Part {
    name: &'static str,
    /// A cargo subcommand.
    command: &'static [&'static str],
}

/// Which of the README's columns is of what runs here: the selftests of memory providers on Debian's kernel.
pub(crate) const SELFTESTS_REPORT: &str = "stock";

/// The last one is what the README tells people to run, and its closing line is ours.
const PARTS: [Part; 8] = [
    Part {
        name: "format",
        command: &["fmt", "--all", "--check"],
    },
    Part {
        name: "lints",
        command: &[
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
    },
    Part {
        name: "driver",
        command: &["xtask", "driver"],
    },
    Part {
        name: "demo",
        command: &["xtask", "demo"],
    },
    Part {
        name: "benchmarks",
        command: &["xtask", "bench", "--quick"],
    },
    Part {
        name: "selftests",
        command: &["xtask", "kselftest", "--suite", "memory-providers"],
    },
    Part {
        name: "gro",
        command: &["xtask", "kselftest", "gro_hw.py"],
    },
    Part {
        name: "tests",
        command: &["xtask", "test"],
    },
];

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    sandbox::clean_up_on_signals()?;
    let mut report = Report::default();
    let start = Instant::now();
    for part in &PARTS {
        let last = part.name == PARTS[PARTS.len() - 1].name;
        if last {
            // Before it, so that its closing line stays the last.
            report.cases.iter().for_each(Case::print);
        }
        let case = run_part(part)?;
        if last {
            eprintln!("{:6.1}s  ci", start.elapsed().as_secs_f64());
        }
        report.cases.push(case);
    }
    report
        .extra
        .insert("seconds".to_owned(), json!(start.elapsed().as_secs_f64()));
    args.report.write(&report.to_json())?;
    Ok(if report.count(Outcome::Fail) == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs a part with its output going where ours goes.
fn run_part(part: &Part) -> Result<Case> {
    eprintln!("         {}: cargo {}", part.name, part.command.join(" "));
    let start = Instant::now();
    let status = paths::cargo()
        .args(part.command)
        .status()
        .context("cannot run cargo")?;
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("{seconds:6.1}s  {}", part.name);
    Ok(Case {
        name: part.name.to_owned(),
        outcome: if status.success() {
            Outcome::Pass
        } else {
            Outcome::Fail
        },
        seconds,
        detail: if status.success() {
            String::new()
        } else {
            format!("cargo {} ended with {status}", part.command.join(" "))
        },
    })
}
