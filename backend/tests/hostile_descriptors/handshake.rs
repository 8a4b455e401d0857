//! Connections that say nothing, something else, or the first half.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Instant,
};

use zcnic_ctl::{Client, ClientError};
use zcnic_model::vhost_user::message;

use super::daemon::{ATTACKER, Daemon, GET_FEATURES, PATIENCE, SET_OWNER};

fn connect(daemon: &Daemon) -> UnixStream {
    let stream = UnixStream::connect(daemon.path(ATTACKER)).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream
}

/// Waits until the daemon closes a connection.
fn assert_closed(mut stream: &UnixStream) {
    let end = stream.read_to_end(&mut Vec::new());
    assert!(
        end.is_ok_and(|length| length == 0) || stream.write_all(&[0]).is_err(),
        "the connection is closed without an answer"
    );
}

#[test]
fn silent_connections_keep_no_frontend_out() {
    let daemon = Daemon::start();
    let silent: Vec<_> = (0..17).map(|_| connect(&daemon)).collect();
    let half = connect(&daemon);
    (&half)
        .write_all(&message(GET_FEATURES, &[])[..7])
        .expect("sent");
    drop(daemon.driver(ATTACKER));
    // And they are closed in the end.
    silent.iter().for_each(assert_closed);
    assert_closed(&half);
    drop(daemon.driver(ATTACKER));
    daemon.assert_unharmed_to_the_end();
}

#[test]
fn connections_that_come_all_the_time_keep_no_frontend_out() {
    let mut daemon = Daemon::start();
    let path = daemon.path(ATTACKER);
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let flood = std::thread::spawn(move || {
        let mut held = std::collections::VecDeque::new();
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            held.push_back(UnixStream::connect(&path).expect("connect"));
            if held.len() > 64 {
                held.pop_front();
            }
        }
    });
    for _ in 0..3 {
        drop(daemon.driver(ATTACKER));
        daemon.assert_unharmed();
    }
    drop(stop);
    flood.join().expect("it stops");
    daemon.assert_unharmed_to_the_end();
}

#[test]
fn a_frontend_that_only_asks_makes_room_for_the_next_one() {
    let mut daemon = Daemon::start();
    let mut curious = connect(&daemon);
    curious
        .write_all(&message(GET_FEATURES, &[]))
        .expect("sent");
    curious.read_exact(&mut [0; 20]).expect("features");
    assert_closed(&curious);
    daemon.wait_for_line("It set nothing up within 10 s");
    drop(daemon.driver(ATTACKER));
    daemon.assert_unharmed_to_the_end();
}

#[test]
fn other_protocols_are_refused_at_once() {
    let mut daemon = Daemon::start();
    let start = Instant::now();
    for text in [
        "GET / HTTP/1.1\r\n\r\n",
        "{\"execute\": \"query-status\"}\n",
        "\n\n\n\n",
        "\u{1}x",
    ] {
        let mut stream = connect(&daemon);
        stream.write_all(text.as_bytes()).expect("sent");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.contains("vhost-user socket of port 2"), "{answer}");
    }
    let refused = Client::connect(&daemon.path(ATTACKER)).expect_err("a port");
    assert!(
        matches!(refused, ClientError::NotServed { .. }),
        "{refused}"
    );
    // Also while a frontend is connected, which stays.
    let attacker = daemon.raw(ATTACKER);
    let refused = Client::connect(&daemon.path(ATTACKER)).expect_err("a port");
    assert!(
        matches!(refused, ClientError::NotServed { .. }),
        "{refused}"
    );
    assert!(super::daemon::is_served(&attacker));
    assert!(start.elapsed() < PATIENCE, "no time-out is waited for");
    daemon.wait_for_line("does not speak vhost-user");
    daemon.assert_unharmed_to_the_end();
}

#[test]
fn half_a_message_holds_up_only_its_own_port() {
    let mut daemon = Daemon::start();
    let frontend = daemon.raw(ATTACKER);
    (&frontend)
        .write_all(&message(SET_OWNER, &[0; 8])[..15])
        .expect("sent");
    daemon.assert_unharmed();
    let mut control = daemon.control();
    control
        .disconnect(&ATTACKER.to_string())
        .expect("disconnected");
    assert_closed(&frontend);
    drop(daemon.driver(ATTACKER));
    daemon.assert_unharmed_to_the_end();
}

#[test]
fn answers_that_are_not_read_hold_up_only_their_own_port() {
    let mut daemon = Daemon::start();
    let frontend = daemon.raw(ATTACKER);
    frontend.set_nonblocking(true).expect("non-blocking");
    let request = message(GET_FEATURES, &[]);
    while (&frontend).write_all(&request).is_ok() {}
    daemon.assert_unharmed();
    daemon.assert_unharmed_to_the_end();
}

#[test]
fn a_reply_is_asked_for_before_the_features_are() {
    let daemon = Daemon::start();
    let mut stream = connect(&daemon);
    let need_reply = |request: u32, body: &[u8]| {
        let mut bytes = message(request, body);
        bytes[4..8].copy_from_slice(&9u32.to_ne_bytes());
        bytes
    };
    // SET_PROTOCOL_FEATURES with REPLY_ACK, as cloud-hypervisor sends it when it restores.
    for bytes in [
        message(SET_OWNER, &[]),
        need_reply(16, &(1u64 << 3).to_ne_bytes()),
    ] {
        stream.write_all(&bytes).expect("sent");
    }
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).expect("a reply");
    assert_eq!(reply[..4], 16u32.to_ne_bytes());
    assert_eq!(reply[12..], [0; 8]);
    daemon.assert_unharmed_to_the_end();
}
