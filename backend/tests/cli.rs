//! The program: its messages, and that it leaves nothing behind.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, ChildStderr, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use zcnic_ctl::{
    client::Client,
    protocol::{Status, command},
};

fn zcnic() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zcnic"));
    command.env_remove("RUST_LOG");
    command
}

fn refused(arguments: &[&str]) -> String {
    let Output { status, stderr, .. } = zcnic().args(arguments).output().expect("zcnic runs");
    assert!(!status.success(), "{arguments:?}");
    String::from_utf8(stderr).expect("text")
}

/// The one line of the error message.
fn complaint(arguments: &[&str]) -> String {
    let output = refused(arguments);
    let mut lines = output.lines().filter(|line| line.starts_with("zcnic: "));
    let line = lines
        .next()
        .unwrap_or_else(|| panic!("no complaint: {output}"))
        .to_owned();
    assert_eq!(lines.next(), None, "one line is enough: {output}");
    line
}

/// A running zcnic that is killed with the test.
struct Running(Child);

impl Running {
    /// Waits until `directory` has a control socket that answers.
    fn start(directory: &Path) -> Self {
        let path = |name: &str| directory.join(name).display().to_string();
        let mut child = zcnic()
            .args(["--port", &format!("path={}", path("a"))])
            .args(["--port", &format!("path={},name=other", path("b"))])
            .args(["--cable", "0:other,pause", "--control", &path("control")])
            .stderr(Stdio::piped())
            .spawn()
            .expect("zcnic starts");
        let stderr = child.stderr.take().expect("stderr");
        let mut stderr: BufReader<ChildStderr> = BufReader::new(stderr);
        let mut line = String::new();
        while !line.contains("Control socket") {
            line.clear();
            assert_ne!(stderr.read_line(&mut line).expect("read"), 0, "zcnic ended");
        }
        // The program must not block on a full pipe.
        std::thread::spawn(move || stderr.lines().for_each(drop));
        Self(child)
    }

    fn signal(&mut self, signal: Signal) -> Option<i32> {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, signal).expect("it runs");
        self.0.wait().expect("it ends").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn wrong_options_are_explained() {
    let directory = tempfile::tempdir().expect("directory");
    let a = format!("path={}", directory.path().join("a").display());
    assert!(complaint(&[]).contains("--port"));
    assert!(complaint(&["--port", &a, "--port", &a]).contains("twice"));
    assert!(complaint(&["--port", &a, "--cable", "0:1"]).contains("there is no port 1"));
    assert!(complaint(&["--port", "path=/no/such/directory/a"]).contains("/no/such/directory/a"));
    let file = directory.path().join("file");
    std::fs::write(&file, "precious").expect("write");
    let file = format!("path={}", file.display());
    assert!(complaint(&["--port", &file]).contains("is not a socket"));
    // These errors are clap's.
    assert!(refused(&["--port", "a.sock"]).contains("key=value"));
    assert!(refused(&["--port", &format!("{a},mode=fast")]).contains("auto, plain and zcnic"));
    assert!(refused(&["--cable", "0-1"]).contains("A:B"));
    assert!(refused(&["--speed", "11"]).contains("--speed"));
    let left: Vec<_> = std::fs::read_dir(directory.path())
        .expect("directory")
        .collect();
    assert_eq!(left.len(), 1, "nothing but the file: {left:?}");
}

#[test]
fn wires_that_cannot_be_opened_are_explained() {
    let directory = tempfile::tempdir().expect("directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let a = format!("path={}", path("a"));
    let wire = |wire: &str| complaint(&["--port", &a, "--wire", &format!("0={wire}")]);
    let file = |content: &[u8]| {
        std::fs::write(path("file"), content).expect("write");
        wire(&format!("pcap,file={}", path("file")))
    };
    assert!(wire("pcap,file=/no/such/file").contains("Can't replay /no/such/file: No such file"));
    assert!(file(b"").contains("is no capture"));
    assert!(file(&[7; 100]).contains("Can't replay"));
    let header = |link: u8| {
        let mut header = vec![0; 24];
        header[..6].copy_from_slice(&[0xd4, 0xc3, 0xb2, 0xa1, 2, 0]);
        header[6] = 4;
        header[16..18].copy_from_slice(&[0xff, 0xff]);
        header[20] = link;
        header
    };
    assert!(file(&header(1)).contains("no Ethernet frames"));
    assert!(file(&header(113)).contains("not Ethernet"));
    let mut truncated = header(1);
    truncated.extend([0; 8]);
    truncated.extend([60, 0, 0, 0, 60, 0, 0, 0, 1, 2, 3]);
    assert!(file(&truncated).contains("behind frame 0"));
    let taken = format!("stream,listen=unix:{}", path("file"));
    assert!(wire(&taken).contains("is not a socket"));
    let held = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = held.local_addr().expect("an address");
    let complaint = wire(&format!("stream,listen=tcp:{address}"));
    assert!(complaint.contains(&format!("Can't listen on tcp:{address}")));
    assert!(wire("tap,ifname=lo").contains("Can't open tap lo: "));
    // These errors are clap's.
    assert!(refused(&["--wire", "0=stream"]).contains("connect=ADDRESS"));
    assert!(refused(&["--cable", "0:1,rate=fast"]).contains("rate=BITS"));
    assert!(refused(&["--switch", "0"]).contains("at least two ports"));
    std::fs::remove_file(path("file")).expect("remove");
    let left: Vec<_> = std::fs::read_dir(directory.path())
        .expect("directory")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn signals_end_it_and_leave_nothing() {
    for signal in [Signal::TERM, Signal::INT] {
        let directory = tempfile::tempdir().expect("directory");
        let mut running = Running::start(directory.path());
        // Open connections do not keep it from ending.
        let _client = Client::connect(&directory.path().join("control")).expect("client");
        let _frontend =
            std::os::unix::net::UnixStream::connect(directory.path().join("a")).expect("frontend");
        assert_eq!(running.signal(signal), Some(0));
        let left: Vec<_> = std::fs::read_dir(directory.path())
            .expect("directory")
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn killed_one_is_replaced_and_a_running_one_is_not() {
    let directory = tempfile::tempdir().expect("directory");
    let mut first = Running::start(directory.path());
    assert_eq!(first.signal(Signal::KILL), None);
    assert!(
        directory.path().join("a").exists(),
        "a killed process removes nothing"
    );
    let _second = Running::start(directory.path());
    let a = format!("path={}", directory.path().join("a").display());
    assert!(complaint(&["--port", &a]).contains("in use by a running process"));
    let mut client = Client::connect(&directory.path().join("control")).expect("it still runs");
    let status: Status = client.query(command::QUERY_STATUS).expect("status");
    assert_eq!(status.ports[1].name, "other");
    assert!(status.cables[0].pause);
}

#[test]
fn qemu_args_names_every_option() {
    let output = zcnic()
        .args([
            "qemu-args",
            "--port",
            "path=/run/a,mode=plain",
            "--queues",
            "2",
        ])
        .output()
        .expect("zcnic runs");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("text");
    for option in [
        "-machine ",
        "-m ",
        "-object ",
        "-chardev ",
        "-netdev ",
        "-device ",
    ] {
        assert!(text.contains(option), "{text}");
    }
}
