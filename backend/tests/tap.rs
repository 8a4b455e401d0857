//! The wire `tap`, in a network namespace of its own.

mod common;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, UdpSocket},
    thread,
    time::Duration,
};

use common::{
    World,
    namespace::{in_namespace, ip},
};
use zcnic_backend::{FlowControl, TapConfig, Wire};
use zcnic_ctl::protocol::{LineStatus, Status, command};
use zcnic_model::{
    Driver, Packet, Shape,
    frames::{Flow, RECEIVER, SENDER, pattern},
    verify::{l4_checksum_is_right, l4_payload},
    vhost_user::{Frontend, PATIENCE},
};

/// The host's end of the tap. The guest's end has the addresses of [`Flow`]'s sender.
const NAME: &str = "zctest0";

/// A world whose first port has a tap with `queues` queues, which has the address 192.0.2.1, and a
/// driver of that port.
fn world(queues: usize, pairs: u16) -> (World, Driver<Frontend>) {
    let tap = Wire::Tap(TapConfig {
        name: NAME.into(),
        queues,
        flow_control: FlowControl::Drop,
    });
    let world = World::wired([tap, Wire::Null]);
    let mut driver = world.driver(0, pairs);
    driver.bring_up(Shape::linear(9200), 256);
    let [guest, host] = [SENDER, RECEIVER].map(|mac| {
        let octets = mac.map(|octet| format!("{octet:02x}"));
        octets.join(":")
    });
    ip(&format!("link set {NAME} address {host} mtu 9000 up"));
    ip(&format!("address add 192.0.2.1/24 dev {NAME}"));
    ip(&format!(
        "neighbour add 192.0.2.2 lladdr {guest} dev {NAME}"
    ));
    (world, driver)
}

fn line(world: &World) -> LineStatus {
    let status: Status = world
        .control()
        .query(command::QUERY_STATUS)
        .expect("status");
    status.wires[0].line.clone().expect("a tap has a line")
}

/// The host's socket of [`Flow::udp4`].
fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("192.0.2.1:2000").expect("bind");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket.connect("192.0.2.2:1000").expect("connect");
    socket
}

/// The next UDP or TCP frame from the host over IPv4, which also sends router solicitations.
fn next_frame(driver: &mut Driver<Frontend>, queue: u16) -> Vec<u8> {
    loop {
        let frame = driver.receive(queue).frame;
        driver.post(queue, Shape::linear(9200), 1);
        if frame.starts_with(&SENDER) && frame[12..14] == [8, 0] {
            return frame;
        }
    }
}

#[test]
fn a_driver_and_the_host_exchange_datagrams() {
    in_namespace("a_driver_and_the_host_exchange_datagrams", || {
        let (world, mut driver) = world(1, 2);
        let socket = socket();
        let payload = pattern(1000);
        for checksum_is_left_to_the_host in [false, true] {
            let packet = Packet::from(Flow::udp4().frame(&payload));
            let packet = if checksum_is_left_to_the_host {
                packet.checksum()
            } else {
                packet
            };
            driver.send(0, packet);
            let mut received = [0; 2000];
            let length = socket.recv(&mut received).expect("a datagram");
            assert_eq!(received[..length], payload);
            socket.send(&payload).expect("send");
            let frame = next_frame(&mut driver, 0);
            assert_eq!(l4_payload(&frame), payload);
            // The host left it to the device.
            assert_eq!(l4_checksum_is_right(&frame), Some(true));
        }
        let line = line(&world);
        assert!(
            line.up && line.tx_frames == 2 && line.rx_frames >= 2,
            "{line:?}"
        );
        assert_eq!((line.tx_dropped, line.rx_dropped), (0, 0));
    });
}

#[test]
fn trains_of_the_driver_reach_the_host_unsegmented() {
    in_namespace("trains_of_the_driver_reach_the_host_unsegmented", || {
        let (world, mut driver) = world(1, 2);
        let socket = socket();
        let payload = pattern(40_000);
        let train = Packet::from(Flow::udp4().frame(&payload)).segmented(1000);
        driver.send(0, train);
        let mut stream = Vec::new();
        while stream.len() < payload.len() {
            let mut received = [0; 2000];
            let length = socket.recv(&mut received).expect("a datagram");
            assert_eq!(length, 1000);
            stream.extend_from_slice(&received[..length]);
        }
        assert_eq!(stream, payload);
        assert_eq!(line(&world).tx_frames, 1);
    });
}

/// Two ports with a tap each in one namespace would be routed internally, so the driver plays TCP's
/// other end for one connection, as far as one train of data.
#[test]
fn trains_of_the_host_are_segmented_for_the_driver() {
    in_namespace("trains_of_the_host_are_segmented_for_the_driver", || {
        let (world, mut driver) = world(1, 2);
        let listener = TcpListener::bind("192.0.2.1:2000").expect("listen");
        let flow = |sequence, acknowledgment, syn: bool| {
            Flow::tcp4().tcp_header(move |tcp| {
                tcp.sequence_number = sequence;
                tcp.acknowledgment_number = acknowledgment;
                (tcp.syn, tcp.ack, tcp.psh) = (syn, !syn, false);
                tcp.window_size = u16::MAX;
            })
        };
        driver.send(0, flow(100, 0, true).frame(&[]));
        let answer = next_frame(&mut driver, 0);
        let theirs = u32::from_be_bytes(answer[38..42].try_into().expect("four bytes"));
        driver.send(0, flow(101, theirs.wrapping_add(1), false).frame(&[]));
        let (mut connection, from): (_, SocketAddr) = listener.accept().expect("a connection");
        assert_eq!(from.to_string(), "192.0.2.2:1000");
        // Without a window scale and an MSS option: 536 bytes a segment.
        let payload = pattern(5000);
        connection.write_all(&payload).expect("write");
        let mut stream = Vec::new();
        while stream.len() < payload.len() {
            let frame = next_frame(&mut driver, 0);
            assert_eq!(l4_checksum_is_right(&frame), Some(true));
            let data = l4_payload(&frame);
            assert!(data.len() <= 536, "a segment of {} bytes", data.len());
            stream.extend_from_slice(data);
        }
        assert_eq!(stream, payload);
        let line = line(&world);
        assert!(line.rx_frames < 10, "the host sent trains: {line:?}");
        driver.send(0, flow(101, theirs.wrapping_add(5001), false).frame(b"end"));
        let mut end = [0; 3];
        connection.read_exact(&mut end).expect("read");
        assert_eq!(&end, b"end");
    });
}

#[test]
fn a_tap_with_several_queues_carries_all_flows() {
    in_namespace("a_tap_with_several_queues_carries_all_flows", || {
        let (_world, mut driver) = world(4, 3);
        let socket = UdpSocket::bind("192.0.2.1:2000").expect("bind");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut ports: Vec<u16> = Vec::new();
        for port in 1000..1040 {
            driver.send(
                port % 2,
                Flow::udp4().ports(port, 2000).frame(&pattern(100)),
            );
            let (length, from) = socket.recv_from(&mut [0; 200]).expect("a datagram");
            assert_eq!(length, 100);
            ports.push(from.port());
            socket.send_to(&pattern(50), from).expect("send");
        }
        assert_eq!(ports, (1000..1040).collect::<Vec<_>>());
        let mut answered = 0;
        while answered < 40 {
            for (queue, received) in driver.receive_all() {
                driver.post(queue, Shape::linear(9200), 1);
                answered += usize::from(received.frame.starts_with(&SENDER));
            }
            thread::sleep(Duration::from_millis(1));
        }
    });
}

#[test]
fn a_tap_that_is_taken_away_takes_the_carrier_along() {
    in_namespace("a_tap_that_is_taken_away_takes_the_carrier_along", || {
        let (mut world, mut driver) = world(2, 2);
        ip(&format!("link delete {NAME}"));
        while line(&world).up {
            thread::sleep(Duration::from_millis(5));
        }
        driver.send(0, Flow::udp4().frame(&pattern(100)));
        world.stop();
    });
}
