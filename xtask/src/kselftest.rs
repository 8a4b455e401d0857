//! `cargo xtask kselftest`: the kernel's selftests, unchanged, with eth0 of a guest as the device
//! under test. Its peer is eth1 of the same backend, in a network namespace.
//!
//! A test that takes the guest down fails, and the next one gets a new guest. A program that passes
//! although the gate finds problems has failed.

use std::{
    collections::BTreeMap,
    fs,
    num::NonZero,
    path::PathBuf,
    process::ExitCode,
    time::{Instant, SystemTime},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use zcnic_results::{
    formats,
    netdev_ci::{self, BranchRun},
    program::{self, ProgramRun},
    report::{Case, Outcome, Report, ReportArg, output_file},
};
use zcnic_testbed::{
    backend::Cable,
    paths,
    provision::{cache::Cache, host, selftests::Selftests},
    sandbox,
    setup::{GuestArgs, Setup},
};

use crate::suites::{
    Suite,
    case::{KernelFacts, RequiredCase},
    expect::{self, Expectation},
    runner::Runner,
    selection::{Job, Rounds, select},
    shell,
};

/// Options of debug kernels, for the report: a pass means more with them, and a time means less.
const DEBUG_OPTIONS: [&str; 13] = [
    "PROVE_LOCKING",
    "DEBUG_ATOMIC_SLEEP",
    "DMA_API_DEBUG",
    "KASAN",
    "KFENCE",
    "DEBUG_LIST",
    "DEBUG_NET",
    "DEBUG_OBJECTS",
    "DEBUG_PAGEALLOC",
    "DEBUG_VM",
    "UBSAN",
    "FAULT_INJECTION",
    "FAIL_FUNCTION",
];

/// Run the kernel's selftests of drivers/net in a guest
///
/// Exits with 0 only if every case passed or ended as expected. The results are also written as
/// KTAP (FILE.ktap) and JUnit (FILE.xml) beside the report FILE.json.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    report: ReportArg,
    /// Run a suite, whose cases are all known: a case that does not run has failed, and one may
    /// skip only if the kernel lacks what it tests
    #[arg(long, alias = "ring", value_name = "SUITE", conflicts_with_all = ["expect", "names"])]
    suite: Option<Suite>,
    /// Expect an outcome other than a pass, such as `hds.py:get_hds=skip`; a `*` at the name's end
    /// stands for any rest. An expectation that no case meets is an error
    #[arg(long, value_name = "CASE=skip|xfail|fail")]
    expect: Vec<Expectation>,
    /// Flow control of the cable between the ports, for frames without a receive buffer
    #[arg(long, value_name = "MODE", default_value = "pause")]
    wire: Cable,
    /// Make the device keep a ledger of eth0's receive buffers and poison those that it owns; a
    /// violation fails the program
    #[arg(long)]
    ledger: bool,
    /// Run the selftests of DIR: a kernel tree or its tools/testing/selftests, which is only read.
    /// A selftests directory elsewhere is compiled with Debian's kernel source
    #[arg(long, value_name = "DIR")]
    selftests: Option<PathBuf>,
    /// Run everything N times, in one guest as long as everything passes
    #[arg(long, value_name = "N")]
    repeat: Option<NonZero<usize>>,
    /// Stop at the first failure; without --repeat run until there is one
    #[arg(long)]
    until_fail: bool,
    /// Run in a random order, another one in each round. The printed SEED makes the same orders
    /// again
    #[arg(long, value_name = "SEED", num_args = 0..=1, require_equals = true)]
    shuffle: Option<Option<u32>>,
    /// Write the results to FILE in the format of the netdev CI
    #[arg(long, value_name = "FILE", value_parser = output_file)]
    netdev_ci: Option<PathBuf>,
    /// Only list all tests, the cases of the suite, or (in a guest) those of the named programs
    #[arg(long)]
    list: bool,
    /// Test programs, such as `iou-zcrx.py`, or single cases, such as `rss_ctx.py:test_rss_context`
    /// (`*` at the end stands for any rest); without names all that are written in Python
    names: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    sandbox::clean_up_on_signals()?;
    formats::check(&args.report)?;
    args.guest.check()?;
    let rounds = args.rounds();
    host::require_programs()?;
    let cache = Cache::open()?;
    let selftests = match &args.selftests {
        Some(directory) => Selftests::of_tree(&cache, directory)?,
        None => Selftests::ensure(&cache)?,
    };
    let all = selftests.all()?;
    if args.list && args.suite.is_none() && args.names.is_empty() {
        all.iter().for_each(|test| println!("{test}"));
        return Ok(ExitCode::SUCCESS);
    }
    let jobs = match args.suite {
        Some(suite) => suite.jobs(),
        None => select(&all, &args.names)?,
    };
    require_programs(&all, &jobs)?;
    if !args.list {
        shell::check(&selftests.tree(), &jobs)?;
    }
    let setup = Setup::new(&args.guest)?;
    let kernel = KernelFacts::from(&setup.kernel);
    let required = args
        .suite
        .map_or_else(Vec::new, |suite| suite.required(kernel));
    let mut runner = Runner::new(&setup, &selftests, args.wire);
    if args.list {
        return list(args, &required, &jobs, &mut runner);
    }
    let mut facts = facts(args, &setup, &selftests)?;
    facts.insert("sha256".to_owned(), json!(checksums(&selftests, &jobs)?));
    facts.insert("lacking".to_owned(), lacking(&required));

    let (start, began) = (Instant::now(), SystemTime::now());
    runner.ledger = args.ledger;
    let is_bad = |run: &ProgramRun| {
        expect::unforgiven(&args.expect, &required, &run.cases)
            .iter()
            .any(|case| case.outcome == Outcome::Fail)
    };
    let mut runs = runner.run(&jobs, rounds, &is_bad)?;
    let seconds = start.elapsed().as_secs_f64();
    if let Some(suite) = args.suite {
        suite.complete(kernel, &mut runs);
    }

    facts.insert("seconds".to_owned(), json!(seconds));
    facts.insert("boots".to_owned(), json!(runner.boots));
    facts.insert("violations".to_owned(), json!(runner.violations));
    facts.insert("programs".to_owned(), json!(program::scores(&runs)));
    let report = Report {
        cases: program::cases(&runs),
        extra: facts,
    };
    let ended = SystemTime::now();
    report.cases.iter().for_each(Case::print);
    println!("\n{}", program::table(&runs));
    for (name, value) in formats::facts(&report) {
        println!("{name}: {value}");
    }
    println!("{seconds:.0} s in {} guest(s)", runner.boots);
    required
        .iter()
        .filter_map(RequiredCase::skip_reason)
        .for_each(|skip_reason| println!("{skip_reason}"));
    let unexpected = expect::unexpected(&args.expect, &required, &report.cases);
    unexpected.iter().for_each(|problem| println!("{problem}"));
    println!("{}", report.summary());
    formats::write_runs(&args.report, "kselftest", &report, &runs, seconds)?;
    if let Some(path) = &args.netdev_ci {
        let branch = BranchRun {
            state: &setup.kernel.release,
            start: began,
            end: ended,
        };
        netdev_ci::write(path, &netdev_ci::results(&branch, &runs))?;
    }
    Ok(if unexpected.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Args {
    /// Returns how often everything runs, and prints the seed of a random order.
    fn rounds(&self) -> Rounds {
        let seed = self
            .shuffle
            .map(|seed| seed.unwrap_or_else(|| fastrand::u32(..)));
        if let Some(seed) = seed {
            eprintln!("         the order is that of --shuffle={seed}");
        }
        Rounds {
            count: match self.repeat {
                Some(count) => Some(count.get()),
                None => (!self.until_fail).then_some(1),
            },
            until_fail: self.until_fail,
            seed: seed.map(u64::from),
        }
    }
}

/// Fails unless the selftests have each program. A suite's may be missing in other trees.
fn require_programs(all: &[String], jobs: &[Job]) -> Result<()> {
    let missing: Vec<_> = jobs
        .iter()
        .filter(|job| !all.contains(&job.path))
        .map(|job| &*job.path)
        .collect();
    ensure!(
        missing.is_empty(),
        "these selftests do not have {}",
        missing.join(", ")
    );
    Ok(())
}

/// Prints the cases of the suite or of the named programs.
fn list(
    args: &Args,
    required: &[RequiredCase],
    jobs: &[Job],
    runner: &mut Runner<'_>,
) -> Result<ExitCode> {
    if args.suite.is_some() {
        required
            .iter()
            .for_each(|required| println!("{}", required.name));
    } else {
        for job in jobs {
            let file = program::file_name(&job.path);
            for case in runner.list(&job.path)? {
                println!("{file}:{case}");
            }
        }
        runner.finish();
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the facts that the results depend on.
fn facts(args: &Args, setup: &Setup, selftests: &Selftests) -> Result<Map<String, Value>> {
    let debug = setup.kernel.config.is_some().then(|| {
        let kernel = KernelFacts::from(&setup.kernel);
        let set = DEBUG_OPTIONS.iter().filter(|option| kernel.has(option));
        set.collect::<Vec<_>>()
    });
    let wire = match args.wire {
        Cable::Drop => "cable, drop",
        Cable::Pause => "cable, pause",
    };
    Ok(Map::from_iter(
        [
            ("commit", json!(paths::commit())),
            ("suite", json!(args.suite.map(Suite::name))),
            ("kernel", json!(setup.kernel.release)),
            ("debug", json!(debug)),
            ("wire", json!(wire)),
            ("ledger", json!(args.ledger.then_some("full, sanitize"))),
            ("qemu", json!(setup.qemu.version)),
            ("acceleration", json!(setup.acceleration.name())),
            ("selftests", json!(selftests.version()?)),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    ))
}

/// Returns the names of cases that may skip, and what the kernel lacks for each.
fn lacking(required: &[RequiredCase]) -> Value {
    let lacking = required
        .iter()
        .filter_map(|required| Some((required.name.as_str(), required.lacking.as_deref()?)));
    json!(BTreeMap::from_iter(lacking))
}

/// Returns checksums, which show that the tests are upstream's.
fn checksums(selftests: &Selftests, jobs: &[Job]) -> Result<BTreeMap<String, String>> {
    let sum = |job: &Job| {
        let path = selftests.tree().join(&job.path);
        let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let digest = Sha256::digest(content);
        let hex = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok((job.path.clone(), hex))
    };
    jobs.iter().map(sum).collect()
}
