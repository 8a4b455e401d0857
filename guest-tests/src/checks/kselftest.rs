//! `zcnic-guest kselftest`: the kernel's own selftests of drivers, run as they are on the two
//! ports.
//!
//! This replaces kselftest's run_kselftest.sh: it sets the directory and the time
//! limit (`settings`), and merges both outputs. The environment describes the topology to the tests
//! (`tools/testing/selftests/drivers/net/README.rst`). A test runs once. A test that dies, hangs,
//! prints no results, or contradicts them by its exit status has failed.

mod needs;
mod shell;

use std::{
    borrow::Cow,
    fmt, fs,
    io::{self, BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};
use zcnic_guest_protocol::selftest::{CaseResult, Outcome, SelftestResults, TestResult};

use crate::{
    checks::ktap,
    kit::net,
    runtime::ports::{self, PEER},
};

/// A prefix beside the link's own, for tests that put a network namespace behind the first port.
const BEHIND_V6: &str = "2001:db8:2::/64";
/// Between SIGTERM, on which the harness cleans up, and SIGKILL.
const GRACE: Duration = Duration::from_secs(30);
/// How long background processes of a test may keep its output open.
const DRAIN: Duration = Duration::from_secs(5);
/// Exit status of a test that skips as a whole.
const KSFT_SKIP: i32 = 4;
/// Lines of output in the detail of a program that failed as a whole.
const DETAIL_LINES: usize = 40;

/// Runs the kernel's selftests on the two ports (set up by `ports up`); their output goes to
/// standard error, and one JSON object with all cases to standard output
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only list the installed tests
    #[arg(long)]
    list: bool,
    /// Only list the cases of the named tests, which are written in Python
    #[arg(long, conflicts_with = "list")]
    cases: bool,
    /// Run only this case of the named test; can be given several times
    #[arg(long = "case", value_name = "NAME", conflicts_with_all = ["list", "cases"])]
    only: Vec<String>,
    /// Directory that they are installed in
    #[arg(long, value_name = "DIRECTORY", default_value = "/opt/selftests")]
    root: PathBuf,
    /// Tests by file name (`iou-zcrx.py`) or path (`drivers/net/hw/iou-zcrx.py`)
    #[arg(required_unless_present = "list")]
    names: Vec<String>,
}

/// Runs the subcommand. Failed tests are no error of this function; the printed object has them.
pub fn run(args: &Args) -> Result<ExitCode> {
    let all = all(&args.root)?;
    if args.list {
        all.iter().for_each(|test| println!("{test}"));
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = args.names.iter().map(|name| find(&all, name));
    let wanted = wanted.collect::<Result<Vec<_>>>()?;
    let environment = environment()?;
    if args.cases {
        for test in wanted {
            print!("{}", cases_of(&args.root, test, &environment)?);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !args.only.is_empty() && wanted.len() != 1 {
        bail!("--case wants the name of one test");
    }
    let mut tests = Vec::new();
    for test in wanted {
        tests.push(run_one(&args.root, test, &args.only, &environment)?);
    }
    println!("{}", serde_json::to_string(&SelftestResults { tests })?);
    Ok(ExitCode::SUCCESS)
}

/// All tests: kselftest's list has a line `DIRECTORY:FILE` for each.
fn all(root: &Path) -> Result<Vec<String>> {
    let path = root.join("kselftest-list.txt");
    let list = fs::read_to_string(&path)
        .with_context(|| format!("no selftests are installed: {}", path.display()))?;
    Ok(list.lines().map(|line| line.replace(':', "/")).collect())
}

fn find<'a>(all: &'a [String], name: &str) -> Result<&'a str> {
    all.iter()
        .find(|test| *test == name || test.rsplit('/').next() == Some(name))
        .map(String::as_str)
        .with_context(|| {
            format!("no selftest is called {name}; `zcnic-guest kselftest --list` names them all")
        })
}

/// The harness's variables. Fails unless the ports are as they should be.
fn environment() -> Result<Vec<(&'static str, String)>> {
    let [here, there] = &ports::PORTS;
    let address = |port: &ports::Port, family: usize| {
        let address = port.addresses[family];
        address.split('/').next().unwrap_or(address).to_owned()
    };
    let local = address(here, 1);
    net::ifindex(here.name)
        .and_then(|_| {
            let route = ["ip", "-6", "route", "replace", BEHIND_V6, "via", &local];
            net::run(Some(PEER), &route)
        })
        .context("the ports are not set up (zcnic-guest ports up)")?;
    Ok(vec![
        ("NETIF", here.name.to_owned()),
        ("LOCAL_V4", address(here, 0)),
        ("LOCAL_V6", local),
        ("LOCAL_PREFIX_V6", BEHIND_V6.to_owned()),
        ("REMOTE_V4", address(there, 0)),
        ("REMOTE_V6", address(there, 1)),
        ("REMOTE_TYPE", "netns".to_owned()),
        ("REMOTE_ARGS", PEER.to_owned()),
    ])
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Status(ExitStatus),
    /// Not `gone`: not even SIGKILL ended it, so it hangs in the kernel.
    TimedOut {
        limit: Duration,
        gone: bool,
    },
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => status.fmt(f),
            Self::TimedOut { limit, gone } => {
                let unkillable = if *gone { "" } else { " and can't be killed" };
                write!(f, "timed out after {} s{unkillable}", limit.as_secs())
            }
        }
    }
}

/// A line and its time.
type TimedLine = (String, Instant);

/// Directory and file name of a test.
fn place<'a>(path: &'a Path, test: &str) -> Result<(&'a Path, Cow<'a, str>)> {
    let (Some(directory), Some(file)) = (path.parent(), path.file_name()) else {
        bail!("{test} is not a path of a file");
    };
    Ok((directory, file.to_string_lossy()))
}

/// The names of a test's cases, a line each, as the test lists them itself.
fn cases_of(root: &Path, test: &str, environment: &[(&'static str, String)]) -> Result<String> {
    let path = root.join(test);
    let (directory, file) = place(&path, test)?;
    let mut command = needs::command(&path, &file)?;
    let listed = command
        .arg("-l")
        .current_dir(directory)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .output()
        .with_context(|| test.to_owned())?;
    let printed = String::from_utf8_lossy(&listed.stdout);
    // A program may print remarks before.
    let is_name = |line: &&str| !line.is_empty() && !line.contains([' ', '#']);
    let names: String = printed
        .lines()
        .filter(is_name)
        .flat_map(|name| [name, "\n"])
        .collect();
    if !listed.status.success() || names.is_empty() {
        bail!(
            "{file} does not list its cases ({})\n{printed}{}",
            listed.status,
            String::from_utf8_lossy(&listed.stderr)
        );
    }
    Ok(names)
}

/// Runs a test, or only those of its cases that are named.
fn run_one(
    root: &Path,
    test: &str,
    only: &[String],
    environment: &[(&'static str, String)],
) -> Result<TestResult> {
    let path = root.join(test);
    let (directory, file) = place(&path, test)?;
    let limit = needs::time_limit(directory, &file)?;
    eprintln!("# {test}");
    needs::prepare(&file)?;
    let mut command = needs::command(&path, &file)?;
    shell::prepare(&path, &mut command)?;
    // Each case by name: the harness takes several.
    command.args(only.iter().flat_map(|case| ["-t", case]));
    command
        .current_dir(directory)
        .envs(environment.iter().map(|(name, value)| (name, value)));
    let started = Instant::now();
    let executed = needs::during(&file, || execute(command, limit));
    let (lines, end) = executed.with_context(|| test.to_owned())?;
    let seconds = started.elapsed().as_secs_f64();
    let cases = results_of(&file, &lines, end, started);
    Ok(TestResult {
        test: test.to_owned(),
        seconds,
        cases,
    })
}

/// Runs a program in a new process group, both outputs merged, and kills processes that it leaves.
fn execute(mut command: Command, limit: Duration) -> Result<(Vec<TimedLine>, End)> {
    let (output, input) = io::pipe()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(input.try_clone()?)
        .stderr(input)
        .process_group(0)
        .spawn()?;
    // Its copies of the pipe's end would keep it open.
    drop(command);
    let lines = pass_on(output);
    let group = Pid::from_raw(child.id().cast_signed()).context("no process id")?;
    let end = match wait(&mut child, group, limit)? {
        Some(status) => End::Status(status),
        None => {
            let mut gone = false;
            for signal in [Signal::TERM, Signal::KILL] {
                // It may have ended in the meantime.
                let _ = kill_process_group(group, signal);
                gone = gone || wait(&mut child, group, GRACE)?.is_some();
            }
            End::TimedOut { limit, gone }
        }
    };
    let _ = kill_process_group(group, Signal::KILL);
    let mut seen = Vec::new();
    // Ends when the pipe is closed, or when it stays open without a line for too long.
    while let Ok(line) = lines.recv_timeout(DRAIN) {
        seen.push(line);
    }
    Ok((seen, end))
}

/// Copies lines to standard error and to the receiver.
fn pass_on(output: impl io::Read + Send + 'static) -> Receiver<TimedLine> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut bytes = Vec::new();
        while let Ok(1..) = output.read_until(b'\n', &mut bytes) {
            let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            eprintln!("{line}");
            if sender.send((line, Instant::now())).is_err() {
                break;
            }
            bytes.clear();
        }
    });
    receiver
}

/// Waits for the child's end; `None` if it does not come in time.
fn wait(child: &mut Child, pid: Pid, limit: Duration) -> Result<Option<ExitStatus>> {
    let ended = pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")?;
    let limit = Timespec::try_from(limit)?;
    let ready = poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&limit)).context("poll")?;
    Ok(if ready == 0 {
        None
    } else {
        Some(child.wait()?)
    })
}

/// The cases of a run: the results in its output, and one for the program itself if it did anything
/// else than print them.
fn results_of(file: &str, lines: &[TimedLine], end: End, started: Instant) -> Vec<CaseResult> {
    let text: String = lines.iter().flat_map(|(line, _)| [line, "\n"]).collect();
    let report = ktap::parse(&text);
    let prefix = format!("{}.", file.strip_suffix(".py").unwrap_or(file));
    let seconds = durations(lines, report.cases.len(), started);
    let mut cases: Vec<CaseResult> = report
        .cases
        .iter()
        .zip(seconds)
        .map(|(case, seconds)| CaseResult {
            name: format!(
                "{file}:{}",
                case.name.strip_prefix(&prefix).unwrap_or(&case.name)
            ),
            outcome: case.outcome,
            seconds,
            detail: case.detail.clone(),
        })
        .collect();

    let mut problems = report.problems.clone();
    let failed = report.count(Outcome::Fail) > 0;
    match end {
        End::Status(status) if status.success() && !failed => {}
        End::Status(status) if status.code() == Some(1) && failed => {}
        other => problems.push(other.to_string()),
    }
    if problems.is_empty() {
        return cases;
    }
    let skipped = matches!(end, End::Status(status) if status.code() == Some(KSFT_SKIP));
    let tail = &lines[lines.len().saturating_sub(DETAIL_LINES)..];
    let detail: Vec<_> = problems
        .into_iter()
        .chain(tail.iter().map(|(line, _)| line.clone()))
        .collect();
    cases.push(CaseResult {
        name: file.to_owned(),
        outcome: if skipped && cases.is_empty() {
            Outcome::Skip
        } else {
            Outcome::Fail
        },
        seconds: 0.0,
        detail: detail.join("\n"),
    });
    cases
}

/// Seconds up to each of `count` results; zeros if the lines that look like results are others.
fn durations(lines: &[TimedLine], count: usize, started: Instant) -> Vec<f64> {
    let results = lines
        .iter()
        .filter(|(line, _)| line.starts_with("ok ") || line.starts_with("not ok "));
    let ends: Vec<Instant> = results.map(|(_, at)| *at).collect();
    if ends.len() != count {
        return vec![0.0; count];
    }
    let starts = [started].into_iter().chain(ends.iter().copied());
    ends.iter()
        .zip(starts)
        .map(|(end, start)| end.duration_since(start).as_secs_f64())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a shell script as if it were the selftest `t.py` with a limit of one second.
    fn cases(script: &str) -> Vec<CaseResult> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let started = Instant::now();
        let (lines, end) = execute(command, Duration::from_secs(1)).unwrap();
        results_of("t.py", &lines, end, started)
    }

    fn outcomes(script: &str) -> Vec<(String, Outcome)> {
        let cases = cases(script).into_iter();
        cases.map(|case| (case.name, case.outcome)).collect()
    }

    fn one(name: &str, outcome: Outcome) -> (String, Outcome) {
        (name.to_owned(), outcome)
    }

    const PLAN: &str = "echo TAP version 13; echo 1..2;";

    #[test]
    fn results_become_cases() {
        let script =
            format!("{PLAN} echo ok 1 t.a.x; echo '# Check failed' >&2; echo not ok 2 t.b; exit 1");
        assert_eq!(
            outcomes(&script),
            [one("t.py:a.x", Outcome::Pass), one("t.py:b", Outcome::Fail)]
        );
        assert_eq!(cases(&script)[1].detail, "Check failed");
    }

    #[test]
    fn an_exit_status_that_disagrees_is_a_failure() {
        let pass = "echo ok 1 t.a; echo ok 2 t.b;";
        let found = outcomes(&format!("{PLAN} {pass} exit 1"));
        assert_eq!(found[2], one("t.py", Outcome::Fail));
        let found = outcomes(&format!("{PLAN} {pass} kill -SEGV $$"));
        assert_eq!(found[2], one("t.py", Outcome::Fail));
        let fail = "echo not ok 1 t.a; echo ok 2 t.b;";
        let found = outcomes(&format!("{PLAN} {fail} exit 0"));
        assert_eq!(found[2], one("t.py", Outcome::Fail));
    }

    #[test]
    fn a_program_without_results_fails_with_its_output() {
        let found = cases("echo Traceback; echo RuntimeError: no; exit 1");
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].name.as_str(), found[0].outcome),
            ("t.py", Outcome::Fail)
        );
        assert!(found[0].detail.ends_with("Traceback\nRuntimeError: no"));
        assert_eq!(outcomes("exit 0"), [one("t.py", Outcome::Fail)]);
        assert_eq!(outcomes("exit 4"), [one("t.py", Outcome::Skip)]);
    }

    #[test]
    fn a_truncated_run_fails() {
        let found = outcomes(&format!("{PLAN} echo ok 1 t.a; exit 0"));
        assert_eq!(
            found,
            [one("t.py:a", Outcome::Pass), one("t.py", Outcome::Fail)]
        );
    }

    #[test]
    fn a_time_out_is_a_failure_and_leaves_nothing() {
        let started = Instant::now();
        let found = cases(&format!("{PLAN} echo ok 1 t.a; sleep 60 & sleep 61"));
        assert!(started.elapsed() < GRACE);
        assert_eq!(
            (found[1].name.as_str(), found[1].outcome),
            ("t.py", Outcome::Fail)
        );
        assert!(
            found[1].detail.contains("timed out after 1 s"),
            "{}",
            found[1].detail
        );
    }

    #[test]
    fn tests_are_found_by_file_name() {
        let all = ["drivers/net/hw/iou-zcrx.py".to_owned()];
        assert_eq!(find(&all, "iou-zcrx.py").unwrap(), all[0]);
        assert_eq!(find(&all, &all[0]).unwrap(), all[0]);
        assert!(find(&all, "zcrx.py").is_err());
    }
}
