//! The wire `stream`: two daemons, and peers that do as they like.

mod common;

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use common::{
    World,
    namespace::{in_namespace, ip},
};
use tempfile::TempDir;
use zcnic_backend::{FlowControl, StreamAddress, StreamConfig, StreamRole, Wire};
use zcnic_ctl::protocol::{LineStatus, Status, command};
use zcnic_model::{
    Driver, Packet, Shape,
    frames::{Flow, broadcast, pattern},
    verify::{l4_checksum_is_right, l4_payload},
    vhost_user::{Frontend, PATIENCE},
};

fn stream(role: StreamRole, address: StreamAddress, flow_control: FlowControl) -> Wire {
    Wire::Stream(StreamConfig {
        role,
        address,
        flow_control,
    })
}

/// A world whose first port is a stream's end at the Unix socket `path`; the second one loops back.
fn unix_world(role: StreamRole, path: &Path, flow_control: FlowControl) -> World {
    let address = StreamAddress::Unix(path.to_owned());
    World::wired([stream(role, address, flow_control), Wire::Loopback])
}

fn line(world: &World) -> LineStatus {
    let status: Status = world
        .control()
        .query(command::QUERY_STATUS)
        .expect("status");
    status.wires[0].line.clone().expect("a stream has a line")
}

/// Waits until the line of the first port is as `expected`.
fn until(world: &World, expected: impl Fn(&LineStatus) -> bool) -> LineStatus {
    let start = Instant::now();
    loop {
        let line = line(world);
        if expected(&line) {
            return line;
        }
        assert!(start.elapsed() < PATIENCE, "the line stays {line:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn driver(world: &World, buffers: usize) -> Driver<Frontend> {
    let mut driver = world.driver(0, 2);
    driver.bring_up(Shape::linear(2048), buffers);
    driver
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes()[..], frame].concat()
}

fn next_frame(peer: &mut impl Read) -> Vec<u8> {
    let mut length = [0; 4];
    peer.read_exact(&mut length).expect("a length");
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    peer.read_exact(&mut frame).expect("a frame");
    frame
}

fn connected(path: &Path) -> UnixStream {
    let peer = UnixStream::connect(path).expect("connect");
    peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    peer
}

/// A world that listens, with a driver, and a peer that is connected to it.
fn with_peer(
    buffers: usize,
    flow_control: FlowControl,
) -> (World, Driver<Frontend>, UnixStream, TempDir) {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("wire");
    let world = unix_world(StreamRole::Listen, &path, flow_control);
    let driver = driver(&world, buffers);
    let peer = connected(&path);
    until(&world, |line| line.up);
    (world, driver, peer, directory)
}

fn exchange_frames(address: &StreamAddress) {
    let wire = |role| stream(role, address.clone(), FlowControl::Drop);
    let worlds = [StreamRole::Listen, StreamRole::Connect]
        .map(|role| World::wired([wire(role), Wire::Null]));
    let mut drivers = [&worlds[0], &worlds[1]].map(|world| driver(world, 200));
    for world in &worlds {
        until(world, |line| line.up);
    }
    let [a, b] = &mut drivers;
    for (from, to) in [(0, 1), (1, 0)] {
        let both = [&mut *a, &mut *b];
        for length in [0, 1, 46, 1400] {
            let frame = broadcast(&pattern(length));
            both[from].send(0, &frame);
            assert_eq!(both[to].receive(0).frame, frame);
        }
        // Segmented and its checksums completed before it leaves.
        let payload = pattern(60_000);
        let train = Packet::from(Flow::tcp4().frame(&payload)).segmented(1000);
        both[from].send(0, train);
        let mut received = Vec::new();
        for _ in 0..60 {
            let frame = both[to].receive(0).frame;
            assert_eq!(l4_checksum_is_right(&frame), Some(true));
            received.extend_from_slice(l4_payload(&frame));
        }
        assert_eq!(received, payload);
        both[to].post(0, Shape::linear(2048), 64);
    }
    for world in &worlds {
        let line = line(world);
        assert_eq!(
            (line.tx_frames, line.rx_frames, line.connections),
            (64, 64, 1)
        );
        assert_eq!((line.tx_dropped, line.rx_dropped), (0, 0));
    }
}

#[test]
fn two_daemons_exchange_frames_over_a_unix_socket() {
    let directory = tempfile::tempdir().expect("directory");
    exchange_frames(&StreamAddress::Unix(directory.path().join("wire")));
}

#[test]
fn two_daemons_exchange_frames_over_tcp() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address: SocketAddr = free.local_addr().expect("an address");
    drop(free);
    exchange_frames(&StreamAddress::Tcp(address));
}

#[test]
fn a_listening_wire_has_a_carrier_while_a_peer_is_connected() {
    let (world, mut driver, mut peer, directory) = with_peer(16, FlowControl::Drop);
    let frame = broadcast(&pattern(100));
    driver.send(0, &frame);
    assert_eq!(next_frame(&mut peer), frame);
    let mut second = connected(&directory.path().join("wire"));
    assert_eq!(
        second.read(&mut [0]).expect("closed"),
        0,
        "one peer at a time"
    );
    drop(peer);
    until(&world, |line| !line.up);
    driver.send(0, &frame);
    let mut peer = connected(&directory.path().join("wire"));
    until(&world, |line| line.up && line.connections == 2);
    peer.write_all(&framed(&frame)).expect("write");
    assert_eq!(driver.receive(0).frame, frame);
    peer.set_nonblocking(true).expect("non-blocking");
    let error = peer
        .read(&mut [0])
        .expect_err("frames without a carrier are dropped");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_connecting_wire_connects_again() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("wire");
    let world = unix_world(StreamRole::Connect, &path, FlowControl::Drop);
    let mut driver = driver(&world, 16);
    assert!(!line(&world).up);
    let listener = UnixListener::bind(&path).expect("listen");
    for connection in 1..=2 {
        let (mut peer, _) = listener.accept().expect("a connection");
        until(&world, |line| line.up && line.connections == connection);
        let frame = broadcast(&pattern(100));
        driver.send(0, &frame);
        assert_eq!(next_frame(&mut peer), frame);
    }
}

/// Without a listener TCP connects a socket to itself if the kernel chooses that port.
#[test]
fn a_connecting_wire_does_not_connect_to_itself() {
    in_namespace("a_connecting_wire_does_not_connect_to_itself", || {
        ip("link set lo up");
        let range = "/proc/sys/net/ipv4/ip_local_port_range";
        std::fs::write(range, "40001 40001").expect("a range of one port");
        let address: SocketAddr = (Ipv4Addr::LOCALHOST, 40_001).into();
        let own = std::net::TcpStream::connect(address).expect("this test's premise");
        assert_eq!(own.local_addr().ok(), own.peer_addr().ok());
        drop(own);
        let address = StreamAddress::Tcp(address);
        let wire = stream(StreamRole::Connect, address, FlowControl::Drop);
        let world = World::wired([wire, Wire::Null]);
        for _ in 0..300 {
            assert_eq!(line(&world).connections, 0);
            thread::sleep(Duration::from_millis(10));
        }
    });
}

#[test]
fn frames_may_come_in_pieces_and_odd_ones_are_dropped() {
    let (world, mut driver, mut peer, _directory) = with_peer(16, FlowControl::Drop);
    let frame = broadcast(&pattern(100));
    for odd in [0, 1, 13, 9300, 69_632] {
        peer.write_all(&framed(&pattern(odd))).expect("write");
    }
    for byte in framed(&frame) {
        peer.write_all(&[byte]).expect("write");
    }
    assert_eq!(driver.receive(0).frame, frame);
    let line = line(&world);
    assert_eq!((line.rx_frames, line.rx_dropped), (1, 5));
}

#[test]
fn a_length_beyond_the_bound_ends_the_connection() {
    for length in [69_633, u32::MAX] {
        let (world, _driver, mut peer, _directory) = with_peer(0, FlowControl::Drop);
        peer.write_all(&length.to_be_bytes()).expect("write");
        assert_eq!(peer.read(&mut [0]).expect("closed"), 0);
        until(&world, |line| !line.up);
    }
}

/// Neither the sender's worker, the other port nor the end of the daemon waits for the peer.
#[test]
fn a_peer_that_never_reads_stalls_nothing() {
    for flow_control in [FlowControl::Drop, FlowControl::Pause] {
        let (mut world, mut driver, peer, _directory) = with_peer(0, flow_control);
        let frame = broadcast(&pattern(9000));
        for _ in 0..1500 {
            driver.enqueue(0, &frame);
        }
        driver.flush(0);
        let line = line(&world);
        assert!(line.tx_dropped > 500, "{line:?}");
        let mut other = world.driver(1, 2);
        other.bring_up(Shape::SPLIT, 16);
        other.send(0, broadcast(&pattern(60)));
        other.receive(0);
        world.stop();
        drop(peer);
    }
}

#[test]
fn a_peer_that_floods_stalls_nothing() {
    let (mut world, mut driver, mut peer, _directory) = with_peer(0, FlowControl::Drop);
    let flood = framed(&broadcast(&pattern(1000))).repeat(1000);
    let flooding = thread::spawn(move || while peer.write_all(&flood).is_ok() {});
    until(&world, |line| line.rx_frames > 100_000);
    driver.send(0, broadcast(&pattern(60)));
    // A change of the configuration passes through the flood.
    driver.receive_mode(0, &[]).expect("receive mode");
    let mut other = world.driver(1, 2);
    other.bring_up(Shape::SPLIT, 16);
    other.send(0, broadcast(&pattern(60)));
    other.receive(0);
    world.stop();
    flooding.join().expect("it ends");
}

#[test]
fn with_pause_frames_of_the_peer_wait_for_buffers() {
    let (world, mut driver, mut peer, _directory) = with_peer(0, FlowControl::Pause);
    let frames: Vec<_> = (0..100u16)
        .map(|n| Flow::udp4().ports(n, 1).frame(&pattern(100)))
        .collect();
    for frame in &frames {
        peer.write_all(&framed(frame)).expect("write");
    }
    for frame in &frames {
        driver.post(0, Shape::linear(2048), 1);
        assert_eq!(&driver.receive(0).frame, frame);
    }
    // A frame that waits in vain is dropped.
    peer.write_all(&framed(&frames[0])).expect("write");
    until(&world, |line| line.rx_frames == 101);
}

#[test]
fn with_pause_frames_to_the_peer_wait_for_it_to_read() {
    let (world, mut driver, mut peer, _directory) = with_peer(0, FlowControl::Pause);
    let count = 1500;
    let reading = thread::spawn(move || {
        (0..count).for_each(|_| {
            next_frame(&mut peer);
        });
    });
    let frame = broadcast(&pattern(9000));
    for _ in 0..count {
        driver.enqueue(0, &frame);
    }
    driver.flush(0);
    reading.join().expect("all frames came");
    assert_eq!(line(&world).tx_dropped, 0);
}
