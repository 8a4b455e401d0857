//! `zcnic-guest send` and `receive --plain` over loopback, and their messages when they fail.

use std::{
    io::{BufRead, BufReader, Lines, Write},
    net::{Ipv4Addr, TcpStream},
    process::{Child, ChildStdout, Command, Output, Stdio},
};

use zcnic_guest::traffic::pattern::Pattern;
use zcnic_guest_protocol::event::{Event, ReceiveResult};

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
        receiver.port = receiver.wait_for(|event| match event {
            Event::Listening { port } => Some(port),
            _ => None,
        });
        receiver
    }

    /// Reads up to an event that `wanted` takes.
    fn wait_for<T>(&mut self, wanted: impl Fn(Event<ReceiveResult>) -> Option<T>) -> T {
        loop {
            let line = self.lines.next().expect("end of output").unwrap();
            if let Some(found) = wanted(serde_json::from_str(&line).unwrap()) {
                return found;
            }
        }
    }

    fn result(&mut self) -> ReceiveResult {
        self.wait_for(|event| match event {
            Event::Result(result) => Some(result),
            _ => None,
        })
    }

    /// Bytes at the next stall.
    fn stalled(&mut self) -> u64 {
        self.wait_for(|event| match event {
            Event::Stalled { bytes } => Some(bytes),
            _ => None,
        })
    }

    /// Bytes at the next progress.
    fn progress(&mut self) -> u64 {
        self.wait_for(|event| match event {
            Event::Progress { bytes } => Some(bytes),
            _ => None,
        })
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
    let result = receiver.result();
    assert!(result.ok);
    assert_eq!(result.bytes_verified, 9_000_001);
    assert!(receiver.child.wait().unwrap().success());
}

#[test]
fn the_wrong_bytes_fail() {
    let mut receiver = Receiver::start("--bytes 5000");
    send(receiver.port, "--bytes 5000 --seed 2");
    let result = receiver.result();
    assert_eq!((result.ok, result.bytes_verified), (false, 0));
    let error = result.error.unwrap();
    assert!(error.starts_with("byte 0 of the stream is 0x"), "{error}");
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
        let result = receiver.result();
        assert_eq!(result.ended_early(), sent < 5000);
        assert_eq!(result.error.as_deref(), Some(error));
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
    assert_eq!(receiver.stalled(), 1000);
    stream.write_all(&bytes[1000..2000]).unwrap();
    assert_eq!(receiver.progress(), 2000);
    assert_eq!(receiver.stalled(), 2000);
    stream.write_all(&bytes[2000..]).unwrap();
    drop(stream);
    assert_eq!(receiver.result().bytes_verified, 6000);
}

#[test]
fn a_stall_has_a_limit_if_wanted() {
    let mut receiver = Receiver::start("--bytes 6000 --stall-limit 1");
    let _stream = receiver.connect();
    let error = receiver.result().error.unwrap();
    assert!(error.contains("nothing moved for"), "{error}");
    assert!(!receiver.child.wait().unwrap().success());
}

#[test]
fn held_data_stays_unread() {
    let mut receiver = Receiver::start("--bytes 6000 --hold");
    let mut stream = receiver.connect();
    stream.write_all(&[1; 100]).unwrap();
    receiver.wait_for(|event| matches!(event, Event::Held).then_some(()));
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
            "inject-log no-such-class",
            "no class of bad lines is called no-such-class",
        ),
        (
            "flow-steer --interface lo --queue 0 --port 1",
            "queue 0 can not be kept free",
        ),
    ] {
        let output = zcnic_guest(arguments).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(
            message.starts_with(&format!("zcnic-guest: {error}")),
            "{message}"
        );
    }
}
