//! Frontends that pass file descriptors of the wrong kind.

mod common;

use std::{
    fs::File,
    io::{IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
};

use common::World;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};
use zcnic_model::{
    Shape,
    frames::{broadcast, pattern},
    vhost_user::{PATIENCE, message},
};

const PAIRS: u16 = 3;

/// Checks that a fresh pair of drivers exchanges frames.
fn assert_alive(world: &World) {
    let [mut a, mut b] = world.drivers(PAIRS);
    a.bring_up(Shape::SPLIT, 8);
    b.bring_up(Shape::SPLIT, 8);
    let frame = broadcast(&pattern(100));
    a.send(0, &frame);
    assert_eq!(b.receive(0).frame, frame);
}

fn connect(world: &World) -> UnixStream {
    let stream = UnixStream::connect(world.path(0)).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream
}

/// Sends a message with a file descriptor; returns whether the backend keeps the connection.
fn send_with_fd(stream: &UnixStream, bytes: &[u8], fd: impl AsFd) -> bool {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(
        stream,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .is_ok()
}

fn memfd(size: u64) -> File {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(memfd_create("guest", flags).expect("memfd"));
    file.set_len(size).expect("size");
    file
}

#[test]
fn memory_can_not_be_shortened_later() {
    let world = World::new();
    let mut driver = world.driver(0, PAIRS);
    let file = memfd(1 << 20);
    let region = VhostUserMemoryRegionInfo {
        guest_phys_addr: 0,
        memory_size: 1 << 20,
        userspace_addr: 0x1000_0000,
        mmap_offset: 0,
        mmap_handle: file.as_raw_fd(),
    };
    driver
        .transport()
        .protocol
        .set_mem_table(&[region])
        .expect("memory table");
    assert!(
        file.set_len(0).is_err(),
        "touching it would kill the backend"
    );
    drop(driver);
    assert_alive(&world);
}

#[test]
fn conversations_with_descriptors_where_none_belong() {
    let world = World::new();
    let body = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..48),
        prop::collection::vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 8),
    ];
    let messages = prop::collection::vec((1u32..22, body, any::<bool>()), 1..12);
    let config = Config {
        cases: 150,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&messages, |messages| {
            let mut stream = connect(&world);
            let file = memfd(1 << 16);
            for (request, body, with_fd) in messages {
                let bytes = message(request, &body);
                let heard = if with_fd {
                    send_with_fd(&stream, &bytes, &file)
                } else {
                    stream.write_all(&bytes).is_ok()
                };
                if !heard {
                    break;
                }
            }
            let _ = stream.shutdown(std::net::Shutdown::Write);
            match stream.read_to_end(&mut Vec::new()) {
                Ok(_) => {}
                Err(error) => {
                    prop_assert_eq!(
                        error.kind(),
                        std::io::ErrorKind::ConnectionReset,
                        "{}",
                        error
                    );
                }
            }
            Ok(())
        })
        .expect("every connection ends");
    assert_alive(&world);
}
