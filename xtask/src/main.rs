//! `cargo xtask`: set up, build, boot and test zcnic. One file per command; folders have their
//! parts.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod cache;
mod cases;
mod ci;
mod demo;
mod driver;
mod kernel;
mod kselftest;
mod matrix;
mod scenario;
mod suites;
mod tables;
mod test;
mod verdict;
mod vm;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// One variant per command; each module has `Args` and `run(Args) -> Result<ExitCode>`.
#[derive(Subcommand)]
enum Command {
    Bench(bench::Args),
    Cache(cache::Args),
    Ci(ci::Args),
    Demo(demo::Args),
    Driver(driver::Args),
    Kernel(kernel::Args),
    Kselftest(kselftest::Args),
    Matrix(matrix::Args),
    Scenario(scenario::Args),
    Tables(tables::Args),
    Test(test::Args),
    Verdict(verdict::Args),
    Vm(vm::Args),
}

fn main() -> ExitCode {
    // When we are root, QEMU reads the cache as another user.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let result: Result<ExitCode> = match Cli::parse().command {
        Command::Bench(args) => bench::run(&args),
        Command::Cache(args) => cache::run(&args),
        Command::Ci(args) => ci::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Driver(args) => driver::run(&args),
        Command::Kernel(args) => kernel::run(&args),
        Command::Kselftest(args) => kselftest::run(&args),
        Command::Matrix(args) => matrix::run(&args),
        Command::Scenario(args) => scenario::run(&args),
        Command::Tables(args) => tables::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Verdict(args) => verdict::run(&args),
        Command::Vm(args) => vm::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
