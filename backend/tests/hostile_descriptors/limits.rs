//! File descriptors and threads that run out: only who asked for one does without.

use std::{
    fs::{self, Permissions},
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream, process::CommandExt},
    process::{Child, Command, Stdio},
    thread,
};

use rustix::{
    event::{EventfdFlags, eventfd},
    process::{Resource, Rlimit, geteuid, prlimit},
};
use zcnic_ctl::Client;
use zcnic_model::{in_process::RING_SIZE, vhost_user::message};

use super::daemon::{
    ATTACKER, Daemon, GET_FEATURES, PATIENCE, PEER, SET_VRING_CALL, SET_VRING_KICK, command,
    descriptors, is_served, program, send_with_fd,
};

/// Control clients that are served at once.
const CLIENTS: usize = 16;

/// A limit that leaves each of four ports room for a few rings.
const LOW: usize = 300;

fn client(daemon: &Daemon) -> UnixStream {
    let stream = UnixStream::connect(daemon.control_path()).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream
}

/// The first line that the control socket sends; empty if it closes the connection.
fn first_line(stream: &UnixStream) -> String {
    let mut line = String::new();
    let _ = BufReader::new(stream).read_line(&mut line);
    line
}

/// Hands over kick and call descriptors until `enough` descriptors are open or the daemon refuses;
/// returns the connection.
fn hoard(daemon: &Daemon, port: usize, enough: usize) -> UnixStream {
    let stream = daemon.raw(port);
    'full: for ring in 0..256 {
        for request in [SET_VRING_KICK, SET_VRING_CALL] {
            if descriptors(daemon.pid()) >= enough {
                break 'full;
            }
            let fd = eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd");
            if !send_with_fd(&stream, request, ring, fd) || !is_served(&stream) {
                break 'full;
            }
        }
    }
    stream
}

#[test]
fn frontends_leave_enough_descriptors_for_all_clients() {
    for free in [10, 6, 5, 4, 3, 2, 0] {
        let mut daemon = Daemon::with_descriptors(LOW);
        let hoards = [ATTACKER, PEER].map(|port| hoard(&daemon, port, LOW - free));
        daemon.wait_for_line("under the limit of open files");
        let clients: Vec<_> = (0..CLIENTS).map(|_| client(&daemon)).collect();
        for client in &clients {
            assert!(first_line(client).contains("zcnic"), "a client is served");
        }
        let refused = first_line(&client(&daemon));
        assert!(
            refused.contains("There are 16 clients already"),
            "{refused}"
        );
        drop(clients);
        daemon.wait_for("place for a client", |daemon| {
            Client::connect(&daemon.control_path()).is_ok()
        });
        drop(hoards);
        daemon.assert_unharmed_to_the_end();
    }
}

#[test]
fn a_limit_that_is_too_low_is_named_at_the_start() {
    let directory = tempfile::tempdir().expect("directory");
    let inner = command(program(), directory.path());
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""])
        .arg(program())
        .args(inner.get_args())
        .output()
        .expect("sh runs");
    let text = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("The limit of open files is 64, too low for 4 ports"),
        "{text}"
    );
    let left = fs::read_dir(directory.path()).expect("directory").count();
    assert_eq!(left, 1, "the log of another command, and no socket");
}

#[test]
fn descriptors_that_are_used_up_cost_who_asks() {
    let mut daemon = Daemon::start();
    let pid = daemon.pid();
    let none = |current| Rlimit {
        current: Some(current),
        maximum: Some(1 << 12),
    };
    for _ in 0..2 {
        let open = descriptors(pid) as u64;
        let before = prlimit(Some(pid), Resource::Nofile, none(open)).expect("prlimit");
        // Not accepted, or accepted and not served.
        let waiting: Vec<_> = (0..4).map(|_| client(&daemon)).collect();
        let frontend = UnixStream::connect(daemon.path(ATTACKER)).expect("connect");
        (&frontend)
            .write_all(&message(GET_FEATURES, &[]))
            .expect("sent");
        daemon.wait_for_line("can't accept");
        prlimit(
            Some(pid),
            Resource::Nofile,
            Rlimit {
                current: before
                    .current
                    .filter(|&limit| limit < 1 << 12)
                    .or(Some(1 << 12)),
                maximum: Some(1 << 12),
            },
        )
        .expect("prlimit");
        drop(waiting);
        drop(frontend);
        daemon.assert_unharmed();
        // A connection that waited ends first.
        daemon.wait_for("place for a frontend", |daemon| {
            is_served(&daemon.raw_or_closed(ATTACKER))
        });
    }
    drop(daemon.driver(ATTACKER));
    let clients: Vec<_> = (0..CLIENTS - 1).map(|_| client(&daemon)).collect();
    for client in &clients {
        assert!(first_line(client).contains("zcnic"), "a client is served");
    }
    drop(clients);
    daemon.assert_unharmed_to_the_end();
}

/// Threads and processes that the user of a daemon may have.
const THREADS: usize = 64;

/// Processes of the daemon's user, which leave it no more threads.
struct Full(Vec<Child>);

impl Drop for Full {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A daemon with a user of its own, whose number is returned: the limit counts all processes of a
/// user, and does not hold for root.
fn with_own_user() -> (Daemon, u32) {
    let directory = tempfile::tempdir().expect("directory");
    let copy = directory.path().join("zcnic");
    fs::copy(program(), &copy).expect("copy");
    for path in [directory.path(), &copy] {
        fs::set_permissions(path, Permissions::from_mode(0o777)).expect("permissions");
    }
    let user = 60_000 + std::process::id() % 5000;
    let inner = command(&copy, directory.path());
    let mut outer = Command::new("prlimit");
    outer.arg(format!("--nproc={THREADS}")).arg(&copy);
    outer.args(inner.get_args());
    let log = fs::File::create(directory.path().join("log")).expect("log");
    outer.stdout(Stdio::null()).stderr(log).uid(user);
    (Daemon::run(outer, directory), user)
}

#[test]
fn threads_that_do_not_start_cost_who_asks() {
    if !geteuid().is_root() {
        println!("not root: a user of its own can't be given to the daemon");
        return;
    }
    let (mut daemon, user) = with_own_user();
    let sleep = || Command::new("sleep").arg("600").uid(user).spawn();
    let full = Full((0..THREADS).map(|_| sleep().expect("sleep")).collect());
    for _ in 0..CLIENTS + 4 {
        let refused = first_line(&client(&daemon));
        assert!(refused.contains("Can't serve a client"), "{refused}");
    }
    for _ in 0..3 {
        let frontend = UnixStream::connect(daemon.path(ATTACKER)).expect("connect");
        frontend.set_read_timeout(Some(PATIENCE)).expect("timeout");
        (&frontend)
            .write_all(&message(GET_FEATURES, &[]))
            .expect("sent");
        let end = (&frontend).read(&mut [0; 64]);
        assert!(!matches!(end, Ok(1..)), "it is not served");
    }
    daemon.wait_for_line("can't serve a frontend");
    drop(full);
    daemon.assert_unharmed();
    drop(daemon.driver(ATTACKER));
    daemon.assert_unharmed_to_the_end();
}

#[test]
fn clients_that_come_and_go_leave_nothing() {
    let mut daemon = Daemon::start();
    let count = |daemon: &Daemon| descriptors(daemon.pid());
    let before = count(&daemon);
    for round in 0..100 {
        let client = client(&daemon);
        match round % 4 {
            0 => assert!(first_line(&client).contains("zcnic")),
            1 => (&client).write_all(b"{\"execute\": ").expect("sent"),
            2 => client
                .shutdown(std::net::Shutdown::Write)
                .expect("half closed"),
            _ => {}
        }
        let frontend = UnixStream::connect(daemon.path(ATTACKER)).expect("connect");
        (&frontend)
            .write_all(&message(GET_FEATURES, &[])[..round % 13])
            .expect("sent");
    }
    daemon.wait_for("end of the connections", |daemon| count(daemon) <= before);
    drop(zcnic_model::vhost_user::connect(
        &daemon.path(ATTACKER),
        2,
        RING_SIZE,
    ));
    thread::yield_now();
    daemon.assert_unharmed_to_the_end();
}
