//! `zcnic`: the backend's command line.

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::mpsc::{self, Sender},
    thread,
};

use anyhow::Context;
use clap::{CommandFactory, Parser};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};
use zcnic_backend::{
    Backend, BoundedLog, Config, adopt_passed,
    args::{Cli, Command, Run},
    qemu,
};

fn main() -> ExitCode {
    log_within_limits();
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::QemuArgs(args)) => {
            println!("{}", qemu::render(&args));
            Ok(())
        }
        Some(Command::Describe(describe)) => describe.run(Cli::command()).map_err(Into::into),
        None => run(cli.run),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("zcnic: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(run: Run) -> anyhow::Result<()> {
    let config = Config::try_from(run)?;
    let ports = config.ports.iter().map(|port| &port.path);
    adopt_passed(ports.chain(&config.control).map(PathBuf::as_path))?;
    allow_descriptors();
    // An orderly end after a signal, or the message of a thread that failed.
    let (events, happened) = mpsc::channel();
    handle_signals(events.clone()).context("Can't handle signals")?;
    let (failures, failed) = mpsc::channel();
    let backend = Backend::start(&config, &failures)?;
    thread::Builder::new()
        .name("failures".into())
        .spawn(move || {
            if let Ok(failure) = failed.recv() {
                let _ = events.send(Err(failure));
            }
        })?;
    let outcome = happened.recv().unwrap_or(Ok(()));
    backend.stop();
    drop(failures);
    outcome.map_err(anyhow::Error::msg)
}

/// Logs to standard error what `RUST_LOG` names.
fn log_within_limits() {
    let environment = env_logger::Env::default().default_filter_or("info");
    let logger = env_logger::Builder::from_env(environment)
        .format_target(false)
        .build();
    let level = logger.filter();
    if log::set_boxed_logger(Box::new(BoundedLog::new(logger))).is_ok() {
        log::set_max_level(level);
    }
}

/// A port with all its rings has several hundred descriptors, and the usual limit is 1024.
fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        log::warn!("Can't raise the limit of open files: {error}");
    }
}

fn handle_signals(events: Sender<Result<(), String>>) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for (count, signal) in signals.forever().enumerate() {
                if count > 0 {
                    // A second signal ends the process at once.
                    std::process::exit(128 + signal);
                }
                log::info!("Stopping");
                let _ = events.send(Ok(()));
            }
        })?;
    Ok(())
}
