//! `zcnicctl`: talks to a running backend.

use std::{net::IpAddr, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::Value;
use zcnic_ctl::{
    client::{Client, ClientError},
    protocol::{FlowCounterAdd, FlowCounterId, FlowMatch, Protocol, command},
};

/// Talks to a running zcnic backend over its control socket and prints what it answers, as JSON.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// The backend's control socket (zcnic --control).
    #[arg(long, short, value_name = "PATH")]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ports, who drives them, and cables.
    Status,
    /// Counters of ports and queues.
    Stats,
    /// Counters of single flows.
    #[command(subcommand)]
    Flow(Flow),
}

#[derive(Debug, Subcommand)]
enum Flow {
    /// Begins to count the frames of a flow that a port receives; prints the counter's number.
    Add(Add),
    /// Prints the counts by receive queue.
    Query {
        /// The counter's number.
        id: u64,
    },
    /// Ends a counter.
    Remove {
        /// The counter's number.
        id: u64,
    },
}

#[derive(Debug, Args)]
struct Add {
    /// Name of the receiving port.
    #[arg(long)]
    port: String,
    #[arg(long)]
    protocol: Option<L4>,
    /// Source IP address.
    #[arg(long)]
    source: Option<IpAddr>,
    /// Destination IP address.
    #[arg(long)]
    destination: Option<IpAddr>,
    #[arg(long)]
    source_port: Option<u16>,
    #[arg(long)]
    destination_port: Option<u16>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum L4 {
    Tcp,
    Udp,
}

fn run(cli: Cli) -> Result<Value, ClientError> {
    let mut client = Client::connect(&cli.socket)?;
    match cli.command {
        Command::Status => client.query(command::QUERY_STATUS),
        Command::Stats => client.query(command::QUERY_STATS),
        Command::Flow(Flow::Add(add)) => {
            let protocol = add.protocol.map(|protocol| match protocol {
                L4::Tcp => Protocol::Tcp,
                L4::Udp => Protocol::Udp,
            });
            let pattern = FlowMatch {
                protocol,
                source: add.source,
                destination: add.destination,
                source_port: add.source_port,
                destination_port: add.destination_port,
            };
            let arguments = FlowCounterAdd {
                port: add.port,
                pattern,
            };
            client.execute(command::FLOW_COUNTER_ADD, Some(&arguments))
        }
        Command::Flow(Flow::Query { id }) => {
            client.execute(command::FLOW_COUNTER_QUERY, Some(&FlowCounterId { id }))
        }
        Command::Flow(Flow::Remove { id }) => {
            client.execute(command::FLOW_COUNTER_REMOVE, Some(&FlowCounterId { id }))
        }
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(value) => {
            println!("{value:#}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("zcnicctl: {:#}", anyhow::Error::from(error));
            ExitCode::FAILURE
        }
    }
}
