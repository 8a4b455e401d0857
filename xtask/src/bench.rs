//! `cargo xtask bench`: the data path against its peers, against memcpy, and against itself.

mod data_path;
mod dpdk;
mod facts;
pub(crate) mod figure;
mod passt;
pub(crate) mod plot;
mod process;
mod systems;
mod testpmd;
mod turns;

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use self::{figure::Figure, process::Priority};
use crate::{
    backend,
    buildroot::{BuildRoot, Recipe},
    cache::Cache,
    host, paths,
    report::ReportArg,
    sandbox,
    step::step,
};

/// Measure the data path against its peers, against memcpy, and with its features on and off
///
/// Every number is a ratio of medians of turns that the two sides take, on the same processors. Beside it stands
/// what one side's turns differ by, which is what a difference is worth. A plot is written beside the report.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// Whom to compare with; none: only with ourselves
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "dpdk",
        value_name = "NAME,…"
    )]
    peer: Vec<Peer>,
    /// Few and short turns: whether everything can be measured, not how it comes out
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    report: ReportArg,
    #[command(subcommand)]
    what: Option<What>,
}

/// Something else than the data path.
#[derive(clap::Subcommand, Debug)]
enum What {
    Systems(systems::Args),
}

/// Another backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Peer {
    /// DPDK's vhost library, driven by dpdk-testpmd
    Dpdk,
    /// passt, which hands what is sent to the kernel
    Passt,
    /// Nobody
    None,
}

/// How often and how long.
#[derive(Clone, Copy, Debug)]
struct Method {
    rounds: usize,
    turn: Duration,
    priority: Priority,
    /// The processor of whoever serves the rings, and that of the frontend.
    cpus: [usize; 2],
}

/// What the report's `ratios` has, in any case and against DPDK.
const RATIOS: [&str; 5] = [
    "memcpy_split_4k",
    "memcpy_gso_64k",
    "rules_10000_over_1",
    "faults_unarmed",
    "ledger_counting",
];
const DPDK_RATIOS: [&str; 2] = ["dpdk_loop_64", "dpdk_loop_1500"];

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if let Some(What::Systems(systems)) = &args.what {
        return systems::run(systems);
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
        turn: Duration::from_millis(if args.quick { 60 } else { 200 }),
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
    println!("memory of a port that nobody uses: {} KiB", memory / 1024);

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
            "turn_seconds": method.turn.as_secs_f64(),
            "order": "a, b, a again; ratio: median of all a over median of b; \
                      spread: least and greatest of (a again / a) of a round",
        },
        "ratios": ratios,
        "spreads": spreads,
        "memory_per_port_bytes": memory,
        "figures": figures.iter().map(Figure::to_json).collect::<Vec<Value>>(),
    });
    args.report.write(&report)?;
    args.report.write_beside("svg", &plot::svg(&figures))?;
    Ok(ExitCode::SUCCESS)
}

/// A peer from Debian's archive: `packages` and what they need, cached as `kind`.
fn unpack(cache: &Cache, kind: &'static str, packages: &[&str]) -> Result<BuildRoot> {
    let recipe = Recipe {
        kind,
        packages,
        ..Recipe::default()
    };
    BuildRoot::ensure(cache, &recipe, &format!("unpack Debian's {kind}"))
}
