//! `cargo xtask`: set up, build, boot and test zcnic. One file per command; the rest are the parts
//! that commands share.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod agent;
mod archive;
mod backend;
mod bench;
mod bootstrap;
mod buildroot;
mod cache;
mod cargo_tests;
mod cases;
mod ci;
mod control;
mod demo;
mod driver;
mod guest;
mod host;
mod initrd;
mod junit;
mod kernel;
mod kselftest;
mod ktap;
mod linux;
mod machine;
mod matrix;
mod netdev_ci;
mod paths;
mod process;
mod programs;
mod qemu;
mod qmp;
mod report;
mod rings;
mod rootfs;
mod sandbox;
mod scenario;
mod selftests;
mod setup;
mod step;
mod stream;
mod suite;
mod tables;
mod test;
mod verdict;
mod violations;
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
    // What the cache holds is read by another user when we are root.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let result: Result<ExitCode> = match Cli::parse().command {
        Command::Bench(args) => bench::run(&args),
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
