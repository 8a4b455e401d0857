//! `cargo xtask bench`: compares the data path with its peers, with memcpy, and with itself.

mod data_path;
mod dpdk;
mod facts;
pub(crate) mod figure;
mod interleaved;
mod method;
mod passt;
pub(crate) mod plot;
mod process;
mod receive;
mod testpmd;

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use zcnic_results::report::ReportArg;
use zcnic_testbed::{
    backend, paths,
    provision::{
        buildroot::{BuildRoot, Recipe},
        cache::Cache,
        host,
    },
    sandbox,
    step::step,
};

use self::{figure::Figure, method::Method, process::Priority};

/// Measure the data path against its peers, against memcpy, and with its features on and off
///
/// Every number is a ratio of medians of interleaved samples of two sides, on the same processors.
/// The spread beside it is the difference between two runs of one side; ignore differences smaller
/// than it. A plot is written beside the report.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// Backends to compare with; none: only with ourselves
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "dpdk",
        value_name = "NAME,…"
    )]
    peer: Vec<Peer>,
    /// Take few and short samples, to see that everything can be measured
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    report: ReportArg,
    #[command(subcommand)]
    command: Option<BenchCommand>,
}

/// Other measurements than the data path.
#[derive(clap::Subcommand, Debug)]
enum BenchCommand {
    #[command(alias = "systems")]
    Receive(receive::Args),
}

/// Another backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Peer {
    /// DPDK's vhost library, driven by dpdk-testpmd
    Dpdk,
    /// passt, which forwards to the kernel's sockets
    Passt,
    /// No other backend
    None,
}

/// The keys of `ratios` in the report, in any case and against DPDK.
const RATIOS: [&str; 5] = [
    "memcpy_split_4k",
    "memcpy_gso_64k",
    "rules_10000_over_1",
    "faults_unarmed",
    "ledger_counting",
];
const DPDK_RATIOS: [&str; 2] = ["dpdk_loop_64", "dpdk_loop_1500"];

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if let Some(BenchCommand::Receive(receive)) = &args.command {
        return receive::run(receive);
    }
    args.report.leaves_room_for(&["svg"])?;
    sandbox::clean_up_on_signals()?;
    host::require_programs()?;
    let cache = Cache::open()?;
    let programs = backend::build_release()?;
    let builds = data_path::build()?;
    let dpdk = args.peer.contains(&Peer::Dpdk);
    let passt = args.peer.contains(&Peer::Passt);
    let passt = passt
        .then(|| unpack(&cache, "passt", &[passt::PACKAGE]))
        .transpose()?;
    let testpmd = dpdk || passt.is_some();
    let testpmd = testpmd
        .then(|| unpack(&cache, "dpdk", &testpmd::PACKAGES))
        .transpose()?;
    let method = Method {
        rounds: if args.quick { 2 } else { 9 },
        sample: Duration::from_millis(if args.quick { 60 } else { 200 }),
        priority: Priority::probe(),
        cpus: facts::processors()?,
    };

    let (machine, commit) = (facts::machine(method.priority), paths::commit());
    let mut figures = Vec::new();
    if let Some(testpmd) = &testpmd {
        if dpdk {
            figures.extend(dpdk::measure(testpmd, &programs, method)?);
        }
        if let Some(passt) = &passt {
            figures.extend(passt::measure(passt, testpmd, &programs, method)?);
        }
    }
    figures.extend(step("port to port, memcpy and features", || {
        data_path::measure(&builds, method)
    })?);
    let memory = step("memory of a port", || data_path::memory_per_port(&programs))?;
    for figure in &figures {
        println!("{}", figure.line());
    }
    println!("memory of an unused port: {} KiB", memory / 1024);

    let wanted = RATIOS
        .iter()
        .chain(if dpdk { &DPDK_RATIOS[..] } else { &[] });
    let found = |name: &str| figures.iter().find(|figure| figure.name == name);
    let mut ratios = BTreeMap::new();
    let mut spreads = BTreeMap::new();
    for &name in wanted {
        let figure = found(name).with_context(|| format!("{name} was not measured"))?;
        ratios.insert(name, figure.ratio());
        spreads.insert(name, figure.spread());
    }
    for figure in &figures {
        figure.check()?;
    }
    let report = json!({
        "quick": args.quick,
        "commit": commit,
        "machine": machine,
        "peers": {
            "dpdk": testpmd.as_ref().and_then(|root| root.version(testpmd::PACKAGES[0])),
            "passt": passt.as_ref().and_then(|root| root.version(passt::PACKAGE)),
        },
        "method": {
            "rounds": method.rounds,
            "turn_seconds": method.sample.as_secs_f64(),
            "order": "a, b, a again; ratio: median of all a over median of b; \
                      spread: least and greatest of (a again / a) of a round",
        },
        "ratios": ratios,
        "spreads": spreads,
        "memory_per_port_bytes": memory,
        "figures": figures.iter().map(Figure::to_json).collect::<Vec<Value>>(),
    });
    let plot = plot::svg(&figures);
    args.report.write_with_plots(&report, &[&plot])?;
    args.report.write_beside("svg", &plot)?;
    Ok(ExitCode::SUCCESS)
}

/// Unpacks a peer from Debian's archive: `packages` and their dependencies, cached as `kind`.
fn unpack(cache: &Cache, kind: &'static str, packages: &[&str]) -> Result<BuildRoot> {
    let recipe = Recipe {
        kind,
        packages,
        ..Recipe::default()
    };
    BuildRoot::ensure(cache, &recipe, &format!("unpack Debian's {kind}"))
}
