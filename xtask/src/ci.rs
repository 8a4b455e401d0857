//! `cargo xtask ci`: everything that must hold of a commit.

use std::{
    env,
    io::{BufRead, BufReader},
    mem,
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    paths,
    report::{Case, Outcome, Report, ReportArg},
    sandbox,
};

/// Format, lints, the driver on all kernels, the kernel's selftests, the demo, and every test
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

/// The last one is what the README tells people to run, and its closing line is ours.
const PARTS: [Part; 6] = [
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
        name: "selftests",
        command: &[
            "xtask",
            "kselftest",
            "iou-zcrx.py",
            "queues.py",
            "napi_id.py",
        ],
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
    let mut closing = String::new();
    for part in &PARTS {
        if !closing.is_empty() {
            println!("{closing}");
        }
        let (case, last_line) = run_part(part)?;
        report.cases.push(case);
        closing = last_line;
    }
    eprintln!("{:6.1}s  ci", start.elapsed().as_secs_f64());
    report
        .extra
        .insert("seconds".to_owned(), json!(start.elapsed().as_secs_f64()));
    args.report.write(&report.to_json())?;
    report.cases.iter().for_each(Case::print);
    println!("{closing}");
    Ok(if report.count(Outcome::Fail) == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs a part, passing its output on except for the last line, which is returned.
fn run_part(part: &Part) -> Result<(Case, String)> {
    eprintln!("         {}: cargo {}", part.name, part.command.join(" "));
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let start = Instant::now();
    let mut child = Command::new(cargo)
        .args(part.command)
        .current_dir(paths::workspace())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let mut last = String::new();
    for line in BufReader::new(stdout).lines() {
        let before = mem::replace(&mut last, line?);
        if !before.is_empty() {
            println!("{before}");
        }
    }
    let status = child.wait()?;
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("{seconds:6.1}s  {}", part.name);
    let (outcome, detail) = if status.success() {
        (Outcome::Pass, String::new())
    } else {
        let words = part.command.join(" ");
        (Outcome::Fail, format!("cargo {words} ended with {status}"))
    };
    let case = Case {
        name: part.name.to_owned(),
        outcome,
        seconds,
        detail,
    };
    Ok((case, last))
}
