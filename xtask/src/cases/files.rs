//! Files, programs and terminals: `vm` with a user at its terminal, and other processes that attach to
//! its guest.

use std::{
    fs,
    fs::File,
    io::{ErrorKind, Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use zcnic_testbed::{paths, process::Running, provision::host, setup::Setup};

use super::test::{Run::Host, Test, expect};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "files: what can't be copied or shared is refused before the guest boots",
        run: Host(refused_before_boot),
    },
    Test {
        name: "files: a terminal, files in and out, shared directories, and a second process",
        run: Host(terminal_and_files),
    },
];

/// Far longer than a guest takes to boot and power off on a busy host.
const PATIENCE: Duration = Duration::from_secs(600);

/// Returns bytes without a pattern, among them all values (a linear congruential generator).
fn odd_bytes(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn refused_before_boot(_: &Setup) -> Result<()> {
    let cases: [(&[&str], &str); 7] = [
        (
            &["--put", "/nonexistent:/tmp"],
            "/nonexistent: No such file",
        ),
        (
            &["--get", "/etc/hosts:/nonexistent/a"],
            "/nonexistent: No such file",
        ),
        (
            &["--share", "/nonexistent:rw"],
            "/nonexistent is no directory",
        ),
        (
            &["--share", "/usr/lib", "--share", "/lib"],
            "would be at /mnt/lib",
        ),
        (
            &["--packages", "no-such-package"],
            "has no package no-such-package",
        ),
        (
            &["--packages", "a b"],
            r#""a b" is no name of a Debian package"#,
        ),
        (
            &["--attach", "no-such-guest"],
            r#"no guest "no-such-guest" to attach to"#,
        ),
    ];
    let start = Instant::now();
    for (words, reason) in cases {
        let output = zcnic_testbed::step::output(paths::this_program().arg("vm").args(words))?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let refused =
            !output.status.success() && stderr.contains(reason) && !stderr.contains("boot Linux");
        expect(refused, || format!("vm {words:?} prints {stderr}"))?;
    }
    expect(start.elapsed() < PATIENCE, || "it took minutes".to_owned())
}

/// A program on a terminal of ours.
struct Terminal {
    outer: File,
    program: Running,
    /// All that it has printed.
    printed: String,
}

impl Terminal {
    fn start(command: &Command, size: [u16; 2]) -> Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let outer = openpt(flags)?;
        grantpt(&outer)?;
        unlockpt(&outer)?;
        let inner = ioctl_tiocgptpeer(&outer, flags)?;
        let outer = File::from(outer);
        set_size(&outer, size)?;
        let mut session = host::command("setsid");
        session
            .args(["--ctty", "--wait"])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(inner.try_clone()?)
            .stdout(inner.try_clone()?)
            .stderr(inner);
        for (name, value) in command.get_envs() {
            session.env(name, value.unwrap_or_default());
        }
        if let Some(directory) = command.get_current_dir() {
            session.current_dir(directory);
        }
        Ok(Self {
            outer,
            program: Running::start("vm", &mut session)?,
            printed: String::new(),
        })
    }

    /// Waits until it has printed `text`.
    fn wait_for(&mut self, text: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.printed.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(&self.outer, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec::try_from(left)?))?;
            if left.is_zero() || !self.read()? {
                bail!("{text:?} is not in {}", self.printed);
            }
        }
        Ok(())
    }

    /// Reads once; returns false at the end.
    fn read(&mut self) -> Result<bool> {
        let mut bytes = [0; 4096];
        match self.outer.read(&mut bytes) {
            Ok(length) => {
                let text = String::from_utf8_lossy(&bytes[..length]);
                self.printed.push_str(&text);
                Ok(length > 0)
            }
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    fn write_line(&mut self, line: &str) -> Result<()> {
        self.printed.clear();
        Ok(write!(self.outer, "{line}\r")?)
    }

    /// Waits for its end; returns its exit status.
    fn end(mut self) -> Result<Option<i32>> {
        while self.read()? {}
        Ok(self.program.wait(PATIENCE)?.code())
    }
}

fn set_size(terminal: &File, [ws_row, ws_col]: [u16; 2]) -> Result<()> {
    let size = Winsize {
        ws_row,
        ws_col,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(terminal, size)?)
}

/// A guest for all of this, with a directory of the host that has what goes in and comes out.
fn terminal_and_files(setup: &Setup) -> Result<()> {
    let directory = tempfile::tempdir()?;
    // QEMU and the backend run as another user, who enters it for their sockets.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let vm = || {
        let mut vm = paths::this_program();
        vm.arg("vm")
            .env("TMPDIR", directory.path())
            .current_dir(directory.path());
        vm
    };
    let bytes = odd_bytes(5_000_000);
    prepare(directory.path(), &bytes)?;
    let mut command = vm();
    command.args(setup.arguments()).args([
        "--put=bytes",
        "--put=tree:/opt/put/",
        "--share=read,only",
        "--share=written:rw",
        "--get=/root/bytes:back",
        "--get=/opt/put/tree:tree-back",
        "--get=/proc/version",
    ]);
    let mut terminal = Terminal::start(&command, [30, 100])?;
    terminal.wait_for("zcnic:~#")?;
    let banner = terminal.printed.clone();
    let attach = |words: &[&str]| {
        let mut attached = vm();
        attached.arg("--attach").args(words);
        attached
    };

    the_banner_is_right(&banner, &attach)?;
    bytes_pass_unchanged(&attach(&["--", "cat"]), &bytes)?;
    others_run_commands(&attach)?;
    the_size_is_followed(&mut terminal)?;
    let share = "set -e; test \"$(cat '/mnt/read,only/secret')\" = text
        ! touch '/mnt/read,only/new' 2> /dev/null
        cd /mnt/written; cp /root/bytes .; chmod 640 bytes; mkdir made; touch made/file
        ls /opt/put/tree/link /opt/put/tree/below/file";
    succeeds(&mut attach(&["--", "sh", "-c", share]))?;

    terminal.write_line("exit 5")?;
    let code = terminal.end()?;
    expect(code == Some(5), || format!("vm exits with {code:?}"))?;
    files_came_back(directory.path(), &bytes)
}

fn prepare(home: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(home.join("bytes"), bytes)?;
    fs::set_permissions(home.join("bytes"), fs::Permissions::from_mode(0o751))?;
    for name in ["tree", "tree/below", "read,only", "written"] {
        fs::create_dir(home.join(name))?;
    }
    fs::write(home.join("tree/below/file"), "text")?;
    std::os::unix::fs::symlink("below/file", home.join("tree/link"))?;
    fs::set_permissions(home.join("tree/below"), fs::Permissions::from_mode(0o500))?;
    fs::write(home.join("read,only/secret"), "text")?;
    let mode = fs::Permissions::from_mode(0o600);
    Ok(fs::set_permissions(home.join("read,only/secret"), mode)?)
}

fn succeeds(command: &mut Command) -> Result<Output> {
    let output = zcnic_testbed::step::output(command)?;
    expect(output.status.success(), || format!("{output:?}"))?;
    Ok(output)
}

/// The banner's commands run as they stand there, and it names the guest.
fn the_banner_is_right(banner: &str, attach: &dyn Fn(&[&str]) -> Command) -> Result<()> {
    let lines = || banner.lines().map(str::trim);
    let commands: Vec<_> = lines().filter(|line| line.starts_with("zcnic")).collect();
    expect(commands.len() == 4, || format!("the banner is {banner}"))?;
    // A user takes longer to type a line than the receiver to listen.
    let listening = "\nuntil ss -ltn | grep -q :4433; do sleep 0.1; done\n";
    let script = commands.join("\n").replace("&\n", &format!("&{listening}"));
    let name = lines()
        .find_map(|line| line.split("--attach ").nth(1))
        .context("the banner doesn't name the guest")?;
    let script = format!("set -e\n{script}\nwait $!");
    let output = succeeds(&mut attach(&[name, "--", "bash", "-c", &script]))?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let verified = printed.contains(r#""bytes_verified":100000000"#);
    expect(verified, || {
        format!("the banner's commands print {printed}")
    })
}

fn bytes_pass_unchanged(cat: &Command, bytes: &[u8]) -> Result<()> {
    let mut command = Command::new(cat.get_program());
    command.args(cat.get_args());
    for (name, value) in cat.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("no pipe")?;
    let sent = bytes.to_vec();
    let writer = thread::spawn(move || input.write_all(&sent));
    let output = child.wait_with_output()?;
    let written = writer.join();
    expect(matches!(written, Ok(Ok(()))), || {
        "cat did not take its input".to_owned()
    })?;
    expect(output.status.success() && output.stdout == bytes, || {
        format!("{} bytes came back from cat", output.stdout.len())
    })
}

fn others_run_commands(attach: &dyn Fn(&[&str]) -> Command) -> Result<()> {
    let script = "printf 'out\\377'; printf 'err' >&2; exit 7";
    let output = zcnic_testbed::step::output(&mut attach(&["--", "sh", "-c", script]))?;
    let right =
        output.stdout == b"out\xff" && output.stderr == b"err" && output.status.code() == Some(7);
    expect(right, || format!("{output:?}"))?;
    // A command that reads nothing ends although its input does not.
    let (never, _held) = std::io::pipe()?;
    let ended = attach(&["--", "true"]).stdin(never).status()?;
    expect(ended.success(), || format!("true: {ended}"))
}

fn the_size_is_followed(terminal: &mut Terminal) -> Result<()> {
    terminal.write_line("stty size")?;
    terminal.wait_for("30 100")?;
    set_size(&terminal.outer, [40, 120])?;
    terminal.write_line("until stty size | grep '^40 120'; do sleep 0.1; done")?;
    // The line as it was typed has no line's end behind the numbers.
    terminal.wait_for("40 120\r")
}

fn files_came_back(home: &Path, bytes: &[u8]) -> Result<()> {
    let back = home.join("back");
    expect(fs::read(&back)? == bytes, || {
        "the file is not the one that went in".to_owned()
    })?;
    let mode = |path: &Path| anyhow::Ok(fs::metadata(path)?.mode() & 0o7777);
    let modes = [
        (home.join("back"), 0o751),
        (home.join("tree-back/below"), 0o500),
        (home.join("written/bytes"), 0o640),
    ];
    for (path, wanted) in modes {
        let mode = mode(&path)?;
        expect(mode == wanted, || format!("{}: {mode:o}", path.display()))?;
    }
    let link = fs::read_link(home.join("tree-back/link"))?;
    expect(link == Path::new("below/file"), || format!("{link:?}"))?;
    let text = fs::read_to_string(home.join("tree-back/link"))?;
    expect(text == "text", || text)?;
    let version = fs::read_to_string(home.join("version"))?;
    expect(version.starts_with("Linux version"), || version)?;

    let caller = fs::metadata(home.join("bytes"))?;
    for name in ["written/bytes", "written/made", "written/made/file"] {
        let made = fs::metadata(home.join(name))?;
        let owned = (made.uid(), made.gid()) == (caller.uid(), caller.gid());
        expect(owned, || format!("{name} belongs to {}", made.uid()))?;
    }
    expect(fs::read(home.join("written/bytes"))? == bytes, || {
        "the shared file has other bytes".to_owned()
    })?;
    let new = home.join("read,only/new");
    expect(!new.exists(), || format!("{} was made", new.display()))
}
