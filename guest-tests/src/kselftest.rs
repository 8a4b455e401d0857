//! `zcnic-guest kselftest`: the kernel's own selftests of drivers, run as they are on the two ports.
//!
//! What kselftest's run_kselftest.sh does for a test is done here: its directory, its time limit
//! (`settings`), both outputs as one. The topology goes to the tests by environment
//! (`tools/testing/selftests/drivers/net/README.rst`). A test is run once, and whatever it does
//! besides printing results (dies, hangs, prints none, disagrees with its exit status) is a failure.

use std::{
    fmt, fs,
    io::{self, BufRead, BufReader},
    os::unix::{fs::MetadataExt, process::CommandExt},
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
use serde::Serialize;

use crate::{
    ktap::{self, Outcome},
    net,
    ports::{self, PEER},
};

/// A prefix beside the link's own, for tests that put a network namespace behind the first port.
const BEHIND_V6: &str = "2001:db8:2::/64";
/// kselftest's limit for directories that set none, in seconds.
const DEFAULT_TIMEOUT: u64 = 45;
/// For directories that say `timeout=0`: kselftest would wait for ever.
const HANGS_AFTER: Duration = Duration::from_secs(1800);
/// Between SIGTERM, on which the harness cleans up, and SIGKILL.
const GRACE: Duration = Duration::from_secs(30);
/// How long what a test left running may keep its output open.
const DRAIN: Duration = Duration::from_secs(5);
/// Exit status of a test that skips as a whole.
const KSFT_SKIP: i32 = 4;
/// Tests that look for processors on which no queue interrupts, and for queues that interrupt on one
/// only.
const NEED_FREE_PROCESSORS: [&str; 1] = ["toeplitz.py"];
/// Tests to which the order of frames matters that the peer sends one after the other: from several queues they come in
/// any, and so they do from Debian's queueing discipline, which takes turns among flows once the peer is faster than its
/// port.
const NEED_ORDER: [&str; 2] = ["gro.py", "gro_hw.py"];
/// Programs whose completion queue has room for less than they are sent, and which fail when it overflows. The kernel takes
/// payload for as long as more comes meanwhile, and up to a receive window of it each time (docs/findings.md).
const NEED_SMALL_WINDOW: [&str; 2] = ["iou-zcrx.py", "nk_qlease.py"];
/// Programs whose receivers lose what their sockets have no room for: 480 aggregates, of 500 that are sent at once. On the
/// processor that takes a queue's frames they would not run until all are there.
const NEED_OTHER_PROCESSORS: [&str; 2] = ["gro.py", "gro_hw.py"];
/// Programs that allow the kernel a time for something while all processors are busy with the load that they made: they come
/// before it.
const NEED_PRIORITY: [&str; 1] = ["rss_ctx.py"];
/// Protocols that tests take to be built in.
const NEED_MODULE: [(&str, &str); 1] = [("gro.py", "pppoe")];
/// Programs that wait for longer than their directory allows them: `xdp.py` for two seconds after each of some 130
/// datagrams.
const WAITS_LONGER: [(&str, Duration); 1] = [("xdp.py", Duration::from_secs(900))];
/// Lines of output in the detail of a program that failed as a whole.
const DETAIL_LINES: usize = 40;

/// Run the kernel's selftests on the two ports (set up by `ports up`); their output goes to standard
/// error, and one JSON object with all cases to standard output
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only list the tests there are
    #[arg(long)]
    list: bool,
    /// Where they are installed
    #[arg(long, value_name = "DIRECTORY", default_value = "/opt/selftests")]
    root: PathBuf,
    /// Tests by file name (`iou-zcrx.py`) or path (`drivers/net/hw/iou-zcrx.py`)
    #[arg(required_unless_present = "list")]
    names: Vec<String>,
}

/// One result.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Case {
    /// `iou-zcrx.py:test_zcrx.single`; the file alone for what concerns the program as a whole.
    name: String,
    outcome: Outcome,
    /// Since the previous result; 0 where they can't be told apart.
    seconds: f64,
    detail: String,
}

/// What a test program did.
#[derive(Debug, Serialize)]
struct Run {
    /// Path below the root.
    test: String,
    seconds: f64,
    cases: Vec<Case>,
}

#[derive(Serialize)]
struct Report {
    tests: Vec<Run>,
}

/// Runs the subcommand. Failed tests are no error: the object says so.
pub fn run(args: &Args) -> Result<ExitCode> {
    let all = all(&args.root)?;
    if args.list {
        all.iter().for_each(|test| println!("{test}"));
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = args.names.iter().map(|name| find(&all, name));
    let wanted = wanted.collect::<Result<Vec<_>>>()?;
    let environment = environment()?;
    let mut tests = Vec::new();
    for test in wanted {
        tests.push(run_one(&args.root, test, &environment)?);
    }
    println!("{}", serde_json::to_string(&Report { tests })?);
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
    /// Not `gone`: not even SIGKILL ended it, so it is stuck in the kernel.
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
                let stuck = if *gone { "" } else { " and can't be killed" };
                write!(f, "timed out after {} s{stuck}", limit.as_secs())
            }
        }
    }
}

/// A line and when it came.
type Line = (String, Instant);

fn run_one(root: &Path, test: &str, environment: &[(&'static str, String)]) -> Result<Run> {
    let path = root.join(test);
    let (Some(directory), Some(file)) = (path.parent(), path.file_name()) else {
        bail!("{test} is not a path of a file");
    };
    let file = file.to_string_lossy();
    let limit = match WAITS_LONGER.iter().find(|(test, _)| *test == file) {
        Some((_, limit)) => *limit,
        None => time_limit(directory)?,
    };
    eprintln!("# {test}");
    prepare(&file)?;
    let mut command = command(&path, &file)?;
    command
        .current_dir(directory)
        .envs(environment.iter().map(|(name, value)| (name, value)));
    let started = Instant::now();
    let executed = if NEED_SMALL_WINDOW.contains(&&*file) {
        with_small_window(|| execute(command, limit))
    } else {
        execute(command, limit)
    };
    let (lines, end) = executed.with_context(|| test.to_owned())?;
    let seconds = started.elapsed().as_secs_f64();
    let cases = judge(&file, &lines, end, started);
    Ok(Run {
        test: test.to_owned(),
        seconds,
        cases,
    })
}

/// Makes the ports such as a test needs them; they are made anew for the next one.
fn prepare(file: &str) -> Result<()> {
    if NEED_FREE_PROCESSORS.contains(&file) || NEED_OTHER_PROCESSORS.contains(&file) {
        pin_interrupts(ports::PORTS[0].name)?;
    }
    for (_, module) in NEED_MODULE.iter().filter(|(test, _)| *test == file) {
        net::run(None, &["modprobe", module])?;
    }
    if NEED_ORDER.contains(&file) {
        let peer = &ports::PORTS[1];
        for command in [
            format!("ethtool -L {} combined 1", peer.name),
            format!("tc qdisc replace dev {} root pfifo limit 10000", peer.name),
        ] {
            net::run(Some(PEER), &command.split(' ').collect::<Vec<_>>())?;
        }
    }
    Ok(())
}

/// Keeps receive windows at what they are at a stream's beginning while `work` goes on.
fn with_small_window<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    const WINDOW: &str = "/proc/sys/net/ipv4/tcp_rmem";
    let set = |value: &str| fs::write(WINDOW, value).context(WINDOW);
    let usual = fs::read_to_string(WINDOW).context(WINDOW)?;
    let words: Vec<_> = usual.split_whitespace().collect();
    let [least, first, _] = *words else {
        bail!("{WINDOW} is {usual:?}");
    };
    set(&format!("{least} {first} {first}"))?;
    let result = work();
    set(&usual)?;
    result
}

/// How kselftest starts it: a file that is not executable by its interpreter. Of those that need priority or other
/// processors, all are.
fn command(path: &Path, file: &str) -> Result<Command> {
    let content = fs::read(path).with_context(|| path.display().to_string())?;
    let program = format!("./{file}");
    if NEED_PRIORITY.contains(&file) {
        let mut command = Command::new("chrt");
        command.args(["--rr", "--reset-on-fork", "1", &program]);
        return Ok(command);
    }
    if NEED_OTHER_PROCESSORS.contains(&file) {
        let processors = thread::available_parallelism()?.get();
        let last = processors - 1;
        let first = interrupted(processors).min(last);
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", &format!("{first}-{last}"), &program]);
        return Ok(command);
    }
    if fs::metadata(path)?.mode() & 0o111 != 0 {
        return Ok(Command::new(program));
    }
    let first = content.split(|byte| *byte == b'\n').next().unwrap_or(&[]);
    let interpreter = str::from_utf8(first)
        .ok()
        .and_then(|line| line.strip_prefix("#!"))
        .with_context(|| {
            format!(
                "{} is neither executable nor names an interpreter",
                path.display()
            )
        })?;
    let mut words = interpreter.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).arg(program);
    Ok(command)
}

/// Binds each pair's interrupts to one processor in the lower half, in turn. The kernel keeps that for
/// the pair when channels come and go (`netif_set_affinity_auto()`).
fn pin_interrupts(interface: &str) -> Result<()> {
    let path = format!("/sys/class/net/{interface}/device/../msi_irqs");
    let mut interrupts = Vec::new();
    for entry in fs::read_dir(&path).with_context(|| path.clone())? {
        let name = entry?.file_name();
        let number: Option<u32> = name.to_str().and_then(|name| name.parse().ok());
        interrupts.push(number.with_context(|| format!("{path}/{}", name.display()))?);
    }
    interrupts.sort_unstable();
    let used = interrupted(thread::available_parallelism()?.get());
    // The first one is the configuration's; then each pair has two.
    for (place, interrupt) in interrupts.iter().skip(1).enumerate() {
        let path = format!("/proc/irq/{interrupt}/smp_affinity_list");
        let processor = place / 2 % used;
        fs::write(&path, processor.to_string()).with_context(|| path)?;
    }
    Ok(())
}

/// Of so many processors, those that have interrupts once these are pinned: the first ones.
fn interrupted(processors: usize) -> usize {
    processors.div_ceil(2)
}

/// The directory's `settings`.
fn time_limit(directory: &Path) -> Result<Duration> {
    let path = directory.join("settings");
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other.with_context(|| path.display().to_string())?,
    };
    let seconds = match text.lines().find_map(|line| line.strip_prefix("timeout=")) {
        Some(value) => value
            .trim()
            .parse()
            .with_context(|| format!("{}: timeout={value}", path.display()))?,
        None => DEFAULT_TIMEOUT,
    };
    Ok(match seconds {
        0 => HANGS_AFTER,
        seconds => Duration::from_secs(seconds),
    })
}

/// Runs a program in a process group of its own, both outputs as one, and ends what it leaves.
fn execute(mut command: Command, limit: Duration) -> Result<(Vec<Line>, End)> {
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
    // Ends when the pipe is closed, or stays open without a word for too long.
    while let Ok(line) = lines.recv_timeout(DRAIN) {
        seen.push(line);
    }
    Ok((seen, end))
}

/// Copies lines to standard error and to the receiver.
fn pass_on(output: impl io::Read + Send + 'static) -> Receiver<Line> {
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

/// The cases of a run: the results in its output, and one for the program itself unless these tell
/// all.
fn judge(file: &str, lines: &[Line], end: End, started: Instant) -> Vec<Case> {
    let text: String = lines.iter().flat_map(|(line, _)| [line, "\n"]).collect();
    let report = ktap::parse(&text);
    let prefix = format!("{}.", file.strip_suffix(".py").unwrap_or(file));
    let seconds = durations(lines, report.cases.len(), started);
    let mut cases: Vec<Case> = report
        .cases
        .iter()
        .zip(seconds)
        .map(|(case, seconds)| Case {
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
    cases.push(Case {
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
fn durations(lines: &[Line], count: usize, started: Instant) -> Vec<f64> {
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
    fn cases(script: &str) -> Vec<Case> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let started = Instant::now();
        let (lines, end) = execute(command, Duration::from_secs(1)).unwrap();
        judge("t.py", &lines, end, started)
    }

    fn outcomes(script: &str) -> Vec<(String, Outcome)> {
        let cases = cases(script).into_iter();
        cases.map(|case| (case.name, case.outcome)).collect()
    }

    fn one(name: &str, outcome: Outcome) -> (String, Outcome) {
        (name.to_owned(), outcome)
    }

    const HEAD: &str = "echo TAP version 13; echo 1..2;";

    #[test]
    fn results_become_cases() {
        let script =
            format!("{HEAD} echo ok 1 t.a.x; echo '# Check failed' >&2; echo not ok 2 t.b; exit 1");
        assert_eq!(
            outcomes(&script),
            [one("t.py:a.x", Outcome::Pass), one("t.py:b", Outcome::Fail)]
        );
        assert_eq!(cases(&script)[1].detail, "Check failed");
    }

    #[test]
    fn an_exit_status_that_disagrees_is_a_failure() {
        let pass = "echo ok 1 t.a; echo ok 2 t.b;";
        let found = outcomes(&format!("{HEAD} {pass} exit 1"));
        assert_eq!(found[2], one("t.py", Outcome::Fail));
        let found = outcomes(&format!("{HEAD} {pass} kill -SEGV $$"));
        assert_eq!(found[2], one("t.py", Outcome::Fail));
        let fail = "echo not ok 1 t.a; echo ok 2 t.b;";
        let found = outcomes(&format!("{HEAD} {fail} exit 0"));
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
    fn a_cut_short_run_fails() {
        let found = outcomes(&format!("{HEAD} echo ok 1 t.a; exit 0"));
        assert_eq!(
            found,
            [one("t.py:a", Outcome::Pass), one("t.py", Outcome::Fail)]
        );
    }

    #[test]
    fn a_time_out_is_a_failure_and_leaves_nothing() {
        let started = Instant::now();
        let found = cases(&format!("{HEAD} echo ok 1 t.a; sleep 60 & sleep 61"));
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
    fn a_file_that_is_not_executable_names_its_interpreter() {
        let path = std::env::temp_dir().join(format!("zcnic-script-{}", std::process::id()));
        fs::write(&path, "#!/usr/bin/env python3\nprint()\n").unwrap();
        let words = |command: Command| format!("{command:?}");
        assert_eq!(
            words(command(&path, "t.py").unwrap()),
            r#""/usr/bin/env" "python3" "./t.py""#
        );
        fs::write(&path, "print()\n").unwrap();
        assert!(command(&path, "t.py").is_err());
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn limits_come_from_the_directory() {
        let directory = std::env::temp_dir().join(format!("zcnic-settings-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let limit = |text: &str| {
            fs::write(directory.join("settings"), text).unwrap();
            time_limit(&directory)
        };
        assert_eq!(limit("timeout=360\n").unwrap(), Duration::from_secs(360));
        assert_eq!(limit("timeout=0\n").unwrap(), HANGS_AFTER);
        assert_eq!(limit("").unwrap(), Duration::from_secs(DEFAULT_TIMEOUT));
        assert!(limit("timeout=soon\n").is_err());
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn tests_are_found_by_file_name() {
        let all = ["drivers/net/hw/iou-zcrx.py".to_owned()];
        assert_eq!(find(&all, "iou-zcrx.py").unwrap(), all[0]);
        assert_eq!(find(&all, &all[0]).unwrap(), all[0]);
        assert!(find(&all, "zcrx.py").is_err());
    }
}
