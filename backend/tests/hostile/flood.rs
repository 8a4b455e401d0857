//! Attacks by sheer number: log lines, captures, kicks, connections.

use std::{
    io::Write,
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use zcnic_model::{
    Transport,
    frames::{Flow, broadcast, pattern},
};

use crate::attacked::attack;
use crate::raw::{RawFrontend, RawMemory, RawRing, SET_MEM_TABLE, SET_VRING_NUM, halves, words};

/// How long a flood lasts.
const FLOOD: Duration = Duration::from_secs(2);

/// Repeats something while the flood lasts; returns how often.
fn flood(mut once: impl FnMut()) -> u64 {
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < FLOOD {
        once();
        count += 1;
    }
    count
}

#[test]
fn log_lines_of_connections_that_end_in_an_error() {
    attack(|target| {
        let count = flood(|| {
            let frontend = RawFrontend::connect(&target.path(1));
            let _ = frontend.send(SET_VRING_NUM, &halves(&[1, 0]));
        });
        assert!(count > 20, "{count} connections");
    });
}

#[test]
fn log_lines_of_messages_that_are_refused() {
    attack(|target| {
        flood(|| {
            let frontend = RawFrontend::negotiated(&target.path(1));
            for ring in 0..20 {
                let _ = frontend.send(SET_VRING_NUM, &halves(&[ring, 99_999]));
            }
            let _ = frontend.send(SET_MEM_TABLE, &halves(&[9, 0]));
            let _ = frontend.send(99, &[]);
        });
    });
}

#[test]
fn log_lines_of_memory_that_can_be_truncated() {
    attack(|target| {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(4096).expect("length");
        let table = [halves(&[1, 0]), words(&[0, 4096, 0, 0])].concat();
        flood(|| {
            let mut frontend = RawFrontend::negotiated(&target.path(1));
            for _ in 0..20 {
                let _ = frontend.ask(SET_MEM_TABLE, &table, &[&file]);
            }
        });
    });
}

#[test]
fn log_lines_of_a_guest_whose_rings_break() {
    attack(|target| {
        flood(|| {
            let mut hostile = target.guest(1, 4);
            for pair in 0..2 {
                let ring = hostile.pairs()[pair].transmit.ring_mut();
                ring.forge_available_index(0x7fff);
                hostile.transport().kick(2 * pair + 1);
            }
            // After the worker's turn.
            hostile.status();
        });
    });
}

#[test]
fn log_lines_of_a_guest_with_commands_that_are_noise() {
    attack(|target| {
        let mut hostile = target.guest(1, 4);
        let pair = hostile.pairs().len() - 1;
        flood(|| {
            let _ = hostile.exchange_on(pair, &[&[0x99; 70]], 64);
        });
    });
}

#[test]
fn kicks_without_chains() {
    attack(|target| {
        let mut hostile = target.guest(1, 4);
        flood(|| (0..6).for_each(|ring| hostile.transport().kick(ring)));
    });
}

#[test]
fn a_ring_that_is_never_empty() {
    attack(|target| {
        let mut frontend = RawFrontend::negotiated(&target.path(1));
        let memory = RawMemory::new(2 << 20);
        frontend
            .send_with(SET_MEM_TABLE, &memory.table(), &[&*memory.file])
            .expect("a listener");
        let mut ring = RawRing::new(1);
        ring.start(&frontend, 0).expect("a listener");
        let frame = [&[0; 12], &broadcast(&pattern(60))[..]].concat();
        memory.write(0x10_0000, &frame);
        ring.descriptor(&memory, 0, (0x10_0000, frame.len() as u32, 0, 0));
        flood(|| {
            let room = 64
                - ring
                    .published()
                    .wrapping_sub(ring.returned(&memory))
                    .min(64);
            ring.offer(&memory, &vec![0; room.into()]);
        });
        assert!(frontend.settle());
    });
}

#[test]
fn captures_that_are_never_read() {
    attack(|target| {
        let clients: Vec<_> = (0..12)
            .map(|_| {
                let mut client = UnixStream::connect(target.control_path()).expect("a listener");
                for port in ["0", "1"] {
                    let start = json!({"execute": "capture-start", "arguments": {"port": port}});
                    client
                        .write_all(format!("{start}\n").as_bytes())
                        .expect("it is read");
                }
                client
            })
            .collect();
        let _receiver = target.guest(0, 64);
        let mut sender = target.guest(1, 0);
        // After the captures began.
        thread::sleep(Duration::from_millis(100));
        flood(|| sender.send(0, Flow::udp4().frame(&pattern(9000))));
        clients
    });
}

#[test]
fn connections_as_fast_as_they_are_taken() {
    attack(|target| {
        flood(|| drop(UnixStream::connect(target.path(1)).expect("the port listens")));
    });
}

#[test]
fn frames_to_a_receiver_without_buffers() {
    attack(|target| {
        let _receiver = target.guest(0, 0);
        let mut sender = target.guest(1, 0);
        flood(|| sender.enqueue(0, Flow::tcp4().frame(&pattern(1400))));
        sender.flush(0);
    });
}

#[test]
fn trains_of_eight_thousand_segments() {
    attack(|target| {
        let _receiver = target.guest(0, 64);
        let mut sender = target.guest(1, 0);
        let train = Flow::tcp4().frame(&pattern(60_000));
        flood(|| {
            for _ in 0..32 {
                sender.enqueue(0, zcnic_model::Packet::from(&train).segmented(8));
            }
            sender.flush(0);
        });
    });
}
