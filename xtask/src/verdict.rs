//! `cargo xtask verdict`: decides whether a kernel tree is good or bad, for `git bisect run`.
//!
//! A bisection takes every status from 1 to 127 but 125 for "bad", so a failure that is not the
//! tree's must never end with one: not a wrong option (clap's status is 2), nor a panic (101).

use std::{
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Instant, SystemTime},
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value, json};
use zcnic_results::{
    formats, netdev_ci, program,
    report::{Case, Outcome, Report, ReportArg, output_file},
};
use zcnic_testbed::{
    backend::Cable,
    options::MachineArgs,
    provision::{
        cache::Cache,
        host,
        linux::tree::{self, DoesNotBuild, Profile, Tree},
        selftests::Selftests,
    },
    sandbox,
    setup::{GuestArgs, Setup},
    step,
};

use crate::suites::{
    runner::Runner,
    selection::{Rounds, select},
    shell,
};

/// The exit status that `git bisect run` takes for "can't be tested".
const SKIP: u8 = 125;
/// The exit status that ends a bisection, because the failure says nothing about the tree.
const ABORT: u8 = 128;

/// The word of `--selftests` for the selftests of the tree itself.
const TREE: &str = "tree";

/// Compile a kernel tree and zcnic.ko, and run selftests on them
///
/// Exits with 0 if every case passed (or failed as the test expects), with 1 if one failed, with 125
/// if the tree or the driver does not compile or a case was skipped, and with 128 after any other
/// error, a wrong option included: the codes of `git bisect run`. The tree is only read, and must be
/// clean. The results are also written as KTAP (FILE.ktap) and JUnit (FILE.xml) beside the report
/// FILE.json.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The kernel's source
    #[arg(long, value_name = "DIR")]
    tree: PathBuf,
    /// The bugs that the kernel finds
    #[arg(long, default_value = "plain")]
    profile: Profile,
    /// Options of the kernel, over those of the profile; can be given several times. It is an error
    /// (125) if the tree does not take one of them
    #[arg(long, value_name = "FRAGMENT")]
    config: Vec<PathBuf>,
    /// Run the selftests of DIR, as `kselftest --selftests` does, or those of the tree by the word
    /// `tree`; otherwise always those of Debian's newest kernel
    #[arg(long, value_name = "DIR|tree")]
    selftests: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    report: ReportArg,
    /// Write the results to FILE in the format of the netdev CI
    #[arg(long, value_name = "FILE", value_parser = output_file)]
    netdev_ci: Option<PathBuf>,
    /// Test programs, such as `iou-zcrx.py`, or single cases, such as `rss_ctx.py:test_rss_context`
    #[arg(required = true)]
    names: Vec<String>,
}

/// Returns the status for arguments that clap refuses or answers itself, of any command.
pub(crate) fn status_of_arguments(error: &clap::Error) -> ExitCode {
    let verdict = std::env::args()
        .nth(1)
        .is_some_and(|word| word == "verdict");
    match error.exit_code() {
        0 => ExitCode::SUCCESS,
        _ if verdict => ExitCode::from(ABORT),
        status => ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)),
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    // The panic's message is printed already.
    let decided = panic::catch_unwind(AssertUnwindSafe(|| decide(args)));
    let decided = decided.unwrap_or_else(|_| Err(anyhow!("this program has a bug")));
    Ok(decided.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(status_of(&error))
    }))
}

/// Returns the status for an error.
fn status_of(error: &anyhow::Error) -> u8 {
    if error.is::<DoesNotBuild>() {
        SKIP
    } else {
        ABORT
    }
}

/// Returns the status for cases that ran, and the word for the tree.
fn judge(report: &Report) -> (u8, &'static str) {
    let count = |outcome| report.count(outcome);
    if count(Outcome::Fail) > 0 {
        (1, "bad")
    } else if count(Outcome::Skip) > 0 || report.cases.is_empty() {
        // A skipped case tested nothing.
        (SKIP, "neither good nor bad: a case was skipped")
    } else {
        (0, "good")
    }
}

fn decide(args: &Args) -> Result<ExitCode> {
    sandbox::clean_up_on_signals()?;
    formats::check(&args.report)?;
    tree::check_fragments(&args.config)?;
    Tree::check(&args.tree)?;
    args.guest(None).check()?;
    host::require_programs()?;
    let cache = Cache::open()?;
    let state = state_of(&args.tree);
    let (start, began) = (Instant::now(), SystemTime::now());
    let branch = || netdev_ci::BranchRun {
        state: &state,
        start: began,
        end: SystemTime::now(),
    };

    let made = selftests(&cache, args).and_then(|selftests| {
        // Wrong names end before anything is compiled.
        let jobs = select(&selftests.all()?, &args.names)?;
        shell::check(&selftests.tree(), &jobs)?;
        Ok((compile(&cache, args)?, selftests, jobs))
    });
    let (setup, selftests, jobs) = match made {
        Err(error) if error.is::<DoesNotBuild>() => {
            args.write_netdev_ci(&netdev_ci::build_failure(&branch()))?;
            return Err(error);
        }
        other => other?,
    };
    let mut runner = Runner::new(&setup, &selftests, Cable::Pause);
    let runs = runner.run(&jobs, Rounds::ONE, &|_| false)?;
    if runner.host_fault {
        program::cases(&runs).iter().for_each(Case::print);
        bail!("a case failed because of this host, which says nothing about {state}");
    }
    let netdev_ci = netdev_ci::results(&branch(), &runs);

    let report = Report {
        cases: program::cases(&runs),
        extra: Map::from_iter([
            ("tree".to_owned(), json!(args.tree)),
            ("state".to_owned(), json!(state)),
            ("kernel".to_owned(), json!(setup.kernel.release)),
            ("selftests".to_owned(), json!(selftests.version()?)),
        ]),
    };
    let seconds = start.elapsed().as_secs_f64();
    report.cases.iter().for_each(Case::print);
    let (status, word) = judge(&report);
    println!("{state} is {word}");
    println!("{}", report.summary());
    args.write_netdev_ci(&netdev_ci)?;
    formats::write_runs(&args.report, "verdict", &report, &runs, seconds)?;
    Ok(ExitCode::from(status))
}

/// Returns the selftests that the user chose.
fn selftests(cache: &Cache, args: &Args) -> Result<Selftests> {
    match args.selftests.as_deref() {
        None => Selftests::ensure(cache),
        Some(word) if word == Path::new(TREE) => Selftests::of_tree(cache, &args.tree),
        // Not a part of the tree in question: that it does not build is an error of the user's.
        Some(directory) => {
            Selftests::of_tree(cache, directory).map_err(|error| anyhow!("{error:#}"))
        }
    }
}

/// Compiles kernel and driver, and makes the rest of a guest.
fn compile(cache: &Cache, args: &Args) -> Result<Setup> {
    let tree = Tree::compile(cache, &args.tree, args.profile, &args.config)?;
    Setup::new(&args.guest(Some(tree.output().to_owned())))
}

/// Returns the tree's commit, or else its path.
fn state_of(tree: &Path) -> String {
    let describe = step::run(
        host::command("git")
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
    fn guest(&self, kernel: Option<PathBuf>) -> GuestArgs {
        let machine = self.machine.clone();
        GuestArgs {
            kernel,
            machine,
            ..GuestArgs::default()
        }
    }

    fn write_netdev_ci(&self, results: &Value) -> Result<()> {
        let path = self.netdev_ci.as_deref();
        path.map_or(Ok(()), |path| netdev_ci::write(path, results))
            .context("--netdev-ci")
    }
}

#[cfg(test)]
mod tests {
    use zcnic_testbed::guest::HostFault;

    use super::*;

    fn judged(outcomes: &[Outcome]) -> u8 {
        let case = |outcome: &Outcome| Case {
            outcome: *outcome,
            ..Case::failed("a.py:b", String::new())
        };
        let report = Report {
            cases: outcomes.iter().map(case).collect(),
            ..Report::default()
        };
        judge(&report).0
    }

    #[test]
    fn only_a_failed_case_makes_a_tree_bad() {
        use Outcome::{Fail, Pass, Skip, Xfail};
        assert_eq!(judged(&[Pass, Xfail]), 0);
        assert_eq!(judged(&[Pass, Skip, Fail]), 1);
        assert_eq!(judged(&[Pass, Skip]), SKIP);
        assert_eq!(judged(&[]), SKIP);
    }

    #[test]
    fn an_error_skips_the_commit_or_ends_the_bisection() {
        let broken = DoesNotBuild::because("error: expected ';'".to_owned());
        assert_eq!(status_of(&broken), SKIP);
        assert_eq!(status_of(&broken.context("the driver")), SKIP);
        let full = DoesNotBuild::because("cc1: No space left on device".to_owned());
        assert_eq!(status_of(&full), ABORT);
        assert_eq!(status_of(&anyhow!("no network").context(HostFault)), ABORT);
    }
}
