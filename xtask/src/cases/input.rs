//! Wrong input: one clear line, an exit status, and no process left running.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use zcnic_testbed::{
    agent::Exec, guest::Guest as Machine, paths, process::Running, setup::Setup, step::output,
};

use super::test::{
    Kind::Zcnic,
    Run::{Guest, Host},
    Test, expect,
};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "bad input: options that zcnic and xtask do not have",
        run: Host(wrong_options),
    },
    Test {
        name: "bad input: a machine that can't be made, and files that can't be written",
        run: Host(wrong_machines),
    },
    Test {
        name: "bad input: a socket that another zcnic listens on",
        run: Host(socket_in_use),
    },
    Test {
        name: "bad input: a QEMU that is too old, lacks vhost-user, or is another program",
        run: Host(wrong_qemu),
    },
    Test {
        name: "bad input: a kernel without io_uring zero-copy receive",
        run: Host(wrong_kernel),
    },
    Test {
        name: "bad input: a receive queue that does not exist, and one that can't be kept free",
        run: Guest(Zcnic, wrong_queue),
    },
    Test {
        name: "interrupted: the demo leaves neither a process nor a file",
        run: Host(interrupted),
    },
];

/// An environment variable of the processes that a test starts, to find those that it leaves
/// behind.
const MARK: &str = "ZCNIC_TEST_RUN";

/// Runs `command`, which must fail with an error of at most `lines` lines that contains all of
/// `words`, and leave no process.
fn refused(command: &mut Command, lines: usize, words: &[&str]) -> Result<()> {
    let mark = mark();
    let ended = output(command.env(MARK, &mark))?;
    let stderr = String::from_utf8_lossy(&ended.stderr);
    let what = || zcnic_testbed::step::describe(command);
    expect(!ended.status.success(), || format!("`{}` succeeds", what()))?;
    // Progress lines are not part of the error.
    let error: Vec<_> = stderr
        .lines()
        .filter(|line| !line.trim().is_empty() && !is_progress(line))
        .collect();
    let clear = error.len() <= lines && words.iter().all(|word| stderr.contains(word));
    expect(clear, || {
        format!(
            "`{}` prints\n{stderr}\nand not {words:?} in {lines} lines",
            what()
        )
    })?;
    nothing_left(&mark).with_context(|| format!("`{}`", what()))
}

/// Returns a value that no other process has.
fn mark() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{number}", std::process::id())
}

/// Fails if a process with this mark stays. A process that dies with its parent may need a moment.
fn nothing_left(mark: &str) -> Result<()> {
    let variable = format!("{MARK}={mark}");
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left = left_running(&variable)?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("these are left running: {}", left.join(", "));
        }
        // They are not our children, so we can't wait for their end.
        thread::sleep(Duration::from_millis(50));
    }
}

/// Returns whether it is a line of [`zcnic_testbed::step::step`]: seconds, or a remark of the
/// set-up.
fn is_progress(line: &str) -> bool {
    let seconds = line.trim_start().split("s  ").next().unwrap_or_default();
    seconds.parse::<f64>().is_ok() || line.starts_with("         ")
}

/// Returns the processes whose environment has `variable`.
fn left_running(variable: &str) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for process in fs::read_dir("/proc")? {
        let path = process?.path();
        // It has just ended, or is not ours.
        let Ok(environment) = fs::read(path.join("environ")) else {
            continue;
        };
        if environment
            .split(|&byte| byte == 0)
            .any(|entry| entry == variable.as_bytes())
        {
            let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
            left.push(format!("{} ({})", path.display(), name.trim()));
        }
    }
    Ok(left)
}

/// Returns a command for this program with these arguments.
fn xtask(words: &[&str]) -> Command {
    let mut command = paths::this_program();
    command.args(words);
    command
}

/// Lines of an error of clap: the error, the usage, and a hint to the help.
const CLAP_LINES: usize = 4;

fn wrong_options(setup: &Setup) -> Result<()> {
    let zcnic = || Command::new(&setup.programs.zcnic);
    let cases: [(&[&str], usize, &[&str]); 7] = [
        (
            &["--colour"],
            CLAP_LINES,
            &["unexpected argument '--colour'"],
        ),
        (
            &["--port", "path=/nonexistent/a,mode=fast"],
            CLAP_LINES,
            &["there is no mode \"fast\"; modes are auto, plain and zcnic"],
        ),
        (&[], 1, &["No port: give at least one --port path=SOCKET"]),
        (
            &["--port", "path=/nonexistent/a", "--cable", "0:1"],
            1,
            &["--cable 0:1: there is no port 1"],
        ),
        (
            &["--port", "path=/nonexistent/a"],
            1,
            &["/nonexistent/a", "No such file or directory"],
        ),
        (
            &["qemu-args", "--port", "path=/a", "--queues", "0"],
            CLAP_LINES,
            &["'--queues <QUEUES>'"],
        ),
        (
            &["qemu-args", "--port", "path=/a", "--memory", "lots"],
            CLAP_LINES,
            &["\"lots\" is not a size of memory"],
        ),
    ];
    for (arguments, lines, words) in cases {
        refused(zcnic().args(arguments), lines, words)?;
    }
    refused(
        &mut xtask(&["demo", "--fast"]),
        CLAP_LINES,
        &["unexpected argument '--fast'"],
    )
}

/// Values are checked before anything is downloaded, compiled or booted.
fn wrong_machines(_: &Setup) -> Result<()> {
    let cases: [(&[&str], usize, &[&str]); 9] = [
        (
            &["vm", "--memory", "lots"],
            CLAP_LINES,
            &["'lots'", "512M or 4G"],
        ),
        (
            &["kselftest", "--memory", "1M"],
            CLAP_LINES,
            &["512 MiB to"],
        ),
        (
            &["demo", "--cpus", "0"],
            CLAP_LINES,
            &["0 is not in 1..=255"],
        ),
        (
            &["vm", "--queues", "128"],
            CLAP_LINES,
            &["128 is not in 1..=127"],
        ),
        (
            &["vm", "--wire", "slow"],
            CLAP_LINES,
            &["drop, pause or PORT=WIRE"],
        ),
        (
            &["vm", "--ports", "3"],
            1,
            &["3 ports can't be cabled in pairs"],
        ),
        (
            &["vm", "--topology", "/nonexistent/t"],
            CLAP_LINES,
            &["--topology", "No such file"],
        ),
        (
            &["scenario", "--report", "/nonexistent/r"],
            CLAP_LINES,
            &["--report", "No such file"],
        ),
        (
            &["vm", "--artifacts", "/proc/nowhere"],
            CLAP_LINES,
            &["--artifacts", "No such file"],
        ),
    ];
    for (arguments, lines, words) in cases {
        refused(&mut xtask(arguments), lines, words)?;
    }
    Ok(())
}

fn socket_in_use(setup: &Setup) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("port.sock");
    let zcnic = || {
        let mut command = Command::new(&setup.programs.zcnic);
        command
            .arg("--port")
            .arg(format!("path={}", socket.display()));
        command
    };
    let mut first = Running::start("zcnic", zcnic().stderr(Stdio::null()))?;
    first.wait_for_file(&socket, Duration::from_secs(10))?;
    refused(&mut zcnic(), 1, &["port.sock", "in use"])?;
    expect(first.try_wait()?.is_none(), || {
        "the first one ended as well".to_owned()
    })?;
    expect(socket.exists(), || {
        "the first one's socket is gone".to_owned()
    })
}

/// Writes a script that answers like another QEMU.
fn fake_qemu(path: &Path, version: &str, netdevs: &str) -> Result<()> {
    let script = format!(
        "#!/bin/sh\ncase $1 in\n--version) echo '{version}' ;;\n*) printf '{netdevs}' ;;\nesac\n"
    );
    fs::write(path, script)?;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o755),
    )?)
}

fn wrong_qemu(_: &Setup) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let qemu = directory.path().join("qemu");
    let path = qemu.to_str().context("a path that is no text")?;
    let vm = || xtask(&["vm", "--qemu", path, "--", "true"]);
    let cases = [
        (
            "QEMU emulator version 7.2.19 (Debian 1:7.2)",
            "vhost-user\\n",
            "is QEMU 7.2.19 (Debian 1:7.2); zcnic needs 10.0 or newer",
        ),
        (
            "QEMU emulator version 10.0.2",
            "user\\ntap\\n",
            "was built without vhost-user",
        ),
        ("hello", "", "is not a QEMU system emulator"),
    ];
    for (version, netdevs, error) in cases {
        fake_qemu(&qemu, version, netdevs)?;
        refused(&mut vm(), 1, &["--qemu", error])?;
    }
    fs::remove_file(&qemu)?;
    refused(&mut vm(), 1, &["--qemu", path, "No such file"])
}

/// Makes a tree as if the guest's kernel were built without zero-copy receive.
fn wrong_kernel(setup: &Setup) -> Result<()> {
    let tree = tempfile::tempdir()?;
    let image = tree.path().join("arch/x86/boot/bzImage");
    fs::create_dir_all(image.parent().context("a file in no directory")?)?;
    fs::copy(&setup.kernel.vmlinuz, &image)?;
    let config = setup.kernel.config.as_ref();
    let config = config.context("the guest's kernel has no known configuration")?;
    let without: String = config
        .lines()
        .map(|line| match line {
            "CONFIG_IO_URING_ZCRX=y" => "# CONFIG_IO_URING_ZCRX is not set\n".to_owned(),
            other => format!("{other}\n"),
        })
        .collect();
    if without == *config {
        bail!("the guest's kernel has no zero-copy receive to begin with");
    }
    fs::write(tree.path().join(".config"), without)?;
    fs::write(tree.path().join("Makefile"), "modules_install:\n")?;
    let path = tree.path().to_str().context("a path that is no text")?;
    refused(
        &mut xtask(&["demo", "--kernel", path]),
        1,
        &[
            "has no io_uring zero-copy receive",
            "CONFIG_IO_URING_ZCRX=y",
        ],
    )
}

/// Interrupts the demo as Ctrl-C does, while backend and QEMU run.
fn interrupted(setup: &Setup) -> Result<()> {
    let mark = mark();
    // QEMU and the backend run as another user, who may enter it.
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let (words, stderr) = std::io::pipe()?;
    let mut demo = xtask(&["demo"]);
    demo.args(setup.arguments())
        .env(MARK, &mark)
        .env("TMPDIR", directory.path())
        .stderr(stderr)
        .stdout(Stdio::null());
    let mut running = Running::start("demo", &mut demo)?;
    // The pipe ends with the demo only if we hold no writing end.
    drop(demo);
    let booted = BufReader::new(words)
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains("s  boot Linux"));
    expect(booted, || "the demo did not boot".to_owned())?;
    let before = left_running(&format!("{MARK}={mark}"))?;
    expect(before.len() > 2, || format!("only these run: {before:?}"))?;
    running.interrupt()?;
    let ended = running.wait(Duration::from_secs(20))?;
    expect(!ended.success(), || "it ended with success".to_owned())?;
    nothing_left(&mark)?;
    let left: Vec<_> = fs::read_dir(directory.path())?.collect();
    expect(left.is_empty(), || format!("files are left: {left:?}"))
}

fn wrong_queue(guest: &mut Machine) -> Result<()> {
    let cases: [(&[&str], &str); 2] = [
        (
            &[
                "receive",
                "--interface=eth0",
                "--queue=99",
                "--port=1",
                "--bytes=1",
            ],
            "eth0 has no receive queue 99: it has ",
        ),
        (
            &["flow-steer", "--interface=eth0", "--queue=0", "--port=1"],
            "queue 0 can not be kept free of other traffic",
        ),
    ];
    for (arguments, error) in cases {
        let ended = guest.run(&Exec::new([&["zcnic-guest"], arguments].concat()))?;
        let clear = !ended.status.success()
            && ended.stderr.lines().count() == 1
            && ended.stderr.contains(error);
        expect(clear, || format!("{arguments:?} prints {}", ended.stderr))?;
    }
    Ok(())
}
