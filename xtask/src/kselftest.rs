//! `cargo xtask kselftest`: the kernel's selftests, unchanged, with eth0 of a guest as the device
//! under test. Its peer is eth1 of the same backend, in a network namespace.
//!
//! A test that takes the guest down fails, and the next one gets a new guest. A program that passes
//! although the gate finds problems has failed.

use std::{collections::BTreeMap, fs, process::ExitCode, time::Instant};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use zcnic_results::{
    junit, ktap,
    program::{self, ProgramRun},
    report::{Case, Report, ReportArg},
};
use zcnic_testbed::{
    backend::Cable,
    paths,
    provision::selftests::Selftests,
    sandbox,
    setup::{GuestArgs, Setup},
};

use crate::suites::{
    Suite,
    case::{KernelFacts, RequiredCase},
    expect::{self, Expectation},
    runner::Runner,
    select,
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
    /// Only list all tests, or the cases of the suite
    #[arg(long)]
    list: bool,
    /// Test programs, such as `iou-zcrx.py`; without names all that are written in Python
    names: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    sandbox::clean_up_on_signals()?;
    args.report.leaves_room_for(&["ktap", "xml"])?;
    let setup = Setup::new(&args.guest)?;
    let selftests = Selftests::ensure(&setup.cache)?;
    let kernel = KernelFacts::from(&setup.kernel);
    let required = args
        .suite
        .map_or_else(Vec::new, |suite| suite.required(kernel));
    let all = selftests.all()?;
    if args.list {
        if args.suite.is_some() {
            required
                .iter()
                .for_each(|required| println!("{}", required.name));
        } else {
            all.iter().for_each(|test| println!("{test}"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let tests = match args.suite {
        Some(suite) => suite.paths(),
        None => select(&all, &args.names)?,
    };
    let mut facts = facts(args, &setup, &selftests)?;
    facts.insert("sha256".to_owned(), json!(checksums(&selftests, &tests)?));
    facts.insert("lacking".to_owned(), lacking(&required));

    let start = Instant::now();
    let mut runner = Runner::new(&setup, &selftests, args.wire);
    runner.ledger = args.ledger;
    let mut runs = runner.run(&tests);
    let seconds = start.elapsed().as_secs_f64();
    if let Some(suite) = args.suite {
        suite.complete(kernel, &mut runs)?;
    }

    let about = words(&facts);
    let lines: Vec<_> = about
        .iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    facts.insert("seconds".to_owned(), json!(seconds));
    facts.insert("boots".to_owned(), json!(runner.boots));
    facts.insert(
        "programs".to_owned(),
        json!(runs.iter().map(ProgramRun::score).collect::<Vec<_>>()),
    );
    let report = Report {
        cases: program::cases(&runs),
        extra: facts,
    };
    report.cases.iter().for_each(Case::print);
    println!("\n{}", program::table(&runs));
    lines.iter().for_each(|line| println!("{line}"));
    println!("{seconds:.0} s in {} guest(s)", runner.boots);
    required
        .iter()
        .filter_map(RequiredCase::skip_reason)
        .for_each(|skip_reason| println!("{skip_reason}"));
    let unexpected = expect::unexpected(&args.expect, &required, &report.cases);
    unexpected.iter().for_each(|problem| println!("{problem}"));
    println!("{}", report.summary());
    args.report.write(&report.to_json())?;
    args.report
        .write_beside("ktap", &ktap::write(&runs, &lines))?;
    args.report
        .write_beside("xml", &junit::write(&runs, &about, seconds)?)?;
    Ok(if unexpected.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
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

/// Returns the facts that fit a line, as text.
fn words(facts: &Map<String, Value>) -> Vec<(String, String)> {
    let word = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().filter_map(Value::as_str).collect();
            Some(items.join(" "))
        }
        _ => None,
    };
    facts
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), word(value)?)))
        .collect()
}

/// Returns checksums, which show that the tests are upstream's.
fn checksums(selftests: &Selftests, tests: &[&str]) -> Result<BTreeMap<String, String>> {
    let sum = |test: &&str| {
        let path = selftests.tree().join(test);
        let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let digest = Sha256::digest(content);
        let hex = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(((*test).to_owned(), hex))
    };
    tests.iter().map(sum).collect()
}
