//! `cargo xtask ci`: runs the parts of CI and records when each last succeeded.

use std::{
    cell::OnceCell,
    fs,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use zcnic_results::{
    formats,
    report::{Case, Outcome, Report, ReportArg},
};
use zcnic_testbed::{
    paths,
    provision::host,
    sandbox,
    step::{self, describe},
};

pub(crate) mod parts;
pub(crate) mod record;
mod tools;

use parts::{PARTS, Part, Run, Tool};
use record::Record;
use tools::Tools;

/// Run the parts of CI: those of every submission, all with --all, or those that are named
///
/// Parts run one after the other; one that fails does not keep the next from running. A success of a part that not
/// every submission runs is noted in docs/reports/ci.json and docs/ci.md, if nothing but docs was changed since the
/// commit. Parts whose reports the documents show update these. The results are also written as KTAP (FILE.ktap) and
/// JUnit (FILE.xml) beside the report FILE.json.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Every part: other kernels, all suites of selftests, seeded bugs, benchmarks
    #[arg(long, conflicts_with = "parts")]
    all: bool,
    /// List the parts: when each runs, and when it last succeeded
    #[arg(long)]
    list: bool,
    /// Only these parts
    #[arg(value_name = "PART", value_parser = PARTS.map(|part| part.name))]
    parts: Vec<String>,
    #[command(flatten)]
    report: ReportArg,
}

/// The README's column of the selftests that run here: those of memory providers on Debian's kernel.
pub(crate) const SELFTESTS_REPORT: &str = "stock";

impl Args {
    fn selects(&self, part: &Part) -> bool {
        if self.parts.is_empty() {
            part.tier.runs(self.all)
        } else {
            self.parts.iter().any(|name| name == part.name)
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.list {
        list(&Record::read()?);
        return Ok(ExitCode::SUCCESS);
    }
    formats::check(&args.report)?;
    sandbox::clean_up_on_signals()?;
    let commit = record::commit();
    let (selected, left_out): (Vec<_>, Vec<_>) = PARTS.iter().partition(|part| args.selects(part));
    let mut report = Report::default();
    let start = Instant::now();
    let programs = Programs::default();
    for (index, part) in selected.iter().enumerate() {
        if index + 1 == selected.len() {
            // Before the last part, so that its closing line stays the last.
            report.cases.iter().for_each(Case::print);
        }
        let case = run_part(part, &programs);
        if case.outcome == Outcome::Pass
            && part.tier.is_recorded()
            && let Some(commit) = &commit
        {
            Record::note(part.name, commit, case.seconds)?;
            cargo(&["xtask", "tables"])?;
        }
        report.cases.push(case);
    }
    let seconds = start.elapsed().as_secs_f64();
    let record = Record::read()?;
    minutes(&report, seconds, &left_out, &record);
    report.extra.insert("seconds".to_owned(), json!(seconds));
    let known = left_out
        .iter()
        .map(|part| (part.name.to_owned(), json!(record.of(part.name))));
    let known: Map<String, Value> = known.collect();
    report.extra.insert("left_out".to_owned(), json!(known));
    formats::write(&args.report, "ci", &report)?;
    Ok(if report.count(Outcome::Fail) == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn list(record: &Record) {
    for part in &PARTS {
        println!("{:12}  {}", part.name, when(part, record));
        println!("{:14}{}", "", part.about);
    }
}

/// When a part runs, and when it last succeeded if not every submission runs it.
fn when(part: &Part, record: &Record) -> String {
    let tier = part.tier.name();
    if !part.tier.is_recorded() {
        return tier.to_owned();
    }
    record.of(part.name).map_or_else(
        || format!("{tier}; no success on record"),
        |success| format!("{tier}; last succeeded {}", success.words()),
    )
}

/// Prints the minutes per part, and the parts that did not run.
fn minutes(report: &Report, seconds: f64, left_out: &[&Part], record: &Record) {
    eprintln!("\nminutes");
    for case in &report.cases {
        let failed = if case.outcome == Outcome::Pass {
            ""
        } else {
            "  FAILED"
        };
        eprintln!("{:7.1}  {}{failed}", case.seconds / 60.0, case.name);
    }
    eprintln!("{:7.1}  all of these", seconds / 60.0);
    for part in left_out {
        eprintln!("      –  {} ({})", part.name, when(part, record));
    }
}

/// Runs a part; its output goes where ours goes.
fn run_part(part: &Part, programs: &Programs) -> Case {
    let start = Instant::now();
    let result = part.commands.iter().try_for_each(|run| {
        let mut command = programs.command(run)?;
        eprintln!("         {}: {}", part.name, describe(&command));
        let status = command
            .status()
            .with_context(|| format!("cannot run {}", describe(&command)))?;
        ensure!(
            status.success(),
            "{} ended with {status}",
            describe(&command)
        );
        Ok(())
    });
    let seconds = start.elapsed().as_secs_f64();
    let detail = result
        .as_ref()
        .err()
        .map_or_else(String::new, |error| format!("{error:#}"));
    let failed = if result.is_ok() { "" } else { "  FAILED: " };
    eprintln!("{seconds:6.1}s  {}{failed}{detail}", part.name);
    Case {
        name: part.name.to_owned(),
        outcome: if result.is_ok() {
            Outcome::Pass
        } else {
            Outcome::Fail
        },
        seconds,
        detail,
    }
}

/// Makes commands; the programs that some need are installed when the first one does.
#[derive(Default)]
struct Programs {
    tools: OnceCell<Tools>,
}

impl Programs {
    fn command(&self, run: &Run) -> Result<Command> {
        match run {
            Run::Cargo(arguments) => {
                let mut command = paths::cargo();
                command.args(*arguments);
                Ok(command)
            }
            Run::OnKernel(profile, arguments) => {
                let kernel = cargo(&["xtask", "kernel", profile])?;
                let mut command = paths::cargo();
                command.args(*arguments).arg("--kernel").arg(kernel.trim());
                Ok(command)
            }
            Run::Valgrind(arguments) => valgrind(arguments),
            Run::Tool(tool, arguments) => {
                let mut command = self.tools()?.command(*tool);
                command.args(*arguments);
                Ok(command)
            }
            Run::Schema(schema, place) => {
                let mut command = self.tools()?.command(Tool::CheckJsonschema);
                command
                    .args(["--builtin-schema", schema])
                    .args(yaml(place)?);
                Ok(command)
            }
        }
    }

    fn tools(&self) -> Result<&Tools> {
        if self.tools.get().is_none() {
            // Only one thread is here.
            let _ = self.tools.set(Tools::ensure()?);
        }
        self.tools.get().context("the programs are gone")
    }
}

/// `cargo test` with `arguments`, the test programs under valgrind's memcheck. Property tests make
/// fewer cases: each takes 30 times as long.
fn valgrind(arguments: &[&str]) -> Result<Command> {
    if host::find_program("valgrind").is_none() {
        host::install(&["valgrind"])?;
    }
    let runner = "target.'cfg(unix)'.runner=['valgrind', '--quiet', '--error-exitcode=9']";
    let mut command = paths::cargo();
    command
        .args(["--config", runner, "test", "--quiet"])
        .args(arguments)
        .env("PROPTEST_CASES", "16")
        .env("ZCNIC_FUZZ_MUTATIONS", "0");
    Ok(command)
}

/// Runs cargo to its end and returns what it printed.
fn cargo(arguments: &[&str]) -> Result<String> {
    let mut command = paths::cargo();
    step::run_showing(command.args(arguments))
}

/// A file, or the YAML files of a directory but for its `config.yml`, which has a schema of its own.
fn yaml(place: &str) -> Result<Vec<PathBuf>> {
    let path = paths::workspace().join(place);
    if path.is_file() {
        return Ok(vec![path]);
    }
    let listing = fs::read_dir(&path).with_context(|| path.display().to_string())?;
    let mut files: Vec<_> = listing
        .filter_map(|item| Some(item.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "yml"))
        .filter(|path| !path.ends_with("config.yml"))
        .collect();
    files.sort();
    if files.is_empty() {
        bail!("{place} has no YAML files");
    }
    Ok(files)
}
