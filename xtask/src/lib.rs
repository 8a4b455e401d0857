//! `cargo xtask`: set up, build, boot and test zcnic. One file per command; folders have their
//! parts. `zcnic-lab` is the same program for an installation, with the commands that need no
//! checkout.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use zcnic_cli::Describe;

mod bench;
mod cache;
mod cases;
mod ci;
mod crash;
mod demo;
mod driver;
mod fuzz;
mod kernel;
mod kselftest;
mod matrix;
mod package;
mod scenario;
mod soak;
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

/// Boot guests with zcnic ports, and run programs and the kernel's selftests in them
#[derive(Parser)]
#[command(
    name = "zcnic-lab",
    bin_name = "zcnic-lab",
    version = env!("ZCNIC_VERSION"),
    max_term_width = 100
)]
struct LabCli {
    #[command(subcommand)]
    command: InstalledCommand,
}

/// One variant per command; each module has `Args` and `run(Args) -> Result<ExitCode>`.
#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Lab(LabCommand),
    Ci(ci::Args),
    Crash(Box<crash::Args>),
    Driver(driver::Args),
    Fuzz(fuzz::Args),
    Kernel(kernel::Args),
    Package(package::Args),
    Tables(tables::Args),
    Test(test::Args),
}

/// The commands that an installation has, too.
#[derive(Subcommand)]
enum LabCommand {
    Bench(Box<bench::Args>),
    Cache(cache::Args),
    Demo(Box<demo::Args>),
    Kselftest(Box<kselftest::Args>),
    Matrix(Box<matrix::Args>),
    Scenario(Box<scenario::Args>),
    Soak(Box<soak::Args>),
    Verdict(Box<verdict::Args>),
    Vm(Box<vm::Args>),
}

#[derive(Subcommand)]
enum InstalledCommand {
    #[command(flatten)]
    Lab(LabCommand),
    #[command(flatten)]
    Describe(Describe),
}

/// Runs `cargo xtask`, as its arguments say.
pub fn xtask() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => return refuse(&error),
    };
    finish(|| match command {
        Command::Lab(command) => run(&command),
        Command::Ci(args) => ci::run(&args),
        Command::Crash(args) => crash::run(&args),
        Command::Driver(args) => driver::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Kernel(args) => kernel::run(&args),
        Command::Package(args) => package::run(&args),
        Command::Tables(args) => tables::run(&args),
        Command::Test(args) => test::run(&args),
    })
}

/// Runs `zcnic-lab`, as its arguments say.
pub fn zcnic_lab() -> ExitCode {
    let command = match LabCli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => return refuse(&error),
    };
    finish(|| match command {
        InstalledCommand::Lab(command) => run(&command),
        InstalledCommand::Describe(describe) => {
            describe.run(LabCli::command())?;
            Ok(ExitCode::SUCCESS)
        }
    })
}

fn run(command: &LabCommand) -> Result<ExitCode> {
    match command {
        LabCommand::Bench(args) => bench::run(args),
        LabCommand::Cache(args) => cache::run(args),
        LabCommand::Demo(args) => demo::run(args),
        LabCommand::Kselftest(args) => kselftest::run(args),
        LabCommand::Matrix(args) => matrix::run(args),
        LabCommand::Scenario(args) => scenario::run(args),
        LabCommand::Soak(args) => soak::run(args),
        LabCommand::Verdict(args) => verdict::run(args),
        LabCommand::Vm(args) => vm::run(args),
    }
}

/// Checks the arguments of a command of `cargo xtask`, and runs nothing.
///
/// # Errors
///
/// As the command would report them.
pub fn check_arguments<S: AsRef<str>>(words: &[S]) -> Result<(), clap::Error> {
    let words = words.iter().map(AsRef::as_ref);
    Cli::try_parse_from(std::iter::once("xtask").chain(words)).map(drop)
}

/// Prints what is wrong with the arguments, or the help that they ask for.
fn refuse(error: &clap::Error) -> ExitCode {
    // Standard error may be closed.
    let _ = error.print();
    verdict::status_of_arguments(error)
}

/// Runs a command, and prints its error.
fn finish(run: impl FnOnce() -> Result<ExitCode>) -> ExitCode {
    // When we are root, QEMU reads the cache as another user.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    run().unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
