//! `cargo xtask bench receive`: what receiving costs in a guest, by interface, and what provided
//! buffers cost (`zcnic-guest compare`).

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use zcnic_guest_protocol::figure as guest;
use zcnic_results::report::ReportArg;
use zcnic_testbed::{
    agent::Exec,
    backend::Cable,
    paths, sandbox,
    setup::{GuestArgs, Setup},
    step::step,
};

use super::{facts, figure::Figure, process::Priority};

/// Time limit of all samples, on a busy host.
const PATIENCE: Duration = Duration::from_secs(1200);

/// Compare interfaces that receive in a guest: recv(), epoll, TCP_ZEROCOPY_RECEIVE, io_uring zcrx
///
/// Each is interleaved with recv() in a loop, in one boot: bytes per second of the guest's
/// processor that receives, and the share that the kernel copied. So is recv() without recycling of
/// pages. Requests of io_uring with provided buffers are interleaved with requests without.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Take few and short samples, to see that everything can be measured
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    report: ReportArg,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    sandbox::clean_up_on_signals()?;
    let setup = Setup::for_zero_copy(&args.guest)?;
    let mut guest = setup.boot(&setup.machine(), Cable::Drop)?;
    step("bring up two ports, cabled", || {
        guest.bring_up(setup.driver())
    })?;
    let [rounds, bytes, requests] = if args.quick {
        ["1", "8388608", "6400"]
    } else {
        ["5", "67108864", "400000"]
    };
    let compare = Exec::new([
        "zcnic-guest",
        "compare",
        "--rounds",
        rounds,
        "--bytes",
        bytes,
        "--requests",
        requests,
    ]);
    let lines = step("take interleaved samples", || {
        guest.check(&compare.timeout(PATIENCE))
    })?;
    step("look for warnings and leaks, power off", || guest.finish())?;
    let figure = |line: &str| -> Result<Figure> {
        let figure: guest::Figure = serde_json::from_str(line).with_context(|| line.to_owned())?;
        Ok(figure.into())
    };
    let figures = lines.lines().map(figure).collect::<Result<Vec<Figure>>>()?;
    for figure in &figures {
        figure.check()?;
        println!("{}", figure.line());
        println!("{:28} {}", "", json!(figure.counters));
    }
    args.report.write(&json!({
        "quick": args.quick,
        "commit": paths::commit(),
        "machine": facts::machine(Priority::Normal),
        "setup": setup.facts(),
        "figures": figures.iter().map(Figure::to_json).collect::<Vec<Value>>(),
    }))?;
    Ok(ExitCode::SUCCESS)
}
