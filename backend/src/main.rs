//! `zcnic`: the backend's command line.

use std::{
    io,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::AtomicBool,
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
};

use anyhow::Context;
use clap::{CommandFactory, Parser};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
    iterator::Signals,
};
use zcnic_backend::{
    Backend, Config, adopt_passed,
    args::{Cli, Command, Run},
    qemu,
};

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"))
        .format_target(false)
        .init();
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
    let signals = catch_signals().context("Can't handle signals")?;
    let (failures, failed) = mpsc::channel();
    // Threads are started below only: the sandbox that begins here does not confine earlier ones.
    let backend = Backend::start(&config, &failures)?;
    forward_first(signals, events.clone())?;
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

/// Catches SIGINT and SIGTERM from now on. The second signal ends the process at once.
fn catch_signals() -> io::Result<Signals> {
    let kinds = [SIGINT, SIGTERM];
    let is_second = Arc::new(AtomicBool::new(false));
    for signal in kinds {
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&is_second))?;
        flag::register(signal, Arc::clone(&is_second))?;
    }
    Signals::new(kinds)
}

fn forward_first(
    mut signals: Signals,
    events: Sender<Result<(), String>>,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if signals.forever().next().is_some() {
                log::info!("Stopping");
                let _ = events.send(Ok(()));
            }
        })
}
