//! `zcnic-guest flow-steer`: prepares a queue for zero-copy receive.

use std::process::ExitCode;

use anyhow::ensure;
use zcnic_guest_protocol::interface::FlowSteering;

use crate::kit::net;

/// Pairs of rules that the table of a zcnic port holds.
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

/// Runs the subcommand.
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
    // Locations that depend on the port, so that the command can be repeated: drivers may refuse a
    // second rule for the same flow at a location of their choice.
    let first = 2 * (u32::from(*port) % LOCATIONS);
    let rules = [first, first + 1];
    for (flow, location) in ["tcp4", "tcp6"].into_iter().zip(rules) {
        net::set_flow_rule(interface, flow, *port, *queue, location)?;
    }
    println!("{}", serde_json::to_string(&FlowSteering { rules })?);
    Ok(ExitCode::SUCCESS)
}
