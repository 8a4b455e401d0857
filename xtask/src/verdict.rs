//! `cargo xtask verdict`: decides whether a kernel tree is good or bad, for `git bisect run`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::SystemTime,
};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use zcnic_results::{
    netdev_ci, program,
    report::{Case, Outcome, Report, ReportArg},
};
use zcnic_testbed::{
    backend::Cable,
    provision::{
        cache::Cache,
        host,
        linux::tree::{DoesNotBuild, Profile, Tree},
        selftests::Selftests,
    },
    sandbox,
    setup::{GuestArgs, Setup},
    step,
};

use crate::suites::{self, runner::Runner};

/// The exit status that `git bisect run` takes for "can't be tested".
const SKIP: u8 = 125;
/// The exit status that ends a bisection, because the failure says nothing about the tree.
const ABORT: u8 = 128;

/// Compile a kernel tree and zcnic.ko, and run selftests on them
///
/// Exits with 0 if every case passed, with 1 if one failed or was skipped, with 125 if the tree or
/// the driver does not compile, and with 128 after any other error: the codes of `git bisect run`.
/// The tree is only read, and must be clean. The selftests are always those of `cargo xtask
/// kselftest`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The kernel's source
    #[arg(long, value_name = "DIR")]
    tree: PathBuf,
    /// The bugs that the kernel finds
    #[arg(long, default_value = "plain")]
    profile: Profile,
    /// Run this QEMU (10.0 or newer, with vhost-user)
    #[arg(long, value_name = "PATH")]
    qemu: Option<PathBuf>,
    #[command(flatten)]
    report: ReportArg,
    /// Write the results to FILE in the format of the netdev CI
    #[arg(long, value_name = "FILE")]
    netdev_ci: Option<PathBuf>,
    /// Test programs, such as `iou-zcrx.py`
    #[arg(required = true)]
    names: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    Ok(decide(args).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(if error.is::<DoesNotBuild>() {
            SKIP
        } else {
            ABORT
        })
    }))
}

fn decide(args: &Args) -> Result<ExitCode> {
    sandbox::clean_up_on_signals()?;
    host::require_programs()?;
    let cache = Cache::open()?;
    let selftests = Selftests::ensure(&cache)?;
    let all = selftests.all()?;
    let tests = suites::select(&all, &args.names)?;
    let state = state_of(&args.tree);
    let start = SystemTime::now();
    let branch = || netdev_ci::BranchRun {
        state: &state,
        start,
        end: SystemTime::now(),
    };

    let setup = match compile(&cache, args) {
        Err(error) if error.is::<DoesNotBuild>() => {
            args.write_netdev_ci(&netdev_ci::build_failure(&branch()))?;
            return Err(error);
        }
        other => other?,
    };
    let runs = Runner::new(&setup, &selftests, Cable::Pause).run(&tests);
    args.write_netdev_ci(&netdev_ci::results(&branch(), &runs))?;

    let report = Report {
        cases: program::cases(&runs),
        extra: Map::from_iter([
            ("tree".to_owned(), json!(args.tree)),
            ("state".to_owned(), json!(state)),
            ("kernel".to_owned(), json!(setup.kernel.release)),
        ]),
    };
    args.report.write(&report.to_json())?;
    report.cases.iter().for_each(Case::print);
    let good = report.count(Outcome::Pass) == report.cases.len();
    println!("{state} is {}", if good { "good" } else { "bad" });
    println!("{}", report.summary());
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Compiles kernel and driver, and makes the rest of a guest.
fn compile(cache: &Cache, args: &Args) -> Result<Setup> {
    let tree = Tree::compile(cache, &args.tree, args.profile)?;
    Setup::new(&GuestArgs {
        kernel: Some(tree.output().to_owned()),
        qemu: args.qemu.clone(),
        ..GuestArgs::default()
    })
}

/// Returns the tree's commit, or else its path.
fn state_of(tree: &Path) -> String {
    let describe = step::run(
        Command::new("git")
            .arg("-C")
            .arg(tree)
            .args(["describe", "--always", "--dirty"]),
    );
    describe.map_or_else(
        |_| tree.display().to_string(),
        |state| state.trim().to_owned(),
    )
}

impl Args {
    fn write_netdev_ci(&self, results: &Value) -> Result<()> {
        let Some(path) = &self.netdev_ci else {
            return Ok(());
        };
        fs::write(path, format!("{results:#}\n"))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}
