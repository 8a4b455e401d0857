//! What receiving costs in a guest, by how it is done, and what provided buffers cost: `zcnic-guest compare`.

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

/// All turns, on a host that is busy otherwise.
const PATIENCE: Duration = Duration::from_secs(1200);

/// Compare ways to receive in a guest: recv(), epoll, TCP_ZEROCOPY_RECEIVE, zero-copy receive of io_uring
///
/// Each takes turns with recv() in a loop, in one boot: bytes per second that the guest's processor is busy with
/// receiving, and how many of them the kernel copied. So does recv() without recycling of pages. And requests of
/// io_uring that take provided buffers take turns with such that do not.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Few and short turns: whether everything can be measured, not how it comes out
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
    let lines = step("take turns", || guest.check(&compare.timeout(PATIENCE)))?;
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
