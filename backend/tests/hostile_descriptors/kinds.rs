//! Descriptors of rings that are no eventfds, and eventfds that are used in odd ways.

use std::{
    fs::File,
    io::{Read, Seek, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    thread,
};

use rustix::{
    event::{EventfdFlags, epoll, eventfd},
    fs::{CWD, MemfdFlags, Mode, OFlags, inotify, memfd_create, openat},
    io::write,
    pipe::{PipeFlags, pipe, pipe_with},
    process::{Pid, PidfdFlags, pidfd_open},
    time::{TimerfdClockId, TimerfdFlags, timerfd_create},
};
use vhost::VhostBackend;
use vmm_sys_util::eventfd::EventFd;
use zcnic_model::{
    frames::{broadcast, pattern},
    vhost_user::message,
};

use super::daemon::{
    ATTACKER, Daemon, PEER, SET_VRING_CALL, SET_VRING_ERR, SET_VRING_KICK, borrow, descriptors,
    is_served, send_with_fd,
};

const SET_BACKEND_REQ_FD: u32 = 21;

fn open(path: &str, flags: OFlags) -> OwnedFd {
    openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty()).expect(path)
}

/// Descriptors of other kinds, and what else has to stay open.
fn others() -> Vec<(&'static str, OwnedFd, Option<OwnedFd>)> {
    let (reader, writer) = pipe().expect("pipe");
    let (full_reader, full) = pipe_with(PipeFlags::NONBLOCK).expect("pipe");
    while write(&full, &[0; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(&full, OFlags::empty()).expect("flags");
    let (socket, peer) = UnixStream::pair().expect("pair");
    let (lonely, _) = UnixStream::pair().expect("pair");
    let (closed_reader, _) = pipe().expect("pipe");
    let (_, closed_writer) = pipe().expect("pipe");
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC);
    let own = Pid::from_raw(std::process::id() as i32).expect("a process");
    vec![
        ("a pipe to read", reader, Some(writer)),
        ("a full pipe that blocks", full, Some(full_reader)),
        ("a pipe without a writer", closed_reader, None),
        ("a pipe without a reader", closed_writer, None),
        ("a socket", socket.into(), Some(peer.into())),
        ("a socket without a peer", lonely.into(), None),
        ("an empty device", open("/dev/null", OFlags::RDWR), None),
        ("a full device", open("/dev/full", OFlags::RDWR), None),
        ("an endless device", open("/dev/zero", OFlags::RDWR), None),
        (
            "a random device",
            open("/dev/urandom", OFlags::RDONLY),
            None,
        ),
        (
            "a terminal",
            open("/dev/ptmx", OFlags::RDWR | OFlags::NOCTTY),
            None,
        ),
        ("a directory", open("/", OFlags::RDONLY), None),
        ("a path", open("/", OFlags::PATH), None),
        (
            "a read-only file",
            open("/proc/self/status", OFlags::RDONLY),
            None,
        ),
        (
            "a memory file",
            memfd_create("m", MemfdFlags::CLOEXEC).expect("memfd"),
            None,
        ),
        (
            "an epoll instance",
            epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll"),
            None,
        ),
        ("a timer", timer.expect("timerfd"), None),
        (
            "an inotify instance",
            inotify::init(inotify::CreateFlags::CLOEXEC).expect("inotify"),
            None,
        ),
        (
            "a process",
            pidfd_open(own, PidfdFlags::empty()).expect("pidfd"),
            None,
        ),
    ]
}

#[test]
fn only_eventfds_are_taken_for_rings() {
    for (kind, request) in [
        ("kick", SET_VRING_KICK),
        ("call", SET_VRING_CALL),
        ("error", SET_VRING_ERR),
    ] {
        let mut daemon = Daemon::start();
        for (what, fd, _other) in others() {
            let stream = daemon.raw(ATTACKER);
            send_with_fd(&stream, request, 1, &fd);
            assert!(!is_served(&stream), "{what} as {kind} descriptor");
        }
        daemon.wait_for_line(&format!(
            "The {kind} descriptor of ring 1 is not an eventfd"
        ));
        daemon.assert_unharmed_to_the_end();
    }
}

#[test]
fn nothing_is_written_to_a_file() {
    let daemon = Daemon::start();
    let mut file = tempfile::tempfile().expect("file");
    for request in [SET_VRING_CALL, SET_VRING_KICK, SET_VRING_ERR] {
        let stream = daemon.raw(ATTACKER);
        send_with_fd(&stream, request, 0, &file);
        assert!(!is_served(&stream));
    }
    file.rewind().expect("seek");
    assert_eq!(file.read_to_end(&mut Vec::new()).expect("read"), 0);
    daemon.assert_unharmed_to_the_end();
}

#[test]
fn every_kind_of_eventfd_is_taken() {
    let daemon = Daemon::start();
    for flags in [
        EventfdFlags::empty(),
        EventfdFlags::SEMAPHORE,
        EventfdFlags::NONBLOCK,
    ] {
        let stream = daemon.raw(ATTACKER);
        let full = eventfd(u32::MAX - 1, flags).expect("eventfd");
        for request in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
            assert!(send_with_fd(&stream, request, 0, &full));
        }
        assert!(is_served(&stream), "{flags:?}");
    }
    daemon.assert_unharmed_to_the_end();
}

#[test]
fn rings_without_descriptors_are_served() {
    let daemon = Daemon::start();
    let stream = daemon.raw(ATTACKER);
    for request in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
        for ring in [0u64, 1, 255] {
            let bytes = message(request, &(0x100 | ring).to_ne_bytes());
            (&stream).write_all(&bytes).expect("sent");
        }
    }
    assert!(is_served(&stream));
    daemon.assert_unharmed_to_the_end();
}

#[test]
fn kick_that_the_frontend_closes_is_kept() {
    let daemon = Daemon::start();
    let mut attacker = daemon.driver(ATTACKER);
    let mut peer = daemon.driver(PEER);
    let kick = EventFd::new(0).expect("eventfd");
    let protocol = &mut attacker.transport().protocol;
    protocol.set_vring_kick(1, &kick).expect("kick");
    drop(kick);
    peer.send(0, broadcast(&pattern(60)));
    attacker.receive(0);
    daemon.assert_unharmed_to_the_end();
}

#[test]
fn kick_storms_cost_only_their_own_worker() {
    let mut daemon = Daemon::start();
    let mut attacker = daemon.driver(ATTACKER);
    let kick = EventFd::new(0).expect("eventfd");
    let protocol = &mut attacker.transport().protocol;
    protocol.set_vring_kick(1, &kick).expect("kick");
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..100_000).for_each(|_| kick.write(1).expect("room")));
        }
        daemon.assert_unharmed();
    });
    daemon.assert_unharmed_to_the_end();
}

#[test]
fn one_eventfd_for_everything_ends_in_no_loop() {
    let mut daemon = Daemon::start();
    let mut attacker = daemon.driver(ATTACKER);
    let mut peer = daemon.driver(PEER);
    let event = EventFd::new(0).expect("eventfd");
    let protocol = &mut attacker.transport().protocol;
    for ring in 0..4 {
        protocol.set_vring_kick(ring, &event).expect("kick");
        protocol.set_vring_call(ring, &event).expect("call");
    }
    for _ in 0..8 {
        peer.send(0, broadcast(&pattern(60)));
    }
    assert_eq!(attacker.receive_all().len(), 8);
    daemon.assert_unharmed();
    drop(attacker);
    let stream = daemon.raw(ATTACKER);
    for ring in 0..256 {
        for request in [SET_VRING_KICK, SET_VRING_CALL] {
            assert!(send_with_fd(&stream, request, ring, borrow(&event)));
        }
    }
    assert!(is_served(&stream), "all rings that can be named");
    for _ in 0..1000 {
        event.write(1).expect("room");
    }
    daemon.assert_unharmed_to_the_end();
}

#[test]
fn channels_for_the_backends_requests_are_not_collected() {
    let daemon = Daemon::start();
    let stream = daemon.raw(ATTACKER);
    // MQ, REPLY_ACK and BACKEND_REQ.
    let features: u64 = 1 | 1 << 3 | 1 << 5;
    let bytes = message(16, &features.to_ne_bytes());
    (&stream).write_all(&bytes).expect("sent");
    assert!(is_served(&stream));
    let before = descriptors(daemon.pid());
    for _ in 0..300 {
        let (one, _other) = UnixStream::pair().expect("pair");
        assert!(send_body_with_fd(&stream, SET_BACKEND_REQ_FD, &one));
    }
    assert!(is_served(&stream));
    assert_eq!(descriptors(daemon.pid()), before);
    let null = File::open("/dev/null").expect("/dev/null");
    send_body_with_fd(&stream, SET_BACKEND_REQ_FD, &null);
    assert!(!is_served(&stream), "a device as channel");
    daemon.assert_unharmed_to_the_end();
}

/// Sends a message without a body, with a descriptor.
fn send_body_with_fd(stream: &UnixStream, request: u32, fd: impl AsFd) -> bool {
    super::daemon::send_bytes_with_fd(stream, &message(request, &[]), fd)
}
