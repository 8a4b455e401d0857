//! `zcnic-guest snapshot`: an interface's rings, queue statistics and page pools.

use std::process::ExitCode;

use zcnic_guest_protocol::interface::Snapshot;

use crate::kit::net;

/// Prints an interface's rings, queue statistics and page pools as one JSON object
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Interface
    #[arg(long)]
    interface: String,
    /// Network namespace that it is in
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(netns) = &args.netns {
        net::enter_netns(netns)?;
    }
    let index = net::ifindex(&args.interface)?;
    let mut page_pools = net::page_pools()?;
    page_pools.retain(|pool| pool.ifindex == Some(index.into()));
    let snapshot = Snapshot {
        // Not every driver has these.
        rings: net::rings_by_index(index).ok(),
        queues: net::queue_stats(&args.interface).ok(),
        page_pools,
    };
    println!("{}", serde_json::to_string(&snapshot)?);
    Ok(ExitCode::SUCCESS)
}
