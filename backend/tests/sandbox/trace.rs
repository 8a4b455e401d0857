//! strace(1) over a whole run: no call outside the list, by an observer that does not know it.

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use zcnic_backend::{allowed_calls, refused_calls};
use zcnic_ctl::{
    client::Client,
    protocol::{Status, command},
};
use zcnic_model::{
    Driver, Shape,
    frames::{Flow, broadcast, pattern},
    in_process::RING_SIZE,
    vhost_user::{self, Frontend, PATIENCE},
};

const PAIRS: u16 = 3;

/// The options of a backend that uses everything that has a thread or a socket of its own.
fn options(directory: &Path) -> Vec<String> {
    let path = |name: &str| directory.join(name).display().to_string();
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let tcp = format!("tcp:{}", free.local_addr().expect("an address"));
    let unix = format!("unix:{}", path("stream"));
    let mut options: Vec<_> = (0..9)
        .flat_map(|port| {
            [
                "--port".into(),
                format!("path={}", path(&format!("{port}"))),
            ]
        })
        .collect();
    for (option, value) in [
        ("--cable", "0:1,pause"),
        ("--cable", "2:3,rate=1G,delay=1ms"),
        ("--wire", &format!("4=stream,listen={unix}")),
        ("--wire", &format!("5=stream,connect={unix}")),
        ("--wire", &format!("6=stream,listen={tcp}")),
        ("--wire", &format!("7=stream,connect={tcp}")),
        ("--wire", "8=generate"),
        ("--control", &path("control")),
        ("--workers", "2"),
        ("--cpus", "0"),
    ] {
        options.extend([option.to_owned(), value.to_owned()]);
    }
    options
}

fn until<T>(what: &str, attempt: impl Fn() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        // Everything is slow under strace.
        assert!(start.elapsed() < 4 * PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Two frontends that exchange frames in both directions, and leave.
fn exchange(directory: &Path, ports: [usize; 2]) {
    let connect = |port: usize| -> Driver<Frontend> {
        let socket: PathBuf = directory.join(port.to_string());
        let mut driver = vhost_user::connect(&socket, PAIRS, RING_SIZE);
        driver.bring_up(Shape::SPLIT, 64);
        driver
    };
    let [mut a, mut b] = ports.map(connect);
    for _ in 0..10 {
        let frame = broadcast(&pattern(100));
        a.send(0, &frame);
        assert_eq!(b.receive(0).frame, frame);
        b.send(1, &frame);
        assert_eq!(a.receive(0).frame, frame);
    }
}

/// What users do: traffic, reconnects, faults, captures, a client that goes away.
fn use_everything(directory: &Path) {
    let control = directory.join("control");
    let mut client = until("zcnic listens", || Client::connect(&control).ok());
    until("streams are connected", || {
        let mut client = Client::connect(&control).ok()?;
        let status: Status = client.query(command::QUERY_STATUS).ok()?;
        let mut lines = status.wires.iter().filter_map(|wire| wire.line.as_ref());
        lines.all(|line| line.up).then_some(())
    });
    for _ in 0..2 {
        for ports in [[0, 1], [2, 3], [4, 5], [6, 7]] {
            exchange(directory, ports);
        }
    }
    let _: Status = client.query(command::QUERY_STATUS).expect("status");
    let mut generated = vhost_user::connect(&directory.join("8"), PAIRS, RING_SIZE);
    generated.bring_up(Shape::SPLIT, 64);
    generated.receive(0);
    generated.send(0, Flow::tcp4().frame(b"to nowhere"));
}

#[test]
fn a_whole_run_makes_no_call_outside_the_list() {
    let directory = tempfile::tempdir().expect("directory");
    let log = tempfile::NamedTempFile::new().expect("a file");
    // With -D the traced program is our child.
    let mut child = Command::new("strace")
        .args(["-D", "-f", "-q", "-o"])
        .arg(log.path())
        .arg(env!("CARGO_BIN_EXE_zcnic"))
        .args(options(directory.path()))
        .env("RUST_LOG", "warn")
        .stdin(Stdio::null())
        .spawn()
        .expect("strace is installed (cargo xtask test does that)");
    use_everything(directory.path());
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    assert!(child.wait().expect("it ends").success());

    let own = child.id().to_string();
    let text = until("strace ends", || {
        let text = fs::read_to_string(log.path()).expect("a log");
        // The numbers of processes are padded.
        let is_end = |line: &str| {
            let (process, event) = line.split_once(' ').unwrap_or_default();
            process == own && event.trim_start().starts_with("+++ exited")
        };
        text.lines().any(is_end).then_some(text)
    });
    let mut lines = text.lines();
    let begins = lines
        .by_ref()
        .filter(|line| line.contains("seccomp(SECCOMP_SET_MODE_FILTER"));
    assert!(begins.count() > 0, "the sandbox began");
    let made = calls_after_last(&text, "seccomp(SECCOMP_SET_MODE_FILTER");
    let known: BTreeSet<_> = allowed_calls().chain(refused_calls()).collect();
    let outside: Vec<_> = made.iter().filter(|name| !known.contains(*name)).collect();
    assert!(outside.is_empty(), "{outside:?}");
    for name in [
        "recvmsg",
        "accept4",
        "clone",
        "mmap",
        "unlink",
        "connect",
        "setsockopt",
    ] {
        assert!(
            made.contains(name),
            "{name} is part of a whole run: {made:?}"
        );
    }
}

/// Names of the calls behind the last line that contains `start`.
fn calls_after_last<'t>(text: &'t str, start: &str) -> BTreeSet<&'t str> {
    let place = text.rfind(start).expect("it was called");
    text[place..]
        .lines()
        .skip(1)
        .filter_map(|line| {
            let (_, call) = line.split_once(' ')?;
            let (name, _) = call.trim_start().split_once('(')?;
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            name.bytes().all(is_name).then_some(name)
        })
        .collect()
}
