//! SIGTERM ends the process whatever frontends, clients and readers of its log do.

#![allow(unsafe_code, reason = "ptrace stops one thread of the daemon")]

use std::{
    fs,
    io::{PipeReader, Write, pipe},
    os::unix::net::UnixStream,
    thread,
    time::Instant,
};

use rustix::process::{Signal, kill_process};
use zcnic_ctl::protocol::event::EventKind;
use zcnic_model::vhost_user::message;

use super::daemon::{ATTACKER, Daemon, GET_FEATURES, PATIENCE, PEER, SET_OWNER};

#[test]
fn everything_may_be_connected() {
    let mut daemon = Daemon::start();
    let _peer = daemon.driver(PEER);
    let frontend = daemon.raw(ATTACKER);
    (&frontend)
        .write_all(&message(SET_OWNER, &[])[..5])
        .expect("sent");
    let _silent: Vec<_> = (0..4)
        .map(|port| UnixStream::connect(daemon.path(port)).expect("connect"))
        .collect();
    let mut client = daemon.control();
    client
        .subscribe(&[EventKind::Link, EventKind::Connection])
        .expect("subscribed");
    let half = UnixStream::connect(daemon.control_path()).expect("connect");
    (&half).write_all(b"{\"execute\": ").expect("sent");
    daemon.assert_unharmed();
    daemon.assert_unharmed_to_the_end();
}

#[test]
fn clients_may_read_nothing() {
    let mut daemon = Daemon::start();
    let client = UnixStream::connect(daemon.control_path()).expect("connect");
    client.set_nonblocking(true).expect("non-blocking");
    let request = b"{\"execute\": \"query-stats\"}\n";
    while (&client).write_all(request).is_ok() {}
    daemon.assert_unharmed();
    daemon.assert_unharmed_to_the_end();
}

#[test]
fn answers_of_a_frontend_may_wait() {
    let daemon = Daemon::start();
    let frontend = daemon.raw(ATTACKER);
    frontend.set_nonblocking(true).expect("non-blocking");
    while (&frontend).write_all(&message(GET_FEATURES, &[])).is_ok() {}
    daemon.assert_unharmed_to_the_end();
}

/// A daemon whose standard error is a pipe.
fn with_pipe() -> (Daemon, PipeReader) {
    let (reader, writer) = pipe().expect("pipe");
    let daemon = Daemon::configured(|command| {
        command.stderr(writer);
    });
    (daemon, reader)
}

/// Makes ports log more than a pipe holds.
fn chatter(daemon: &mut Daemon) {
    for _ in 0..200 {
        let stream = daemon.raw(ATTACKER);
        let _ = (&stream).write_all(&message(99, &[0; 8]));
        let mut control = daemon.control();
        control.link_set("2", false).expect("link");
        control.link_set("2", true).expect("link");
    }
    daemon.assert_unharmed();
}

#[test]
fn standard_error_may_be_full() {
    let (mut daemon, reader) = with_pipe();
    // Fill it through the daemon's own end, so that not a byte is left.
    let own = format!("/proc/{}/fd/2", daemon.child.id());
    let mut own = fs::OpenOptions::new().write(true).open(own).expect("pipe");
    let flags = rustix::fs::OFlags::NONBLOCK;
    let pipe = rustix::fs::fcntl_getfl(&own).expect("flags");
    rustix::fs::fcntl_setfl(&own, pipe | flags).expect("flags");
    while own.write(b"\n").is_ok() {}
    chatter(&mut daemon);
    daemon.assert_unharmed_to_the_end();
    drop(reader);
}

#[test]
fn standard_error_may_be_closed() {
    let (mut daemon, reader) = with_pipe();
    drop(reader);
    chatter(&mut daemon);
    daemon.assert_unharmed_to_the_end();
}

#[test]
fn the_process_may_have_been_stopped() {
    let mut daemon = Daemon::start();
    let _attacker = daemon.driver(ATTACKER);
    kill_process(daemon.pid(), Signal::STOP).expect("it runs");
    thread::sleep(std::time::Duration::from_secs(2));
    kill_process(daemon.pid(), Signal::CONT).expect("it runs");
    daemon.assert_unharmed();
    daemon.assert_unharmed_to_the_end();
}

/// Numbers of the daemon's threads whose name starts with `name`.
fn threads(daemon: &Daemon, name: &str) -> Vec<i32> {
    let tasks = format!("/proc/{}/task", daemon.child.id());
    let named = |task: &fs::DirEntry| {
        let comm = fs::read_to_string(task.path().join("comm"));
        comm.is_ok_and(|comm| comm.starts_with(name))
    };
    let tasks = fs::read_dir(tasks).expect("it runs").flatten();
    tasks
        .filter(named)
        .filter_map(|task| task.file_name().to_str()?.parse().ok())
        .collect()
}

fn ptrace(request: libc::c_uint, thread: i32) {
    // SAFETY: These requests use neither address nor data.
    let result = unsafe { libc::ptrace(request, thread, 0_usize, 0_usize) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_thread_may_hang() {
    for name in [
        "worker-2", "timer", "accept-2", "port-2", "relay", "control",
    ] {
        let mut daemon = Daemon::start();
        let _attacker = daemon.driver(ATTACKER);
        let _client = daemon.control();
        let hung = threads(&daemon, name);
        assert!(!hung.is_empty(), "no thread {name}");
        for &thread in &hung {
            ptrace(libc::PTRACE_SEIZE, thread);
            ptrace(libc::PTRACE_INTERRUPT, thread);
            // SAFETY: The status is not asked for.
            unsafe { libc::waitpid(thread, std::ptr::null_mut(), libc::__WALL) };
        }
        kill_process(daemon.pid(), Signal::TERM).expect("it runs");
        let start = Instant::now();
        let status = loop {
            for &thread in &hung {
                // A process has not ended before those who trace its threads know of their end.
                // SAFETY: The status is not asked for.
                unsafe {
                    libc::waitpid(thread, std::ptr::null_mut(), libc::__WALL | libc::WNOHANG)
                };
            }
            if let Some(status) = daemon.child.try_wait().expect("a child") {
                break status;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "SIGTERM does not end it: {name}"
            );
            thread::sleep(std::time::Duration::from_millis(2));
        };
        assert_eq!(status.code(), Some(1), "{name}: {}", daemon.log());
        let left: Vec<_> = (0..4).filter(|&port| daemon.path(port).exists()).collect();
        assert!(
            left.is_empty() && !daemon.control_path().exists(),
            "{left:?}"
        );
    }
}
