//! `zcnic-guest compare`: the processor time of several receive methods for the same stream, and,
//! without a stream, the cost of provided buffers.
//!
//! The receiver has the first processor to itself, its interrupts included, and the sender the
//! second one. So the first one's busy time is the cost of receiving, wherever in the kernel it is
//! spent.

mod buffers;
mod methods;
mod rounds;

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use zcnic_guest_protocol::figure::Figure;

use self::{
    methods::{ByteCounts, Method},
    rounds::{Side, interleave},
};
use crate::{
    fixture::{
        connection::{Sender, connect},
        lab,
        processor::{BusyTime, Interrupts, Processor},
        recycling::{PoolCounts, set_no_recycle},
        traffic::ZERO_COPY,
    },
    kit::net,
    runtime::ports::PORTS,
    traffic::pattern::Pattern,
};

/// Payload of a segment is a page: 20 bytes of IPv4, 20 of TCP, 12 of its timestamps.
const MTU: &str = "4148";
/// Unit of the figures of receive methods.
const RATE: &str = "bytes/CPU s";

/// Compares methods to receive a TCP stream, by bytes per second of processor time
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Rounds, in each of which every method is interleaved with recv()
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Bytes per stream; a sample takes as many streams as it needs
    #[arg(long, default_value_t = 64 << 20)]
    bytes: u64,
    /// Requests per sample of the comparisons without a stream
    #[arg(long, default_value_t = 400_000)]
    requests: u64,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<ExitCode> {
    prepare()?;
    for method in Method::ALL {
        // Verify every byte once, outside the samples, because that would dominate their time.
        stream(method, args.bytes, true).with_context(|| format!("{method:?}"))?;
    }
    let mut figures = buffers::compare(args.rounds, args.requests)?;
    figures.push(recycling(args)?);
    for method in Method::ALL {
        if method != Method::Recv {
            figures.push(compare(method, args)?);
        }
    }
    for figure in figures {
        println!("{}", serde_json::to_string(&figure)?);
    }
    Ok(ExitCode::SUCCESS)
}

/// Steers one flow to a queue that splits, makes segments fill pages, and divides the processors.
fn prepare() -> Result<()> {
    for side in &PORTS {
        net::run(side.netns, &["ip", "link", "set", side.name, "mtu", MTU])?;
    }
    lab::prepare()?;
    // Enough for the areas of several samples: the kernel releases an area some time after the
    // program has closed its ring.
    net::run(None, &["sysctl", "-qw", "vm.nr_hugepages=96"])?;
    Interrupts::divide().map(drop)
}

/// Compares a method with recv().
fn compare(method: Method, args: &Args) -> Result<Figure> {
    let (mut bytes, mut copied) = (0, 0);
    let mut figure = interleave(method.name(), RATE, args.rounds, |side| match side {
        Side::A => {
            let turn = Turn::take(method, args)?;
            bytes += turn.bytes;
            copied += turn.copied;
            Ok(turn.rate())
        }
        Side::B => Ok(Turn::take(Method::Recv, args)?.rate()),
    })?;
    figure.counters = BTreeMap::from([("bytes".to_owned(), bytes), ("copied".to_owned(), copied)]);
    Ok(figure)
}

/// Compares recv() with recycling of pages and without it (images/driver/zcnic_hold.c).
fn recycling(args: &Args) -> Result<Figure> {
    let mut counters = BTreeMap::new();
    let mut figure = interleave("guest_recycling", RATE, args.rounds, |side| {
        let (hold, names) = match side {
            Side::A => (false, ["pages", "lost"]),
            Side::B => (true, ["pages_without", "lost_without"]),
        };
        set_no_recycle(hold)?;
        let before = PoolCounts::now(ZERO_COPY.0)?;
        let turn = Turn::take(Method::Recv, args)?;
        let seen = before.since()?.payload;
        let lost = seen.released + seen.ring_full;
        for (name, count) in names.into_iter().zip([seen.handed_out(), lost]) {
            *counters.entry(name.to_owned()).or_default() += count;
        }
        Ok(turn.rate())
    })?;
    figure.counters = counters;
    Ok(figure)
}

/// A sample, or one stream of it.
#[derive(Default)]
struct Turn {
    bytes: u64,
    /// Bytes that the kernel copied.
    copied: u64,
    /// How long the receivers' processor was busy.
    busy: Duration,
}

impl Turn {
    /// Receives streams until their time is long enough to be measured.
    fn take(method: Method, args: &Args) -> Result<Self> {
        /// Ten times the unit in which the kernel reports idle time.
        const LEAST: Duration = Duration::from_millis(100);
        const MOST: usize = 20;
        let mut turn = Self::default();
        for _ in 0..MOST {
            let one = stream(method, args.bytes, false)?;
            turn.bytes += one.bytes;
            turn.copied += one.copied;
            turn.busy += one.busy;
            if turn.busy >= LEAST {
                return Ok(turn);
            }
        }
        bail!("{} bytes arrived in {:?}", turn.bytes, turn.busy)
    }

    /// Bytes per second of processor time.
    fn rate(&self) -> f64 {
        self.bytes as f64 / self.busy.as_secs_f64()
    }
}

/// Receives one stream of `bytes` bytes.
fn stream(method: Method, bytes: u64, verify: bool) -> Result<Turn> {
    const SEED: u64 = 1;
    net::run(
        None,
        &[
            "ethtool",
            "-K",
            "eth0",
            "rx-gro-hw",
            if method.coalesces() { "on" } else { "off" },
        ],
    )?;
    let pattern = Pattern::new(SEED);
    let mut received = ByteCounts {
        bytes: 0,
        copied: 0,
        pattern: verify.then_some(&pattern),
    };
    let mut receiver = method.open()?;
    let connection = connect(ZERO_COPY.1, 1)?.pop().context("one connection")?;
    Processor::Senders.take()?;
    let load = BusyTime::start(Processor::Receivers)?;
    let sender = Sender::start(connection.sender, SEED, bytes);
    Processor::Receivers.take()?;
    receiver.receive(&connection.receiver, &mut received)?;
    let busy = load.busy()?;
    sender.finish()?;
    ensure!(
        received.bytes == bytes,
        "{} of {bytes} bytes arrived",
        received.bytes
    );
    Ok(Turn {
        bytes,
        copied: received.copied,
        busy,
    })
}
