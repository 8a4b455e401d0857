//! Sockets that systemd made and passes to the program.

use std::{
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use zcnic_ctl::{
    client::Client,
    protocol::{Status, command},
};

/// Starts zcnic with one port and a control socket below `directory`, and `passed` as descriptor 3, as
/// systemd does.
fn start(directory: &Path, passed: &UnixListener) -> Child {
    let passed = passed.try_clone().expect("a descriptor");
    Command::new("sh")
        .args(["-c", r#"exec "$0" "$@" 3<&0 </dev/null"#])
        .arg(env!("CARGO_BIN_EXE_zcnic"))
        .arg("--port")
        .arg(format!("path={}", directory.join("port").display()))
        .arg("--control")
        .arg(directory.join("control"))
        .env("LISTEN_FDS", "1")
        .stdin(OwnedFd::from(passed))
        .stderr(Stdio::piped())
        .spawn()
        .expect("zcnic starts")
}

#[test]
fn a_passed_control_socket_is_used_and_outlives_the_program() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("control");
    let passed = UnixListener::bind(&path).expect("a socket");
    let mut child = start(directory.path(), &passed);
    // The connection waits in the socket until the program accepts it.
    let mut client = Client::connect(&path).expect("zcnic answers");
    let status: Status = client.query(command::QUERY_STATUS).expect("its status");
    assert_eq!(status.ports[0].path, directory.path().join("port"));

    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    assert!(child.wait().expect("it ends").success());
    assert!(
        !directory.path().join("port").exists(),
        "its own is removed"
    );
    UnixStream::connect(&path).expect("systemd still listens");
}

#[test]
fn a_passed_socket_that_no_option_names_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("other");
    let passed = UnixListener::bind(&path).expect("a socket");
    let output = start(directory.path(), &passed).wait_with_output();
    let stderr = String::from_utf8(output.expect("it ends").stderr).expect("text");
    let expected = format!(
        "zcnic: LISTEN_FDS: no --port or --control has the path {}\n",
        path.display()
    );
    assert_eq!(stderr, expected);
}
