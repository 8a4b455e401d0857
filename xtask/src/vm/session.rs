//! A command in the guest with the standard streams of this process: a terminal, or bytes.

use std::{
    io::{ErrorKind, IsTerminal, Read, Write, stderr, stdin, stdout},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::{
    process::{Signal, getpgrp, getpid, kill_process},
    termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr},
};
use signal_hook::{consts::SIGWINCH, iterator::Signals};
use zcnic_testbed::agent::{Agent, Exec, Input, Output, Status};

/// Typed this often within a second, this key ends the session although the guest hangs
/// (as in systemd-nspawn).
const ESCAPE: (u8, usize) = (0x1d, 3);
/// Bytes that are read at once.
const CHUNK: usize = 64 * 1024;

/// Runs `command` or, if that is empty, a shell, until its end, for at most `limit`. On a terminal it gets one of the same
/// size; otherwise its input, output and errors pass unchanged.
///
/// # Errors
///
/// If the command can't be started or the guest ends first, or if standard output can't be written.
pub(super) fn run(agent: &Agent, command: &[String], limit: Option<Duration>) -> Result<Status> {
    let (shell, login) = (["bash".to_owned()], ["bash".to_owned(), "-l".to_owned()]);
    match (is_interactive(command), command.is_empty()) {
        (true, true) => interactive(agent, &login, limit),
        (true, false) => interactive(agent, command, limit),
        (false, true) => pass_on(agent, &shell, limit),
        (false, false) => pass_on(agent, command, limit),
    }
}

/// Returns whether `command` gets a terminal: a shell by a terminal that is its input, another
/// command by one that is its output and errors, too.
pub(super) fn is_interactive(command: &[String]) -> bool {
    let typed = stdin().is_terminal() && tcgetpgrp(stdin()).is_ok_and(|group| group == getpgrp());
    let shown = stdout().is_terminal() && stderr().is_terminal();
    typed && (shown || command.is_empty())
}

/// Runs a command with the streams of this process.
fn pass_on(agent: &Agent, command: &[String], limit: Option<Duration>) -> Result<Status> {
    let exec = Exec::new(command).timeout(limit);
    // A pager behind us gets the keys of a terminal, not the command.
    let mut running = if stdin().is_terminal() {
        agent.spawn(&exec)?
    } else {
        let running = agent.spawn(&exec.stdin())?;
        let input = running.input();
        // This thread ends with the process, because a blocked read can't be interrupted.
        thread::spawn(move || feed(input));
        running
    };
    loop {
        let written = match running.next_output()? {
            Output::Stdout(bytes) => {
                let mut stdout = stdout().lock();
                stdout.write_all(&bytes).and_then(|()| stdout.flush())
            }
            Output::Stderr(bytes) => stderr().write_all(&bytes),
            Output::Ended(status) => return Ok(status),
        };
        match written {
            // As if the command had written to the pipe itself.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                return Ok(Status::Signal(Signal::PIPE.as_raw()));
            }
            other => other.context("cannot write the command's output")?,
        }
    }
}

/// Passes standard input on until it ends or the command does.
fn feed(mut input: Input) {
    let mut chunk = vec![0; CHUNK];
    loop {
        match stdin().read(&mut chunk) {
            Ok(length @ 1..) => {
                if input.write_all(&chunk[..length]).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Input that can't be read has ended, as for a program that reads it itself.
            Ok(0) | Err(_) => break,
        }
    }
    // The command may have ended.
    let _ = input.end();
}

/// Runs a command on our terminal.
fn interactive(agent: &Agent, command: &[String], limit: Option<Duration>) -> Result<Status> {
    let size = tcgetwinsize(stdin())?;
    let term = std::env::var("TERM").unwrap_or_else(|_| "linux".to_owned());
    let exec = Exec::new(command)
        .terminal(size.ws_row, size.ws_col)
        .timeout(limit)
        .env("TERM", &term);
    let raw = RawTerminal::new()?;
    let mut shell = agent.spawn(&exec)?;
    let (keyboard, window) = (shell.input(), shell.input());
    let before = raw.0.clone();
    // These threads end with the process: a blocked read of the terminal can't be interrupted.
    thread::spawn(move || type_on(keyboard, &before));
    let mut changes = Signals::new([SIGWINCH]).context("cannot follow the terminal's size")?;
    thread::spawn(move || {
        for _ in changes.forever() {
            if let Ok(size) = tcgetwinsize(stdin())
                && window.resize(size.ws_row, size.ws_col).is_err()
            {
                return;
            }
        }
    });
    loop {
        match shell.next_output()? {
            Output::Stdout(bytes) | Output::Stderr(bytes) => {
                stdout().write_all(&bytes)?;
                stdout().flush()?;
            }
            Output::Ended(status) => return Ok(status),
        }
    }
}

/// Passes keys on, and ends this process when [`ESCAPE`] is typed.
fn type_on(mut keyboard: Input, before: &Termios) {
    let mut escape = Escape::default();
    let mut keys = [0; 1024];
    while let Ok(length @ 1..) = stdin().read(&mut keys) {
        let keys = &keys[..length];
        if escape.is_complete(keys, Instant::now()) {
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
            eprintln!("\r\nended by Ctrl-]");
            // Its handler removes what a drop would.
            let _ = kill_process(getpid(), Signal::INT);
            return;
        }
        if keyboard.write_all(keys).is_err() {
            return;
        }
    }
}

/// Looks for [`ESCAPE`] among keys.
#[derive(Default)]
struct Escape {
    typed: usize,
    since: Option<Instant>,
}

impl Escape {
    /// Returns whether `keys`, typed at `now`, complete the sequence.
    fn is_complete(&mut self, keys: &[u8], now: Instant) -> bool {
        let (key, times) = ESCAPE;
        for &typed in keys {
            let in_time = self
                .since
                .is_some_and(|since| now.duration_since(since) <= Duration::from_secs(1));
            if typed != key {
                self.typed = 0;
                continue;
            }
            if self.typed == 0 || !in_time {
                *self = Self {
                    typed: 0,
                    since: Some(now),
                };
            }
            self.typed += 1;
            if self.typed == times {
                return true;
            }
        }
        false
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_is_three_keys_within_a_second() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let complete = |typed: &[(&[u8], u64)]| {
            let mut escape = Escape::default();
            typed
                .iter()
                .any(|&(keys, time)| escape.is_complete(keys, at(time)))
        };
        assert!(complete(&[(b"ls\x1d\x1d\x1d", 0)]));
        assert!(complete(&[(b"\x1d", 0), (b"\x1d", 300), (b"\x1d", 900)]));
        assert!(!complete(&[(b"\x1d\x1dx\x1d", 0)]));
        assert!(!complete(&[(b"\x1d", 0), (b"\x1d", 600), (b"\x1d", 1200)]));
    }
}
