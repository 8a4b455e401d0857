//! `zcnic-guest steer` prepares a queue for zero-copy receive, `zcnic-guest state` shows what a
//! scenario wants to know of an interface.

use std::process::ExitCode;

use anyhow::ensure;
use serde::Serialize;

use crate::net::{self, PagePool, QueueStats, Rings};

/// Pairs of rules that fit the table of zcnic.
const LOCATIONS: u32 = 512;

/// Splits headers from data, keeps all traffic off a queue except TCP to one port, and prints the
/// rules
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Interface
    #[arg(long)]
    interface: String,
    /// Queue that only the flow reaches; others hash to the queues below it
    #[arg(long)]
    queue: u32,
    /// Destination port of the flow
    #[arg(long)]
    port: u16,
    /// Number of combined channels to set first
    #[arg(long)]
    channels: Option<u32>,
}

#[derive(Serialize)]
struct Steered {
    /// Locations of the IPv4 and the IPv6 rule.
    rules: [u32; 2],
}

/// Runs `zcnic-guest steer`.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Args {
        interface,
        queue,
        port,
        channels,
    } = args;
    ensure!(
        *queue > 0,
        "queue 0 can not be kept free of other traffic: it must be 1 or more"
    );
    if let Some(channels) = channels {
        net::set_channels(None, interface, *channels)?;
    }
    net::set_tcp_data_split(interface, true)?;
    net::set_hds_thresh(interface, 0)?;
    net::set_rss_equal(interface, *queue)?;
    // Locations of the port's own, so that the command can be repeated: drivers refuse a second rule
    // for the same flow elsewhere.
    let location = 2 * (u32::from(*port) % LOCATIONS);
    let rules = [location, location + 1];
    for (flow, location) in ["tcp4", "tcp6"].into_iter().zip(rules) {
        net::set_flow_rule(interface, flow, *port, *queue, location)?;
    }
    println!("{}", serde_json::to_string(&Steered { rules })?);
    Ok(ExitCode::SUCCESS)
}

/// Prints an interface's rings, queue statistics and page pools as one JSON object
#[derive(Debug, clap::Args)]
pub struct StateArgs {
    /// Interface
    #[arg(long)]
    interface: String,
    /// Network namespace that it is in
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
}

#[derive(Serialize)]
struct State {
    rings: Option<Rings>,
    queues: Option<Vec<QueueStats>>,
    page_pools: Vec<PagePool>,
}

/// Runs `zcnic-guest state`.
pub fn state(args: &StateArgs) -> anyhow::Result<ExitCode> {
    if let Some(netns) = &args.netns {
        net::enter_netns(netns)?;
    }
    let index = net::ifindex(&args.interface)?;
    let mut page_pools = net::page_pools()?;
    page_pools.retain(|pool| pool.ifindex == Some(index.into()));
    let state = State {
        // Not every driver has these.
        rings: net::rings_by_index(index).ok(),
        queues: net::queue_stats(&args.interface).ok(),
        page_pools,
    };
    println!("{}", serde_json::to_string(&state)?);
    Ok(ExitCode::SUCCESS)
}
