//! `zcnic`: the backend's command line.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    env,
    io::{self, IsTerminal, Write},
    panic,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::AtomicBool,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
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
    Backend, BoundedLog, Config, adopt_passed,
    args::{Cli, Command, Run},
    qemu,
    stderr::Stderr,
};

/// How long threads may take to end: so many times so long. On a host that is too busy to run them,
/// it does not run the thread that counts either.
const END: (usize, Duration) = (7, Duration::from_millis(100));

/// How long standard error may take to take the last lines after a signal.
const LAST_LINES: Duration = Duration::from_millis(200);

/// How long it may take to take the reason of a failure.
const FAILURE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let mut stderr = Stderr::default();
    log_to(&stderr);
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::QemuArgs(args)) => {
            println!("{}", qemu::render(&args));
            Ok(())
        }
        Some(Command::Describe(describe)) => describe.run(Cli::command()).map_err(Into::into),
        None => run(cli.run, &stderr),
    };
    match result {
        Ok(()) => {
            stderr.finish(LAST_LINES);
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(stderr, "zcnic: {error:#}");
            stderr.finish(FAILURE);
            ExitCode::FAILURE
        }
    }
}

/// Sends log lines, within limits, and panics to `stderr`.
fn log_to(stderr: &Stderr) {
    let env = env_logger::Env::default().default_filter_or("info");
    let mut builder = env_logger::Builder::from_env(env);
    let style = env::var("RUST_LOG_STYLE").unwrap_or_default();
    let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    // The logger does not see that its target is a terminal.
    if ["", "auto"].contains(&style.as_str()) && !plain && io::stderr().is_terminal() {
        builder.write_style(env_logger::WriteStyle::Always);
    }
    let logger = builder
        .target(env_logger::Target::Pipe(Box::new(stderr.clone())))
        .format_target(false)
        .build();
    let level = logger.filter();
    if log::set_boxed_logger(Box::new(BoundedLog::new(logger))).is_ok() {
        log::set_max_level(level);
    }
    panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::capture();
        match backtrace.status() {
            BacktraceStatus::Captured => log::error!("{panic}\n{backtrace}"),
            _ => log::error!("{panic}"),
        }
    }));
}

fn run(run: Run, stderr: &Stderr) -> anyhow::Result<()> {
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
    stderr.start().context("Can't start a thread")?;
    forward_first(signals, events.clone())?;
    thread::Builder::new()
        .name("failures".into())
        .spawn(move || {
            if let Ok(failure) = failed.recv() {
                let _ = events.send(Err(failure));
            }
        })?;
    let end = limit_end(stderr.clone()).context("Can't start a thread")?;
    let outcome = happened.recv().unwrap_or(Ok(()));
    let _ = end.send(());
    backend.stop();
    drop(end);
    drop(failures);
    outcome.map_err(anyhow::Error::msg)
}

/// Starts a thread that ends the process if it takes too long to end. The time begins with a message
/// and is over when the sender is dropped.
fn limit_end(stderr: Stderr) -> io::Result<Sender<()>> {
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new().name("end".into()).spawn(move || {
        let (times, pause) = END;
        let has_timed_out = |_| receiver.recv_timeout(pause) == Err(RecvTimeoutError::Timeout);
        if receiver.recv().is_ok() && (0..times).all(has_timed_out) {
            log::error!("A thread hangs: ending without it");
            stderr.finish(LAST_LINES);
            std::process::exit(1);
        }
    })?;
    Ok(sender)
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
