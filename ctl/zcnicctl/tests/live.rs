//! `zcnicctl top` and `stats --watch` against a backend with traffic.

#[path = "../../../backend/tests/common/mod.rs"]
mod common;

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::World;
use zcnic_ctl::{Action, FaultRule, LedgerMode, LedgerSet};
use zcnic_model::{
    Driver, Shape,
    frames::Flow,
    vhost_user::{Frontend, PATIENCE},
};

/// Two cabled ports with drivers; port 1 has receive buffers.
fn world() -> (World, [Driver<Frontend>; 2]) {
    let world = World::new();
    let [mut sender, mut receiver] = world.drivers(3);
    sender.bring_up(Shape::SPLIT, 0);
    receiver.bring_up(Shape::SPLIT, 64);
    (world, [sender, receiver])
}

fn zcnicctl(world: &World, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zcnicctl"));
    command
        .arg("--socket")
        .arg(world.control_path())
        .args(arguments)
        .stdin(Stdio::null());
    command
}

/// Runs it while the first port sends `most` datagrams at most.
fn run(command: &mut Command, sender: &mut Driver<Frontend>, most: usize) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().expect("zcnicctl runs");
    let mut sent = 0;
    let started = Instant::now();
    while running.try_wait().expect("a child").is_none() {
        assert!(started.elapsed() < PATIENCE, "it does not end");
        if sent < most {
            sender.send(0, Flow::udp4().frame(b"datagram"));
            sent += 1;
        }
        thread::sleep(Duration::from_millis(5));
    }
    running.wait_with_output().expect("an output")
}

#[test]
fn top_prints_a_frame_without_a_terminal() {
    let (world, [mut sender, _receiver]) = world();
    let mut control = world.control();
    control
        .ledger_set(&LedgerSet::new("1", LedgerMode::Full))
        .expect("a ledger");
    let mut fault = control
        .fault("1", &FaultRule::rx(Action::Drop).every(2))
        .expect("a rule");
    let mut top = zcnicctl(&world, &["top", "--interval", "0.5"]);
    let output = run(&mut top, &mut sender, 64);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{text}");
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    // The row of this number below a header.
    let row = |header: &str, number: usize| -> Vec<String> {
        let mut lines = text.lines().skip_while(|line| !line.starts_with(header));
        let line = lines.nth(number);
        let line = line.unwrap_or_else(|| panic!("no row {header} {number}:\n{text}"));
        line.split_whitespace().map(str::to_owned).collect()
    };
    let moves = |cell: &str| cell != "-" && cell != "0";
    let queue = row("port     queue", 2);
    assert!(moves(&queue[2]) && moves(&queue[3]), "{text}");
    assert!(queue[8].parse::<u64>().is_ok_and(|out| out > 0), "{text}");
    let rule = row("fault", 1);
    assert_eq!(rule[..4], [&fault.id().to_string(), "1", "rx", "drop"]);
    assert!(moves(&rule[5]), "{text}");
    let hits = fault.hits().expect("hits");
    assert!(
        rule[4].parse::<u64>().is_ok_and(|shown| shown <= hits),
        "{text}"
    );
    fault.remove().expect("removed");
}

#[test]
fn statistics_have_rates_from_the_second_time_on() {
    let (world, [mut sender, _receiver]) = world();
    let mut watch = zcnicctl(&world, &["stats", "--watch", "0.2"]);
    let mut running = Killed(watch.stdout(Stdio::piped()).spawn().expect("zcnicctl runs"));
    let output = running.0.stdout.take().expect("a pipe");
    let mut headers = BufReader::new(output)
        .lines()
        .map(|line| line.expect("a line"))
        .filter(|line| line.starts_with("queue"));
    let first = headers.next().expect("statistics");
    sender.send(0, Flow::udp4().frame(b"datagram"));
    // One per port.
    let second = headers.nth(1).expect("statistics");
    assert!(!first.contains("/s"), "{first}");
    assert!(second.starts_with("queue  rx-frames  /s"), "{second}");
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `top` on a terminal of 80 columns and 24 lines, types what standard input has, and prints
/// what it draws.
const TERMINAL: &str = r#"
import fcntl, os, pty, select, struct, sys, termios
pid, terminal = pty.fork()
if not pid:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    os.execv(sys.argv[1], sys.argv[1:])
open_input = [0]
while True:
    for ready in select.select([terminal] + open_input, [], [])[0]:
        try:
            data = os.read(ready, 65536)
        except OSError:
            data = b""
        if ready == terminal and not data:
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        if not data:
            open_input = []
        os.write(1 if ready == terminal else terminal, data)
"#;

#[test]
fn top_on_a_terminal_survives_a_restart_and_ends_with_a_key() {
    for key in ["q", "\x03"] {
        let (mut world, _drivers) = world();
        let mut command = Command::new("python3");
        command
            .args(["-c", TERMINAL, env!("CARGO_BIN_EXE_zcnicctl"), "--socket"])
            .arg(world.control_path())
            .args(["top", "--interval", "0.1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut running = Killed(command.spawn().expect("Python runs"));
        let mut screen = running.0.stdout.take().expect("a pipe");
        let mut drawn = Vec::new();
        let mut wait_for = |text: &str| {
            let from = drawn.len();
            let found = |drawn: &[u8]| String::from_utf8_lossy(&drawn[from..]).contains(text);
            while !found(&drawn) {
                let mut bytes = [0; 4096];
                let count = screen.read(&mut bytes).expect("drawn");
                assert!(count > 0, "{text}:\n{}", String::from_utf8_lossy(&drawn));
                drawn.extend_from_slice(&bytes[..count]);
            }
        };
        wait_for("zcnic");
        world.stop();
        wait_for("Waiting");
        world.restart();
        // The connections of the drivers are gone with the former backend.
        wait_for("connected");
        let mut keyboard = running.0.stdin.take().expect("a pipe");
        keyboard.write_all(key.as_bytes()).expect("typed");
        let status = running.0.wait().expect("it ends");
        assert!(status.success(), "{key:?}: {status}");
    }
}
