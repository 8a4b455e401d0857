//! `cargo xtask matrix`: the same selftests on every kernel that zcnic supports.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Map, json};
use zcnic_results::{
    formats,
    program::{self, ProgramRun},
    report::{Case, Report, ReportArg},
};
use zcnic_testbed::{
    backend::Cable,
    options::MachineArgs,
    provision::{linux::debian::SERIES, selftests::Selftests},
    sandbox,
    setup::Setup,
};

use crate::suites::{
    Suite,
    case::{KernelFacts, RequiredCase},
    expect,
    runner::Runner,
    selection::Rounds,
};

/// Run the selftests of memory providers on several kernels that Debian has, into one table
///
/// Exits with 0 only if every case passed on every kernel. Cases of features that a kernel lacks
/// may skip. The results are also written as KTAP (FILE.ktap) and JUnit (FILE.xml) beside the
/// report FILE.json.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    report: ReportArg,
    /// Kernels of Debian's: series (7.2) or releases (7.2.6); without any the newest of each series
    #[arg(value_name = "VERSION")]
    kernels: Vec<String>,
}

/// The runs of all programs on one kernel.
struct KernelRun {
    release: String,
    runs: Vec<ProgramRun>,
    /// Unexpected results, and cases that may skip.
    remarks: Vec<String>,
    good: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    formats::check(&args.report)?;
    sandbox::clean_up_on_signals()?;
    let mut columns = Vec::new();
    let series = SERIES.map(str::to_owned);
    let kernels = if args.kernels.is_empty() {
        &series[..]
    } else {
        &args.kernels
    };
    for kernel in kernels {
        columns.push(run_on(kernel, args)?);
    }
    let kernels: Vec<_> = columns
        .iter()
        .map(|column| {
            let programs: Vec<_> = column.runs.iter().map(ProgramRun::score).collect();
            json!({"kernel": column.release, "programs": programs})
        })
        .collect();
    let mut report = Report {
        cases: Vec::new(),
        extra: Map::from_iter([("kernels".to_owned(), json!(kernels))]),
    };
    let mut runs = Vec::new();
    for KernelRun {
        release, runs: own, ..
    } in &columns
    {
        report
            .cases
            .extend(program::cases(own).into_iter().map(|case| Case {
                name: format!("{release} {}", case.name),
                ..case
            }));
        runs.extend(own.iter().cloned().map(|run| ProgramRun {
            name: format!("{release} {}", run.name),
            ..run
        }));
    }
    let seconds = runs.iter().map(|run| run.seconds).sum();
    report.cases.iter().for_each(Case::print);
    println!("\n{}", table(&columns));
    for KernelRun {
        release, remarks, ..
    } in &columns
    {
        remarks
            .iter()
            .for_each(|remark| println!("{release}: {remark}"));
    }
    println!("{}", report.summary());
    formats::write_runs(&args.report, "matrix", &report, &runs, seconds)?;
    Ok(if columns.iter().all(|column| column.good) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_on(series: &str, args: &Args) -> Result<KernelRun> {
    let setup = Setup::for_series(series, &args.machine)?;
    let selftests = Selftests::ensure(&setup.cache)?;
    let kernel = KernelFacts::from(&setup.kernel);
    let suite = Suite::MemoryProviders;
    let mut runs =
        Runner::new(&setup, &selftests, Cable::Pause)
            .run(&suite.jobs(), Rounds::ONE, &|_| false)?;
    suite.complete(kernel, &mut runs);
    let required = suite.required(kernel);
    let unexpected = expect::unexpected(&[], &required, &program::cases(&runs));
    Ok(KernelRun {
        release: setup.kernel.release.clone(),
        good: unexpected.is_empty(),
        remarks: unexpected
            .into_iter()
            .chain(required.iter().filter_map(RequiredCase::skip_reason))
            .collect(),
        runs,
    })
}

/// A line per program, a column per kernel: the number of passed and of all cases.
fn table(columns: &[KernelRun]) -> String {
    let programs = Suite::MemoryProviders.programs();
    let width = programs.iter().map(|program| program.path.len()).max();
    let width = width.unwrap_or_default();
    let mut text = format!("{:width$}", "program");
    for column in columns {
        text.push_str(&format!("  {:>18}", column.release));
    }
    for program in programs {
        text.push_str(&format!("\n{:width$}", program.path));
        for column in columns {
            let run = column.runs.iter().find(|run| run.name == program.path);
            let score = run.map(ProgramRun::score).unwrap_or_default();
            let cell = format!("{} of {}", score.pass, score.total());
            text.push_str(&format!("  {cell:>18}"));
        }
    }
    text.push('\n');
    text
}
