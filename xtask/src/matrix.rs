//! `cargo xtask matrix`: the same selftests on every kernel that zcnic supports.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Map, json};
use zcnic_results::{
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
};

/// Run the selftests of memory providers on each kernel series that Debian has, into one table
///
/// Exits with 0 only if every case passed on every kernel. Cases of features that a kernel lacks
/// may skip.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    report: ReportArg,
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
    sandbox::clean_up_on_signals()?;
    let mut columns = Vec::new();
    for series in SERIES {
        columns.push(run_on(series, args)?);
    }
    let cases = |column: &KernelRun| {
        let release = column.release.clone();
        program::cases(&column.runs)
            .into_iter()
            .map(move |case| Case {
                name: format!("{release} {}", case.name),
                ..case
            })
    };
    let kernels: Vec<_> = columns
        .iter()
        .map(|column| {
            let programs: Vec<_> = column.runs.iter().map(ProgramRun::score).collect();
            json!({"kernel": column.release, "programs": programs})
        })
        .collect();
    let report = Report {
        cases: columns.iter().flat_map(cases).collect(),
        extra: Map::from_iter([("kernels".to_owned(), json!(kernels))]),
    };
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
    args.report.write(&report.to_json())?;
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
    let mut runs =
        Runner::new(&setup, &selftests, Cable::Pause).run(&Suite::MemoryProviders.paths());
    Suite::MemoryProviders.complete(kernel, &mut runs)?;
    let required = Suite::MemoryProviders.required(kernel);
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
