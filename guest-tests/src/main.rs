//! `zcnic-guest`: everything that runs inside the guest, in one static binary.

use std::{ffi::OsString, path::Path, process::ExitCode};

use clap::{Parser, Subcommand};
use zcnic_guest::{
    checks::{gate, kselftest},
    runtime::{agent, flow_steer, init, ports, snapshot},
    suites::{compare, edges, faults, features, scenarios, soak},
    traffic::{echo, receive, send, udp_ping},
};

#[derive(Parser)]
#[command(
    name = "zcnic-guest",
    version = env!("ZCNIC_VERSION"),
    about = "Init, agent, traffic and tests of a zcnic guest"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// One variant per module that has a command line. Former names are hidden aliases.
#[derive(Subcommand)]
enum Command {
    Agent(agent::Args),
    #[command(alias = "gate")]
    Check(gate::Args),
    Compare(compare::Args),
    Echo(echo::Args),
    Edges(edges::Args),
    Faults(faults::Args),
    #[command(alias = "systems")]
    Features(features::Args),
    #[command(alias = "steer")]
    FlowSteer(flow_steer::Args),
    Init(init::Args),
    #[command(alias = "trip")]
    InjectLog(gate::InjectLogArgs),
    Kselftest(kselftest::Args),
    Ports(ports::Args),
    Receive(receive::Args),
    Scenarios(scenarios::Args),
    Send(send::Args),
    Soak(soak::Args),
    #[command(alias = "state")]
    Snapshot(snapshot::Args),
    #[command(alias = "volley")]
    UdpPing(udp_ping::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse_from(command_line());
    let result: anyhow::Result<ExitCode> = match cli.command {
        Command::Agent(args) => agent::run(&args),
        Command::Check(args) => gate::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Echo(args) => echo::run(&args),
        Command::Edges(args) => edges::run(&args),
        Command::Faults(args) => faults::run(&args),
        Command::Features(args) => features::run(&args),
        Command::FlowSteer(args) => flow_steer::run(&args),
        Command::Init(args) => init::run(&args),
        Command::InjectLog(args) => gate::inject_log(&args),
        Command::Kselftest(args) => kselftest::run(&args),
        Command::Ports(args) => ports::run(&args),
        Command::Receive(args) => receive::run(&args),
        Command::Scenarios(args) => scenarios::run(&args),
        Command::Send(args) => send::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Snapshot(args) => snapshot::run(&args),
        Command::UdpPing(args) => udp_ping::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("zcnic-guest: {error:#}");
        ExitCode::FAILURE
    })
}

/// The kernel starts init with all words of its command line that it did not understand. As init,
/// the program therefore ignores its arguments.
fn command_line() -> Vec<OsString> {
    let given: Vec<OsString> = std::env::args_os().collect();
    let named_init = given
        .first()
        .is_some_and(|name| Path::new(name).ends_with("init"));
    if std::process::id() == 1 || named_init {
        vec!["zcnic-guest".into(), "init".into()]
    } else {
        given
    }
}
