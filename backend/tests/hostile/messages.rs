//! Frontends that send anything but the protocol.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::attacked::{attack, attack_to_the_end};
use crate::raw::{GET_FEATURES, RawFrontend, SET_MEM_TABLE, SET_VRING_NUM, halves, message, words};

/// The requests that vhost-user has, and a few that it hasn't.
const REQUESTS: std::ops::Range<u32> = 0..48;

#[test]
fn noise_instead_of_messages() {
    attack(|target| {
        let mut runner = TestRunner::new_with_rng(
            Config {
                cases: 150,
                failure_persistence: None,
                ..Config::default()
            },
            TestRng::deterministic_rng(RngAlgorithm::ChaCha),
        );
        let messages = prop::collection::vec(
            prop_oneof![
                4 => (1..45u32, prop::collection::vec(any::<u8>(), 0..64))
                    .prop_map(|(request, body)| message(request, 1, &body)),
                // Small numbers are plausible rings and sizes.
                4 => (1..45u32, prop::collection::vec(0..8u64, 0..6))
                    .prop_map(|(request, body)| message(request, 1, &words(&body))),
                1 => prop::collection::vec(any::<u8>(), 1..64),
            ],
            1..20,
        );
        runner
            .run(&messages, |messages| {
                let mut stream = UnixStream::connect(target.path(1)).expect("the port listens");
                for bytes in messages {
                    // The backend may have ended the connection already.
                    if stream.write_all(&bytes).is_err() {
                        break;
                    }
                }
                Ok(())
            })
            .expect("nothing fails here");
    });
}

/// Sends bytes to port 1, each on a connection of its own that is closed behind them.
fn connections(messages: impl IntoIterator<Item = Vec<u8>>) {
    attack(|target| {
        for bytes in messages {
            let mut stream = UnixStream::connect(target.path(1)).expect("the port listens");
            // The backend may end the connection before it has read everything.
            let _ = stream.write_all(&bytes);
        }
    });
}

#[test]
fn the_end_of_the_connection_in_the_middle_of_every_message() {
    let cuts = |request| {
        let whole = message(request, 1, &[0; 40]);
        [1, 4, 8, 11, 12, 13, 20, 40].map(|cut: usize| whole[..cut].to_vec())
    };
    connections(REQUESTS.flat_map(cuts));
}

/// A test for each length of body, which all requests have.
macro_rules! bodies {
    ($($name:ident: $length:expr;)*) => {
        $(#[test]
        fn $name() {
            connections(REQUESTS.map(|request| message(request, 1, &[0xff; $length])));
        })*
    };
}

bodies! {
    every_request_without_a_body: 0;
    every_request_with_a_body_of_1_byte: 1;
    every_request_with_a_body_of_a_word: 8;
    every_request_with_a_body_of_40_bytes: 40;
    every_request_with_a_body_of_4096_bytes: 4096;
    every_request_with_a_body_of_4097_bytes: 4097;
}

/// A message whose header says that it has `length` bytes, with as many as 4200 of them.
fn sized(request: u32, flags: u32, length: u32) -> Vec<u8> {
    let body = vec![0; length.min(4200) as usize];
    [halves(&[request, flags, length]), body].concat()
}

#[test]
fn every_request_of_4_gibibytes() {
    connections(REQUESTS.map(|request| sized(request, 1, u32::MAX)));
}

#[test]
fn every_request_in_every_version() {
    let versions = |request| [0, 2, 3, 5, 8, u32::MAX].map(|flags| sized(request, flags, 8));
    connections(REQUESTS.flat_map(versions));
}

#[test]
fn requests_that_do_not_exist() {
    connections([255, 1000, 1 << 31, u32::MAX].map(|request| sized(request, 1, 8)));
}

#[test]
fn five_thousand_connections_that_say_nothing() {
    connections((0..5000).map(|_| Vec::new()));
}

#[test]
fn half_a_message_and_then_silence() {
    attack_to_the_end(|target| {
        let mut stream = UnixStream::connect(target.path(1)).expect("the port listens");
        stream.write_all(&[1, 0, 0, 0, 1, 0]).expect("a listener");
        (stream, target.guest(0, 4))
    });
}

#[test]
fn a_message_a_byte_at_a_time() {
    attack(|target| {
        let mut stream = UnixStream::connect(target.path(1)).expect("the port listens");
        for byte in message(GET_FEATURES, 1, &[]) {
            stream.write_all(&[byte]).expect("a listener");
            std::thread::sleep(Duration::from_millis(5));
        }
        stream
            .read_exact(&mut [0; 20])
            .expect("it is a request like any other");
    });
}

#[test]
fn replies_that_are_never_read() {
    attack_to_the_end(|target| {
        let frontend = RawFrontend::connect(&target.path(1));
        let patience = Some(Duration::from_millis(500));
        frontend
            .stream
            .set_write_timeout(patience)
            .expect("a socket has timeouts");
        // Until both directions are full.
        let sent = (0..200_000).take_while(|_| frontend.send(GET_FEATURES, &[]).is_ok());
        assert!(sent.count() > 100, "some requests were taken");
        frontend
    });
}

#[test]
fn a_second_frontend_while_the_first_one_works() {
    attack(|target| {
        let mut first = RawFrontend::negotiated(&target.path(1));
        let mut second = RawFrontend::connect(&target.path(1));
        second.send(GET_FEATURES, &[]).expect("a listener");
        assert_eq!(second.reply(), None, "it is sent away");
        assert!(first.settle(), "the first one goes on");
        drop(first);
        assert!(RawFrontend::negotiated(&target.path(1)).settle());
    });
}

#[test]
fn a_frontend_that_comes_and_goes_a_thousand_times() {
    attack(|target| {
        for _ in 0..1000 {
            // Each waits until the one before has left.
            assert!(RawFrontend::negotiated(&target.path(1)).settle());
        }
    });
}

#[test]
fn a_table_that_says_more_regions_than_it_has() {
    attack(|target| {
        for count in [0, 2, 8, 33, 255, u32::MAX] {
            let mut frontend = RawFrontend::negotiated(&target.path(1));
            let file = tempfile::tempfile().expect("a file");
            let body = [halves(&[count, 0]), words(&[0, 4096, 0, 0])].concat();
            assert_ne!(frontend.ask(SET_MEM_TABLE, &body, &[&file]), Some(0));
        }
    });
}

#[test]
fn tables_with_another_number_of_descriptors_than_regions() {
    attack(|target| {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(4096).expect("length");
        for count in [0, 2, 32, 33, 253] {
            let mut frontend = RawFrontend::negotiated(&target.path(1));
            let body = [halves(&[1, 0]), words(&[0, 4096, 0, 0])].concat();
            let files = vec![&file as &dyn std::os::fd::AsRawFd; count];
            assert_ne!(frontend.ask(SET_MEM_TABLE, &body, &files), Some(0));
        }
    });
}

#[test]
fn descriptors_with_messages_that_have_none() {
    attack(|target| {
        let file = tempfile::tempfile().expect("a file");
        for request in REQUESTS {
            let frontend = RawFrontend::negotiated(&target.path(1));
            let files = vec![&file as &dyn std::os::fd::AsRawFd; 8];
            let _ = frontend.send_with(request, &words(&[0, 0]), &files);
        }
    });
}

#[test]
fn sizes_of_rings_that_do_not_exist() {
    attack(|target| {
        for ring in [256, 257, 1 << 16, u32::MAX] {
            let mut frontend = RawFrontend::negotiated(&target.path(1));
            assert_ne!(
                frontend.ask(SET_VRING_NUM, &halves(&[ring, 64]), &[]),
                Some(0)
            );
        }
    });
}
