//! Progress lines on standard error, and commands whose output matters only when they fail.

use std::{
    ffi::OsStr,
    fs,
    io::{IsTerminal, Write, stderr},
    process::{Command, Output, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Time spent in [`download`].
static DOWNLOADED: Mutex<Duration> = Mutex::new(Duration::ZERO);

/// Lines of a failed command's output in its error.
const TAIL_LINES: usize = 30;

/// Runs `work`, and prints a line with `what` and the seconds that it took. On a terminal the line
/// appears at the start and is updated in place; elsewhere it is printed at the end.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let terminal = stderr().is_terminal();
    if terminal {
        eprint!("      …  {what}");
        let _ = stderr().flush();
    }
    let start = Instant::now();
    let result = work();
    let seconds = start.elapsed().as_secs_f64();
    let verdict = if result.is_ok() { "" } else { "  FAILED" };
    let overwrite = if terminal { "\r\x1b[K" } else { "" };
    eprintln!("{overwrite}{seconds:6.1}s  {what}{verdict}");
    result
}

/// As [`step()`], for work whose time depends on the network; [`downloaded`] adds that up.
pub fn download<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = step(what, work);
    *DOWNLOADED.lock().unwrap_or_else(PoisonError::into_inner) += start.elapsed();
    result
}

/// Returns the time that all downloads took so far.
pub fn downloaded() -> Duration {
    *DOWNLOADED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the age of this process. `cargo run` becomes the program that it runs, so cargo's own
/// time is part of it.
pub fn since_call() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let uptime = fs::read_to_string("/proc/uptime")?;
    // The second field, a name in parentheses, may contain anything; starttime is the 22nd field.
    let ticks = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().nth(19));
    let started: f64 = ticks.context("/proc/self/stat is short")?.parse()?;
    let now: f64 = uptime
        .split(' ')
        .next()
        .context("/proc/uptime is empty")?
        .parse()?;
    let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
    Ok(Duration::from_secs_f64(
        (now - started / ticks_per_second).max(0.0),
    ))
}

/// Runs `command` to its end and returns its standard output.
///
/// # Errors
///
/// If it can't be started or fails; the error names it and has the end of its output.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        bail!(
            "`{}` failed ({})\n{}",
            describe(command),
            output.status,
            tail(&text, TAIL_LINES)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `command` to its end, with standard input closed. A failing exit status is no error.
pub fn output(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{}`", command.get_program().to_string_lossy()))
}

/// Returns the command as a user types it, for messages.
pub fn describe(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    words.join(" ")
}

/// Returns the last `lines` lines of `text`.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_shows_its_end() {
        let error = run(Command::new("sh").args(["-c", "seq 100; echo why >&2; exit 3"]));
        let text = error.unwrap_err().to_string();
        assert!(
            text.contains("exit status: 3") && text.ends_with("100\nwhy"),
            "{text}"
        );
        assert!(!text.contains("\n60\n"), "{text}");
    }

    #[test]
    fn a_missing_command_is_named() {
        let error = run(&mut Command::new("/nonexistent/tool")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/tool"));
    }
}
