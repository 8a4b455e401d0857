//! The progress line on a terminal, as a user sees it: this test runs itself once more on a pseudo
//! terminal and reads what appears there.

use std::{
    env,
    fs::{self, File},
    io::Read,
    path::Path,
    process::{Child, Command},
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use zcnic_testbed::step::{run, step};

/// The file whose appearance ends the step of the process on the terminal.
const END: &str = "ZCNIC_TEST_END";
const SELF: &str = "a_step_lives_on_a_terminal";
const COLUMNS: u16 = 60;
const LONG: &str = "compile something whose name and place are too long for a narrow terminal";
const CLEAR: &str = "\r\x1b[K";

/// The process on the terminal: a short step, and one that lasts until the test has seen enough.
fn work(end: &Path) {
    step("a short step", || Ok(())).unwrap();
    step("a step", || {
        run(Command::new("sh")
            .args([
                "-c",
                r#"printf 'CC one.o\nCC \033[32mtwo.o\n'; until test -e "$0"; do sleep 0.05; done"#,
            ])
            .arg(end))
    })
    .unwrap();
    step(LONG, || Ok(())).unwrap();
}

/// Starts this test on a new terminal; returns the terminal's other end.
fn start(end: &Path, colours: bool) -> (Child, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let size = Winsize {
        ws_row: 24,
        ws_col: COLUMNS,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&master, size).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let terminal = File::options().read(true).write(true).open(name).unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", SELF, "--nocapture"])
        .env(END, end)
        .env("TERM", "xterm")
        .env("NO_COLOR", if colours { "" } else { "1" })
        .stdout(File::create("/dev/null").unwrap())
        .stderr(terminal);
    (command.spawn().unwrap(), File::from(master))
}

/// Reads until `enough` holds of all that was read, or the process has ended.
fn read_until(terminal: &mut File, text: &mut String, enough: impl Fn(&str) -> bool) {
    let mut chunk = [0; 4096];
    while !enough(text) {
        // The kernel reports the end of the process as an error.
        let Ok(count @ 1..) = terminal.read(&mut chunk) else {
            return;
        };
        text.push_str(&String::from_utf8_lossy(&chunk[..count]));
    }
}

/// Returns the text without colours.
fn visible(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let mut seen = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        seen.push_str(
            part.split_once(|c: char| c.is_ascii_alphabetic())
                .map_or("", |it| it.1),
        );
    }
    seen
}

/// Returns all that the step wrote on a terminal that is read until its line was drawn at several
/// different times.
fn watched(colours: bool) -> String {
    let directory = tempfile::tempdir().unwrap();
    let end = directory.path().join("end");
    let (mut child, mut terminal) = start(&end, colours);
    let mut text = String::new();
    let lives = |text: &str| {
        let drawn = text.split(CLEAR).filter(|line| line.contains("two.o"));
        let mut seconds: Vec<_> = drawn.map(|line| line.split("s  ").next()).collect();
        seconds.dedup();
        seconds.len() >= 3
    };
    read_until(&mut terminal, &mut text, lives);
    assert!(lives(&text), "{text:?}");
    fs::write(&end, "").unwrap();
    read_until(&mut terminal, &mut text, |_| false);
    assert!(child.wait().unwrap().success(), "{text:?}");
    text
}

#[test]
fn a_step_lives_on_a_terminal() {
    if let Some(end) = env::var_os(END) {
        work(Path::new(&end));
        return;
    }
    let text = watched(true);
    assert!(text.contains("\x1b[36m"), "{text:?}");

    let text = watched(false);
    assert_eq!(text.replace(CLEAR, "").find('\x1b'), None, "{text:?}");
    let drawn: Vec<_> = text.split(CLEAR).map(visible).collect();
    for line in &drawn {
        let columns = line.trim_end_matches(['\r', '\n']).chars().count();
        assert!(columns < COLUMNS.into(), "{line:?} wraps");
    }
    // Only the last line of each step stays.
    let stays: Vec<_> = drawn.iter().filter(|line| line.ends_with("\r\n")).collect();
    assert_eq!(stays.len(), 3, "{text:?}");
    for (line, step) in stays
        .iter()
        .zip(["s  a short step\r\n", "s  a step\r\n", "…\r\n"])
    {
        assert!(line.ends_with(step), "{line:?}");
    }
    assert!(
        drawn
            .iter()
            .any(|line| line.ends_with("s  a step  CC two.o")),
        "{text:?}"
    );
}
