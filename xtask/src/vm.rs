//! `cargo xtask vm`: a guest to work in.

use std::{
    io::{IsTerminal, Read, Write, stdin, stdout},
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::Result;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde_json::json;
use zcnic_results::report::ReportArg;
use zcnic_testbed::{
    agent::{Exec, Output, Status},
    guest::Guest,
    lab::LabArgs,
    sandbox,
    setup::{GuestArgs, Setup},
    step::since_call,
};

/// Boot a guest with two ports, for a shell or for one command
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    lab: LabArgs,
    #[command(flatten)]
    report: ReportArg,
    /// Run this in the guest, pass on its output and exit status, and power off
    #[arg(last = true)]
    command: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    sandbox::clean_up_on_signals()?;
    let topology = args.lab.topology()?;
    let setup = Setup::new(&args.guest)?;
    let machine = setup.machine();
    if args.lab.only_print() {
        print!("{}", args.lab.script(&setup, &machine, &topology)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut lab = args.lab.boot(&setup, &machine, &topology)?;
    let first_output = since_call()?;
    lab.bring_up(&setup, &topology)?;
    eprintln!(
        "         control socket: {}",
        lab.control_socket()?.display()
    );
    let guest = lab.first()?;
    if args.lab.expects_answers() {
        guest.expect_answers()?;
    }
    let status = if args.command.is_empty() && stdin().is_terminal() {
        interactive(guest, args.lab.timeout()).map_err(|error| guest.explain(&error))?
    } else {
        let exec = if args.command.is_empty() {
            let mut script = String::new();
            stdin().read_to_string(&mut script)?;
            Exec::new(["bash"]).stdin(&script)
        } else {
            Exec::new(&args.command)
        };
        pass_on(guest, &exec.timeout(args.lab.timeout()))?
    };
    let report = json!({
        "status": status.code(),
        "kernel": guest.kernel,
        "qemu": setup.qemu.version,
        "acceleration": setup.acceleration.name(),
        "boot_seconds": guest.boot.as_secs_f64(),
        "first_output_seconds": first_output.as_secs_f64(),
    });
    for report in lab.power_off()? {
        eprintln!("{report}");
    }
    args.report.write(&report)?;
    Ok(ExitCode::from(status.code()))
}

/// Runs one command and passes its output on.
fn pass_on(guest: &mut Guest, exec: &Exec) -> Result<Status> {
    let mut end = Status::Exit(0);
    guest.stream(exec, |event| {
        match event {
            Output::Stdout(text) => {
                print!("{text}");
                stdout().flush()?;
            }
            Output::Stderr(text) => eprint!("{text}"),
            Output::Ended(status) => end = status,
        }
        Ok(())
    })?;
    Ok(end)
}

/// A shell on our terminal.
fn interactive(guest: &Guest, limit: Option<Duration>) -> Result<Status> {
    let size = tcgetwinsize(stdin())?;
    let exec = Exec::new(["bash", "-l"])
        .terminal(size.ws_row, size.ws_col)
        .timeout(limit);
    let exec = exec.env(
        "TERM",
        &std::env::var("TERM").unwrap_or_else(|_| "linux".to_owned()),
    );
    let _raw = RawTerminal::new()?;
    let mut shell = guest.spawn(&exec)?;
    let keyboard = shell.keyboard();
    // This thread ends with the process, because a blocked read of the terminal can't be
    // interrupted.
    thread::spawn(move || {
        let mut keys = [0; 1024];
        while let Ok(length @ 1..) = stdin().read(&mut keys) {
            if keyboard
                .input(&String::from_utf8_lossy(&keys[..length]))
                .is_err()
            {
                break;
            }
        }
    });
    loop {
        match shell.next_output()? {
            Output::Stdout(text) | Output::Stderr(text) => {
                stdout().write_all(text.as_bytes())?;
                stdout().flush()?;
            }
            Output::Ended(status) => return Ok(status),
        }
    }
}

/// The terminal without line editing and signals, until dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn new() -> Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
    }
}
