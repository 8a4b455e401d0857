//! What the data path does in a second: port to port over a cable, with a frontend that costs next to nothing.
//!
//! `cargo xtask bench` runs this and judges; alone it prints one JSON object per line and comparison. Each
//! comparison is of two worlds that differ in one thing, or of a world and the same bytes copied by memcpy,
//! measured in turns: a, b, and a again, which says what a difference is worth.

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
    /// How often each comparison takes turns
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long a turn takes
    #[arg(long, default_value_t = 300, value_name = "MILLISECONDS")]
    turn: u64,
    /// The processor of the backend's workers, and that of the frontend
    #[arg(long, default_values_t = [0, 1], num_args = 2)]
    cpus: Vec<usize>,
    /// Only the comparisons of these names
    names: Vec<String>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// How to measure.
#[derive(Clone, Copy)]
struct Method {
    rounds: usize,
    turn: Duration,
    /// Where the backend's workers run, and the frontend.
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

/// Has the calling thread run on `cpu` only.
fn pin(cpu: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}
