//! Steps with a progress line on standard error, and commands whose output matters only when they
//! fail.

use std::{
    ffi::OsStr,
    fs,
    io::Read,
    process::{Command, ExitStatus, Output, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::progress::{self, Progress};

/// Time spent in [`download`].
static DOWNLOADED: Mutex<Duration> = Mutex::new(Duration::ZERO);

/// Lines of a failed command's output in its error.
const TAIL_LINES: usize = 30;

/// Runs `work`, and prints a line with `what` and the seconds that it took. On a terminal the line
/// lives meanwhile, with the last words of the commands that `work` runs; elsewhere it is printed
/// at the end, and every half minute says that the step lasts.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let progress = Progress::begin(what);
    let result = work();
    progress.end(what, result.is_err());
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
    let Output {
        status,
        mut stdout,
        stderr,
    } = output(command)?;
    if !status.success() {
        stdout.extend(stderr);
        bail!(failure(command, status, &String::from_utf8_lossy(&stdout)));
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// Runs a command that shows its own progress on standard error, and returns its standard output.
///
/// # Errors
///
/// As [`run`], without the output.
pub fn run_showing(command: &mut Command) -> Result<String> {
    let ended = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| cannot_run(command))?;
    if !ended.status.success() {
        bail!(failure(command, ended.status, ""));
    }
    Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
}

fn failure(command: &Command, status: ExitStatus, text: &str) -> String {
    format!(
        "`{}` failed ({status})\n{}",
        describe(command),
        tail(text, TAIL_LINES)
    )
}

fn cannot_run(command: &Command) -> String {
    format!("cannot run `{}`", command.get_program().to_string_lossy())
}

/// Runs `command` to its end, with standard input closed, and shows the last line of its output with
/// the current step. A failing exit status is no error.
pub fn output(command: &mut Command) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| cannot_run(command))?;
    let pipes = (child.stdout.take(), child.stderr.take());
    let (Some(stdout), Some(stderr)) = pipes else {
        bail!("{} has no output", cannot_run(command));
    };
    let (stdout, stderr) = thread::scope(|scope| {
        let other = scope.spawn(|| read_showing(stderr));
        (read_showing(stdout), other.join())
    });
    let status = child.wait()?;
    let stderr = stderr.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok(Output {
        status,
        stdout: stdout?,
        stderr,
    })
}

/// Reads to the end, and shows each complete line as it comes.
fn read_showing(mut pipe: impl Read) -> Result<Vec<u8>> {
    let mut read = Vec::new();
    let mut chunk = [0; 8192];
    let mut unseen = 0;
    loop {
        let count = pipe.read(&mut chunk)?;
        if count == 0 {
            return Ok(read);
        }
        read.extend_from_slice(&chunk[..count]);
        // Of several lines at once only the last is seen.
        if let Some(end) = read[unseen..].iter().rposition(|byte| *byte == b'\n') {
            let lines = &read[unseen..unseen + end];
            let start = lines
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1);
            progress::detail(&String::from_utf8_lossy(&lines[start..]));
            unseen += end + 1;
        }
    }
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
    fn both_streams_are_kept_whole() {
        // More than a pipe holds, on both at once.
        let script = "seq 20000; seq 20000 >&2; printf '\\377end'";
        let ended = output(Command::new("sh").args(["-c", script])).unwrap();
        assert_eq!(ended.stdout.len(), ended.stderr.len() + 4);
        assert!(ended.stdout.ends_with(b"20000\n\xffend"));
        assert!(ended.stderr.ends_with(b"20000\n"));
    }

    #[test]
    fn a_missing_command_is_named() {
        let error = run(&mut Command::new("/nonexistent/tool")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/tool"));
    }
}
