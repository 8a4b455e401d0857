//! Malicious frontends and drivers. Whatever they write, the backend keeps serving the other port,
//! and serves this one again as soon as a proper frontend connects.

mod common;

use std::{
    io::Write,
    os::{fd::AsRawFd, unix::net::UnixStream},
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use common::World;
use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zcnic_model::{
    Driver, Packet, Shape,
    frames::{Flow, broadcast, pattern},
    in_process::RING_SIZE,
    ring::Ring,
    vhost_user::{Frontend, message},
};

const PAIRS: u16 = 3;
const COMMAND_PAIR: usize = 2;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// The address of attacks' tables and buffers, at the end of the first region, where nothing else
/// is.
const PLAYGROUND: GuestAddress = GuestAddress((16 << 20) - 65536);
const NOWHERE: GuestAddress = GuestAddress(0x7000_0000);

/// Checks that the backend still serves the port that was not attacked, and a new frontend of the
/// other one.
fn assert_alive(world: &World, honest: &mut Driver<Frontend>) {
    honest.status();
    refill(honest);
    let mut other = world.driver(1, PAIRS);
    other.bring_up(Shape::SPLIT, 4);
    let frame = broadcast(&pattern(100));
    honest.send(0, &frame);
    assert_eq!(other.receive(0).frame, frame);
    other.send(0, &frame);
    assert_eq!(honest.receive(0).frame, frame);
}

const BUFFERS: usize = 400;

fn honest(world: &World) -> Driver<Frontend> {
    let mut driver = world.driver(0, PAIRS);
    driver.bring_up(Shape::SPLIT, BUFFERS);
    driver
}

/// Takes all frames that an attack sent, and posts as many buffers.
fn refill(honest: &mut Driver<Frontend>) {
    honest.receive_all();
    let posted = honest.posted(0);
    honest.post(0, Shape::SPLIT, BUFFERS - posted);
}

type Attack<T> = fn(&mut Ring<T>, &GuestMemoryMmap);

/// One descriptor at index 7, made available.
fn single<T>(ring: &mut Ring<T>, at: GuestAddress, length: u32, flags: u16, next: u16) {
    ring.forge_descriptor(7, at, length, flags, next);
    ring.forge_available_head(7);
}

/// An indirect chain whose table holds the entries, made available.
fn table<T>(
    ring: &mut Ring<T>,
    memory: &GuestMemoryMmap,
    entries: &[(GuestAddress, u32, u16, u16)],
) {
    for (index, (address, length, flags, next)) in entries.iter().enumerate() {
        let entry = GuestAddress(PLAYGROUND.0 + 16 * index as u64);
        let low = u64::from(*length) | u64::from(*flags) << 32 | u64::from(*next) << 48;
        memory
            .write_obj(address.0.to_le(), entry)
            .expect("in memory");
        memory
            .write_obj(low.to_le(), GuestAddress(entry.0 + 8))
            .expect("in memory");
    }
    single(ring, PLAYGROUND, 16 * entries.len() as u32, INDIRECT, 0);
}

/// Violations of a ring's rules by a driver.
fn attacks<T>() -> Vec<(&'static str, Attack<T>)> {
    vec![
        ("an available index that jumps", |ring, _| {
            ring.forge_available_index(0x7fff);
        }),
        ("an available index that goes back", |ring, _| {
            ring.forge_available_index(0xfff0);
        }),
        ("a head beyond the ring", |ring, _| {
            ring.forge_available_head(RING_SIZE);
        }),
        ("a head far beyond the ring", |ring, _| {
            ring.forge_available_head(0xffff);
        }),
        ("a loop of one", |ring, _| {
            single(ring, PLAYGROUND, 64, NEXT, 7);
        }),
        ("a loop of one that is written", |ring, _| {
            single(ring, PLAYGROUND, 64, NEXT | WRITE, 7);
        }),
        ("a loop of two", |ring, _| {
            ring.forge_descriptor(8, PLAYGROUND, 64, NEXT, 7);
            single(ring, PLAYGROUND, 64, NEXT, 8);
        }),
        ("a successor beyond the ring", |ring, _| {
            single(ring, PLAYGROUND, 64, NEXT, 0xfff0);
        }),
        ("a buffer that is nowhere", |ring, _| {
            single(ring, NOWHERE, 64, 0, 0);
        }),
        ("a writable buffer that is nowhere", |ring, _| {
            single(ring, NOWHERE, 64, WRITE, 0);
        }),
        ("a buffer that leaves memory", |ring, _| {
            single(ring, GuestAddress((16 << 20) - 10), 4096, WRITE, 0);
        }),
        ("a buffer that wraps", |ring, _| {
            single(ring, GuestAddress(u64::MAX - 9), 100, WRITE, 0);
        }),
        ("a buffer of 4 GiB", |ring, _| {
            single(ring, PLAYGROUND, u32::MAX, WRITE, 0);
        }),
        ("a buffer of nothing", |ring, _| {
            single(ring, PLAYGROUND, 0, 0, 0);
        }),
        ("a writable buffer of nothing", |ring, _| {
            single(ring, PLAYGROUND, 0, WRITE, 0);
        }),
        ("unknown flags", |ring, _| {
            single(ring, PLAYGROUND, 64, 0xfff8, 0);
        }),
        ("readable behind writable", |ring, _| {
            ring.forge_descriptor(8, PLAYGROUND, 64, 0, 0);
            single(ring, PLAYGROUND, 64, WRITE | NEXT, 8);
        }),
        ("a table that is nowhere", |ring, _| {
            single(ring, NOWHERE, 64, INDIRECT, 0);
        }),
        ("a table of nothing", |ring, _| {
            single(ring, PLAYGROUND, 0, INDIRECT, 0);
        }),
        ("half a table entry", |ring, _| {
            single(ring, PLAYGROUND, 24, INDIRECT, 0);
        }),
        ("an endless table", |ring, _| {
            single(ring, PLAYGROUND, !15, INDIRECT, 0);
        }),
        ("a table with a successor", |ring, _| {
            single(ring, PLAYGROUND, 64, INDIRECT | NEXT, 8);
        }),
        ("a table in a table", |ring, memory| {
            table(ring, memory, &[(PLAYGROUND, 16, INDIRECT, 0)]);
        }),
        ("a loop in a table", |ring, memory| {
            let entry = (PLAYGROUND, 64, NEXT, 0);
            table(ring, memory, &[entry, entry, entry]);
        }),
        ("a successor beyond the table", |ring, memory| {
            table(ring, memory, &[(PLAYGROUND, 64, NEXT, 1)]);
        }),
        ("4 GiB in a table", |ring, memory| {
            let big = |next| (GuestAddress(0x1_0000_0000), 48 << 20, NEXT, next);
            let entries: Vec<_> = (1..90).map(big).chain([(PLAYGROUND, 64, 0, 0)]).collect();
            table(ring, memory, &entries);
        }),
    ]
}

#[test]
fn no_ring_can_be_used_against_the_backend() {
    let world = World::new();
    let mut honest = honest(&world);
    let frame = broadcast(&pattern(200));
    for (what, attack) in attacks() {
        for pair in [0, COMMAND_PAIR] {
            let mut hostile = world.driver(1, PAIRS);
            hostile.bring_up(Shape::SPLIT, 4);
            let memory = hostile.parts().0.memory();
            attack(hostile.pairs()[pair].transmit.ring_mut(), &memory);
            zcnic_model::Transport::kick(hostile.transport(), 2 * pair + 1);
            if pair != COMMAND_PAIR {
                // After its worker's next turn: the effects of the attack have happened.
                hostile.enqueue(1, &frame);
                honest.receive(0);
                refill(&mut honest);
            }
            honest.status();
            println!("{what} on the transmit ring of pair {pair}");
        }
    }
    for (what, attack) in attacks() {
        let mut hostile = world.driver(1, PAIRS);
        hostile.bring_up(Shape::SPLIT, 0);
        let memory = hostile.parts().0.memory();
        for pair in [0, COMMAND_PAIR] {
            attack(hostile.pairs()[pair].receive.ring_mut(), &memory);
            zcnic_model::Transport::kick(hostile.transport(), 2 * pair);
        }
        honest.send(0, &frame);
        honest.status();
        println!("{what} on receive rings");
    }
    assert_alive(&world, &mut honest);
}

#[test]
fn noise_in_rings_stays_there() {
    let world = World::new();
    let mut honest = honest(&world);
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    for round in 0..40 {
        let mut hostile = world.driver(1, PAIRS);
        hostile.bring_up(Shape::SPLIT, 4);
        let memory = hostile.parts().0.memory();
        for ring in 0..2 * usize::from(PAIRS) {
            let addresses = hostile.transport().ring(ring);
            // Addresses mostly in memory, so that some chains are valid.
            for index in 0..64u64 {
                let mut entry = [0; 16];
                rng.fill_bytes(&mut entry);
                entry[3..8].fill(0);
                if index % 3 > 0 {
                    entry[9..12].fill(0);
                }
                if index % 4 > 0 {
                    entry[13..16].fill(0);
                }
                let at = GuestAddress(addresses.descriptors.0 + 16 * index);
                memory.write_slice(&entry, at).expect("in memory");
                let head = if round % 2 == 0 {
                    index as u16 % 50
                } else {
                    rng.next_u32() as u16
                };
                let at = GuestAddress(addresses.available.0 + 4 + 2 * index);
                memory.write_obj(head.to_le(), at).expect("in memory");
            }
            let index = GuestAddress(addresses.available.0 + 2);
            memory
                .write_obj((rng.next_u32() as u16 % 64).to_le(), index)
                .expect("in memory");
            zcnic_model::Transport::kick(hostile.transport(), ring);
        }
        for _ in 0..5 {
            honest.send(0, Flow::udp4().frame(&pattern(2000)));
        }
        refill(&mut honest);
    }
    assert_alive(&world, &mut honest);
}

/// Received bytes match their checksum verdict, whenever the sender rewrites its frames.
#[test]
fn a_sender_that_rewrites_its_frames_does_not_deceive_the_receiver() {
    const FRAMES: usize = 300;
    let world = World::new();
    let mut receiver = honest(&world);
    let mut sender = world.driver(1, PAIRS);
    sender.bring_up(Shape::SPLIT, 0);
    let frame = Flow::tcp4().frame(&[0; 1200]);
    sender.stop_transmit(0).expect("stop");
    for _ in 0..FRAMES {
        sender.enqueue(
            0,
            Packet::from(&frame).checksum().scattered(&[32 + 54, 1200]),
        );
    }
    // Every second descriptor is a frame's payload.
    let memory = sender.parts().0.memory();
    let descriptors = sender.transport().ring(1).descriptors;
    let payloads: Vec<GuestAddress> = (0..RING_SIZE)
        .filter_map(|index| {
            let at = GuestAddress(descriptors.0 + 16 * u64::from(index));
            let address: u64 = memory.read_obj(at).expect("in memory");
            let length: u32 = memory.read_obj(GuestAddress(at.0 + 8)).expect("in memory");
            (length == 1200).then_some(GuestAddress(address))
        })
        .collect();
    assert!(payloads.len() >= FRAMES);
    let done = Arc::new(AtomicBool::new(false));
    let rewriting = Arc::new(Barrier::new(2));
    let scribbler = {
        let (done, rewriting) = (Arc::clone(&done), Arc::clone(&rewriting));
        let (memory, payloads) = (Arc::clone(&memory), payloads.clone());
        thread::spawn(move || {
            let mut value = 1;
            let mut pass = || {
                for at in &payloads {
                    for offset in (0..1200).step_by(8) {
                        let at = GuestAddress(at.0 + offset);
                        memory.write_obj::<u64>(value, at).expect("in memory");
                    }
                    value = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                }
            };
            pass();
            rewriting.wait();
            while !done.load(Ordering::Relaxed) {
                pass();
            }
        })
    };
    rewriting.wait();
    sender.start_transmit(0).expect("start");
    for _ in 0..FRAMES {
        // The model driver compares the verdict, which is "good", with the bytes.
        let received = receiver.receive(0);
        assert_eq!(received.checksum(), Some(true));
        assert_ne!(received.frame, frame);
    }
    done.store(true, Ordering::Relaxed);
    scribbler.join().expect("scribbler");
    for at in payloads {
        memory.write_slice(&[0; 1200], at).expect("in memory");
    }
    sender.flush(0);
}

#[test]
fn rings_that_can_not_be_are_refused() {
    let world = World::new();
    let mut honest = honest(&world);
    for size in [0, 3, 1000, 2048, 65535] {
        let mut hostile = world.driver(1, PAIRS);
        hostile.hello();
        let frontend = hostile.transport();
        let base = frontend.stop_ring(1);
        // Refused at once, or when the ring starts.
        if frontend.protocol.set_vring_num(1, size).is_ok() {
            let _ = frontend.protocol.set_vring_base(1, base);
            let _ = frontend.set_addresses(1, frontend.ring(1));
        }
        honest.status();
    }
    // Each part of a ring: misaligned, outside memory, and beyond the end of memory.
    let moves: [fn(u64) -> u64; 3] = [|at| at + 1, |at| at + (1 << 40), |at| at + (16 << 20) - 64];
    for (number, moved) in moves.iter().enumerate() {
        for part in 0..3 {
            let mut hostile = world.driver(1, PAIRS);
            hostile.bring_up(Shape::SPLIT, 4);
            let frontend = hostile.transport();
            let base = frontend.stop_ring(1);
            let mut config = frontend.ring_config(frontend.ring(1));
            let address = match part {
                0 => &mut config.desc_table_addr,
                1 => &mut config.avail_ring_addr,
                _ => &mut config.used_ring_addr,
            };
            *address = moved(*address);
            if frontend.protocol.set_vring_addr(1, &config).is_ok() {
                // Then it is refused when the ring is used.
                let _ = frontend.protocol.set_vring_base(1, base);
                zcnic_model::Transport::kick(frontend, 1);
            }
            println!("move {number} of part {part}");
            honest.status();
        }
    }
    assert_alive(&world, &mut honest);
}

#[test]
fn memory_that_is_not_there_is_refused() {
    let world = World::new();
    let mut honest = honest(&world);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = memfd_create("guest", flags).expect("memfd");
    ftruncate(&file, 4096).expect("length");
    let region = |guest: u64, size: u64, offset: u64| VhostUserMemoryRegionInfo {
        guest_phys_addr: guest,
        memory_size: size,
        userspace_addr: guest.wrapping_add(0x10_0000),
        mmap_offset: offset,
        mmap_handle: file.as_raw_fd(),
    };
    for (what, regions) in [
        ("a file that is too short", vec![region(0, 1 << 20, 0)]),
        ("an offset behind its end", vec![region(0, 4096, 8192)]),
        (
            "an offset that wraps",
            vec![region(0, 4096, u64::MAX - 4095)],
        ),
        ("more than there is anywhere", vec![region(0, 1 << 62, 0)]),
        ("a region that wraps", vec![region(u64::MAX - 100, 4096, 0)]),
        (
            "regions that overlap",
            vec![region(0, 4096, 0), region(2048, 2048, 0)],
        ),
    ] {
        let mut hostile = world.driver(1, PAIRS);
        hostile.bring_up(Shape::SPLIT, 4);
        let refused = hostile.transport().protocol.set_mem_table(&regions);
        assert!(refused.is_err(), "{what}");
        // Although the backend still knows the rings, it must not touch them.
        zcnic_model::Transport::kick(hostile.transport(), 1);
        honest.send(0, broadcast(&pattern(60)));
        honest.status();
    }
    assert_alive(&world, &mut honest);
}

#[test]
fn noise_instead_of_messages_ends_a_connection_and_no_more() {
    let world = World::new();
    let mut honest = honest(&world);
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
                .prop_map(|(request, body)| message(request, &body)),
            // Small numbers are plausible rings and sizes.
            4 => (1..45u32, prop::collection::vec(0..8u64, 0..6)).prop_map(|(request, words)| {
                message(request, &words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>())
            }),
            1 => prop::collection::vec(any::<u8>(), 1..64),
        ],
        1..20,
    );
    runner
        .run(&messages, |messages| {
            let mut stream = UnixStream::connect(world.path(1)).expect("the port listens");
            for bytes in messages {
                // The backend may have ended the connection already.
                if stream.write_all(&bytes).is_err() {
                    break;
                }
            }
            Ok(())
        })
        .expect("nothing fails here");
    assert_alive(&world, &mut honest);
}
