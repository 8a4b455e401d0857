//! The gate: `zcnic-guest check` looks for problems in the kernel after a test, passed or failed.

pub mod log;
pub mod pools;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use zcnic_guest_protocol::check::CheckResult;

/// Fails if the kernel log has a bad line or page pools leak; prints one JSON object
#[derive(Debug, clap::Args)]
pub struct Args {
    /// First record of the kernel log to look at: "next_seq" of an earlier call
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    since: u64,
    /// Time limit for buffers to be returned
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    wait: u64,
    /// Buffers that may be in use per page pool, instead of each interface's receive ring size
    #[arg(long, value_name = "BUFFERS")]
    posted: Option<u64>,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let page_pools = pools::settle(args.posted, Duration::from_secs(args.wait))?;
    // After the wait, which is when a stalled pool would be reported.
    let log = log::read(args.since).context("/dev/kmsg")?;
    let mut problems: Vec<String> = log
        .hits
        .iter()
        .map(|hit| format!("kernel log: {}", hit.line))
        .collect();
    if log.lost > 0 {
        problems.push(format!("{} records of the kernel log are lost", log.lost));
    }
    problems.extend(page_pools.iter().filter_map(pools::Found::problem));
    let ok = problems.is_empty();
    println!(
        "{}",
        serde_json::to_string(&CheckResult {
            ok,
            problems,
            log,
            page_pools: page_pools.into_iter().map(|found| found.place).collect(),
        })?
    );
    Ok(if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Writes a bad line to the kernel log, to test that `check` finds it
#[derive(Debug, clap::Args)]
pub struct InjectLogArgs {
    /// Class of the line; without it the classes are listed, one per line
    class: Option<String>,
}

/// Runs `zcnic-guest inject-log`.
pub fn inject_log(args: &InjectLogArgs) -> anyhow::Result<ExitCode> {
    let Some(class) = &args.class else {
        log::BAD_LINES
            .iter()
            .for_each(|bad_line| println!("{}", bad_line.name));
        return Ok(ExitCode::SUCCESS);
    };
    let Some(bad_line) = log::BAD_LINES
        .iter()
        .find(|bad_line| bad_line.name == class)
    else {
        bail!("no class of bad lines is called {class}; zcnic-guest inject-log lists them");
    };
    log::inject(bad_line).context("/dev/kmsg")?;
    Ok(ExitCode::SUCCESS)
}
