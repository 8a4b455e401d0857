//! Throughput of the data path: port to port over a cable, with a frontend that costs next to
//! nothing.
//!
//! `cargo xtask bench` runs this and evaluates it; alone it prints one JSON object per line and
//! comparison. Each comparison is of two worlds that differ in one thing, or of a world and the
//! same bytes copied by memcpy. The sides are measured interleaved: a, b, and a again, whose
//! difference from a shows the noise.

mod capture;
mod ring;
mod scenarios;
mod spec;
mod world;

use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use rustix::thread::{CpuSet, sched_setaffinity};

/// Measures the data path
#[derive(Parser)]
struct Args {
    /// Rounds of each comparison
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long one measurement of a side takes
    #[arg(long, default_value_t = 300, value_name = "MILLISECONDS")]
    turn: u64,
    /// The processor of the backend's workers, and that of the frontend
    #[arg(long, default_values_t = [0, 1], num_args = 2)]
    cpus: Vec<usize>,
    /// Run only the comparisons of these names
    names: Vec<String>,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// The method of measurement.
#[derive(Clone, Copy)]
struct Method {
    rounds: usize,
    turn: Duration,
    /// The processors of the backend's workers and of the frontend.
    cpus: [usize; 2],
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let cpus: [usize; 2] = args.cpus[..].try_into().context("two processors")?;
    pin(cpus[1])?;
    let method = Method {
        rounds: args.rounds,
        turn: Duration::from_millis(args.turn),
        cpus,
    };
    scenarios::run(method, |name| {
        args.names.is_empty() || args.names.iter().any(|wanted| wanted == name)
    })
}

/// Pins the calling thread to `cpu`.
fn pin(cpu: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}
