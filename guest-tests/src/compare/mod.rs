//! `zcnic-guest compare`: the same stream received in several ways, by turns, and what a processor does
//! for it.
//!
//! Whoever receives has the first processor to himself, interrupts included, and whoever sends the second one; so the
//! time that the first one is not idle is what receiving costs, wherever in the kernel it is spent.

mod ways;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use self::ways::{Received, Way};
use crate::{
    lab::{
        self,
        connection::{Sender, connect},
        processor::{Interrupts, Load, Processor},
        traffic::ZERO_COPY,
    },
    net,
    pattern::Pattern,
    ports::PORTS,
};

/// Payload of a segment is a page: 20 bytes of IPv4, 20 of TCP, 12 of its timestamps.
const MTU: &str = "4148";

/// Compares ways to receive a TCP stream, by bytes per second of processor time
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How often each takes turns with recv()
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How much each turn receives
    #[arg(long, default_value_t = 64 << 20)]
    bytes: u64,
}

/// Turns of one way (a), of recv() (b), and of the way again, as `cargo xtask bench` reads it.
#[derive(Serialize)]
struct Figure {
    name: &'static str,
    unit: &'static str,
    a: Vec<f64>,
    b: Vec<f64>,
    again: Vec<f64>,
    counters: Counters,
}

/// Of all turns of one way.
#[derive(Default, Serialize)]
struct Counters {
    bytes: u64,
    /// Bytes that the kernel copied.
    copied: u64,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<ExitCode> {
    prepare()?;
    for way in Way::ALL {
        // Once with every byte verified, which would be most of the time that is measured.
        turn(way, args.bytes, true).with_context(|| format!("{way:?}"))?;
    }
    for way in Way::ALL {
        if way != Way::Recv {
            let figure = compare(way, args)?;
            println!("{}", serde_json::to_string(&figure)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Steers one flow to a queue that splits, with segments that fill pages, and divides the guest.
fn prepare() -> Result<()> {
    for side in &PORTS {
        net::run(side.netns, &["ip", "link", "set", side.name, "mtu", MTU])?;
    }
    lab::prepare()?;
    net::run(None, &["sysctl", "-qw", "vm.nr_hugepages=32"])?;
    Interrupts::divide().map(drop)
}

fn compare(way: Way, args: &Args) -> Result<Figure> {
    let mut figure = Figure {
        name: way.name(),
        unit: "bytes/CPU s",
        a: Vec::new(),
        b: Vec::new(),
        again: Vec::new(),
        counters: Counters::default(),
    };
    for _ in 0..args.rounds {
        for again in [false, true] {
            let (rate, copied) = turn(way, args.bytes, false)?;
            figure.counters.bytes += args.bytes;
            figure.counters.copied += copied;
            if again {
                figure.again.push(rate);
            } else {
                figure.a.push(rate);
                figure.b.push(turn(Way::Recv, args.bytes, false)?.0);
            }
        }
    }
    Ok(figure)
}

/// Receives so many bytes. Returns how many a second of processor time is good for, and how many the kernel copied.
fn turn(way: Way, bytes: u64, verify: bool) -> Result<(f64, u64)> {
    const SEED: u64 = 1;
    net::run(
        None,
        &[
            "ethtool",
            "-K",
            "eth0",
            "rx-gro-hw",
            if way.joins() { "on" } else { "off" },
        ],
    )?;
    let pattern = Pattern::new(SEED);
    let mut received = Received {
        bytes: 0,
        copied: 0,
        pattern: verify.then_some(&pattern),
    };
    let mut receiver = way.open()?;
    let connection = connect(ZERO_COPY.1, 1)?.pop().context("one connection")?;
    Processor::Senders.take()?;
    let load = Load::start(Processor::Receivers)?;
    let sender = Sender::start(connection.sender, SEED, bytes);
    Processor::Receivers.take()?;
    receiver.receive(&connection.receiver, &mut received)?;
    let time = load.busy()?;
    sender.finish()?;
    ensure!(
        received.bytes == bytes,
        "{} of {bytes} bytes came",
        received.bytes
    );
    Ok((bytes as f64 / time.as_secs_f64(), received.copied))
}
