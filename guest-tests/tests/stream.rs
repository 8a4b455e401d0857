//! `zcnic-guest send` and `receive --plain` over loopback, and what they say when things go wrong.

use std::{
    io::{BufRead, BufReader, Lines, Write},
    net::{Ipv4Addr, TcpStream},
    process::{Child, ChildStdout, Command, Output, Stdio},
};

use serde_json::Value;
use zcnic_guest::pattern::Pattern;

fn zcnic_guest(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zcnic-guest"));
    command
        .args(arguments.split_whitespace())
        .stdin(Stdio::null());
    command
}

/// A running receiver, stopped at the end of the test.
struct Receiver {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    port: u16,
}

impl Receiver {
    fn start(arguments: &str) -> Self {
        let mut child = zcnic_guest(&format!("receive --plain --port 0 {arguments}"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut receiver = Self {
            child,
            lines,
            port: 0,
        };
        receiver.port = receiver.wait_for("listening")["port"].as_u64().unwrap() as u16;
        receiver
    }

    /// Reads up to the event of that name.
    fn wait_for(&mut self, event: &str) -> Value {
        loop {
            let line = self.lines.next().expect("end of output").unwrap();
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["event"] == event {
                return line;
            }
        }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send(port: u16, arguments: &str) -> Output {
    zcnic_guest(&format!("send --to 127.0.0.1:{port} {arguments}"))
        .output()
        .unwrap()
}

#[test]
fn every_byte_arrives() {
    let mut receiver = Receiver::start("--bytes 9000001");
    let output = send(receiver.port, "--bytes 9000001");
    assert!(output.status.success(), "{output:?}");
    let result = receiver.wait_for("result");
    assert_eq!(result["ok"], true);
    assert_eq!(result["bytes_verified"], 9_000_001);
    assert!(receiver.child.wait().unwrap().success());
}

#[test]
fn the_wrong_bytes_fail() {
    let mut receiver = Receiver::start("--bytes 5000");
    send(receiver.port, "--bytes 5000 --seed 2");
    let result = receiver.wait_for("result");
    assert_eq!(
        (&result["ok"], &result["bytes_verified"]),
        (&false.into(), &0.into())
    );
    assert!(
        result["error"]
            .as_str()
            .unwrap()
            .starts_with("byte 0 of the stream is 0x")
    );
    assert!(!receiver.child.wait().unwrap().success());
}

#[test]
fn too_few_and_too_many_bytes_fail() {
    for (sent, error) in [
        (4999, "the stream ended after 4999 of 5000 bytes"),
        (5001, "more than 5000 bytes came"),
    ] {
        let mut receiver = Receiver::start("--bytes 5000");
        send(receiver.port, &format!("--bytes {sent}"));
        assert_eq!(receiver.wait_for("result")["error"], error);
        assert!(!receiver.child.wait().unwrap().success());
    }
}

#[test]
fn a_stall_is_reported_and_survived() {
    let mut bytes = vec![0; 6000];
    Pattern::new(7).fill(0, &mut bytes);
    let mut receiver = Receiver::start("--bytes 6000 --seed 7");
    let mut stream = receiver.connect();
    stream.write_all(&bytes[..1000]).unwrap();
    assert_eq!(receiver.wait_for("stalled")["bytes"], 1000);
    stream.write_all(&bytes[1000..2000]).unwrap();
    assert_eq!(receiver.wait_for("progress")["bytes"], 2000);
    assert_eq!(receiver.wait_for("stalled")["bytes"], 2000);
    stream.write_all(&bytes[2000..]).unwrap();
    drop(stream);
    assert_eq!(receiver.wait_for("result")["bytes_verified"], 6000);
}

#[test]
fn a_stall_has_a_limit_if_wanted() {
    let mut receiver = Receiver::start("--bytes 6000 --stall-limit 1");
    let _stream = receiver.connect();
    let error = receiver.wait_for("result")["error"].to_string();
    assert!(error.contains("nothing moved for"), "{error}");
    assert!(!receiver.child.wait().unwrap().success());
}

#[test]
fn held_data_stays_unread() {
    let mut receiver = Receiver::start("--bytes 6000 --hold");
    let mut stream = receiver.connect();
    stream.write_all(&[1; 100]).unwrap();
    receiver.wait_for("held");
    assert!(receiver.child.try_wait().unwrap().is_none());
}

#[test]
fn bad_input_is_one_clear_line() {
    for (arguments, error) in [
        (
            "receive --interface no-such-if --queue 0 --port 0 --bytes 1",
            "interface no-such-if: ",
        ),
        (
            "receive --interface lo --queue 0 --port 0 --bytes 1 --buf-len 5000",
            "rx buffer length",
        ),
        (
            "send --to 127.0.0.1:1 --bytes 1",
            "connecting to 127.0.0.1:1: ",
        ),
        (
            "send --to 127.0.0.1:1 --bytes 1 --netns no-such-ns",
            "network namespace no-such-ns: ",
        ),
        (
            "trip no-such-class",
            "no class of bad lines is called no-such-class",
        ),
        (
            "steer --interface lo --queue 0 --port 1",
            "queue 0 can not be kept free",
        ),
    ] {
        let output = zcnic_guest(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with(&format!("zcnic-guest: {error}")), "{said}");
    }
}
