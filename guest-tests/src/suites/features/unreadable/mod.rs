//! Payload that the CPU can't read, because it is in a memory provider's memory: other users of the
//! stack get its headers, an error or nothing, and the kernel does not crash.

mod capture;
mod datagrams;
mod far;
mod rules;

use std::{io::Read, net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};
use serde_json::json;

use self::{
    capture::capture,
    datagrams::{Bound, COUNT, Counts, Destination, FILL, HEADERS, HERE, SIZE, listen, send, take},
    far::{Far, NEAR, Route, run},
};
use super::case::FeatureCase;
use crate::{
    checks::gate::pools,
    fixture::{
        connection::{Sender, connect},
        device::{await_pools, provider_pool},
        lab::{Lab, eventually},
        receiver::{Receiver, bind_patiently},
        traffic::ZERO_COPY,
        transcript::Transcript,
    },
    kit::zcrx::Options,
    runtime::ports::PEER,
};

pub(super) const CASES: &[FeatureCase] = &[
    FeatureCase {
        name: "unreadable: recv() fails with EFAULT",
        run: plain_receive,
    },
    FeatureCase {
        name: "unreadable: tcpdump sees headers and no payload",
        run: packet_socket,
    },
    FeatureCase {
        name: "unreadable: forwarded to a device that can't send it, it is dropped and counted",
        run: forwarded,
    },
    FeatureCase {
        name: "unreadable: forwarded to a device that can send it, it goes out whole",
        run: hairpin,
    },
    FeatureCase {
        name: "unreadable: bridged to a device that can't send it, it is dropped and counted",
        run: bridged,
    },
    FeatureCase {
        name: "unreadable: redirected by tc on ingress, it is dropped and counted",
        run: redirected,
    },
    FeatureCase {
        name: "unreadable: netfilter rules match headers and never payload",
        run: rules::netfilter,
    },
    FeatureCase {
        name: "unreadable: multicast reaches every socket, and none can read it",
        run: multicast,
    },
    FeatureCase {
        name: "unreadable: GRO does not coalesce it with readable data",
        run: mixed,
    },
    FeatureCase {
        name: "unreadable: a socket is closed with data queued",
        run: closed,
    },
];

/// A buffer of an area.
const PAGE: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(10);
/// All datagrams arrived.
const ALL: Counts = Counts {
    whole: COUNT,
    unreadable: 0,
};
const NONE: Counts = Counts {
    whole: 0,
    unreadable: 0,
};

fn plain_receive(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let _bound = Bound::new()?;
    for (port, wanted) in [(Destination::Readable, 0), (Destination::Unreadable, COUNT)] {
        let socket = listen(None, port)?;
        send(HERE, port)?;
        let came = take(&socket)?;
        transcript.is(
            &format!("{port:?}: datagrams received and right"),
            came.whole,
            COUNT - wanted,
        )?;
        transcript.is("EFAULT", came.unreadable, wanted)?;
    }
    Ok(())
}

fn packet_socket(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let _bound = Bound::new()?;
    for (port, seen) in [
        (Destination::Readable, HEADERS + SIZE),
        (Destination::Unreadable, HEADERS),
    ] {
        let _socket = listen(None, port)?;
        let frames = capture(None, "eth0", &port.filter(), COUNT, || send(HERE, port))?;
        for frame in &frames {
            ensure!(
                frame.wire == HEADERS + SIZE && frame.bytes.len() == seen,
                "{} of {} bytes were captured",
                frame.bytes.len(),
                frame.wire
            );
            ensure!(
                frame.bytes[HEADERS..].iter().all(|&byte| byte == FILL),
                "payload that was never sent"
            );
        }
        transcript.sees(&format!("{port:?}: bytes captured of each frame"), seen);
    }
    Ok(())
}

/// Checks that readable datagrams for the host behind eth0 arrive, and that the device in front of
/// it drops the others (`validate_xmit_unreadable_skb()`).
fn dropped_before(far: &Far, transcript: &Transcript) -> Result<()> {
    let readable = far.exchange(Destination::Readable)?;
    ensure!(readable == (ALL, 0), "readable datagrams: {readable:?}");
    let (came, dropped) = far.exchange(Destination::Unreadable)?;
    ensure!(came == NONE, "unreadable datagrams: {came:?}");
    transcript.is("frames dropped", dropped, COUNT)
}

/// The guest forwards packets until this is dropped.
struct Forwarding;

impl Forwarding {
    const SYSCTLS: [&'static str; 3] = [
        "net.ipv4.ip_forward",
        "net.ipv4.conf.all.send_redirects",
        "net.ipv4.conf.eth0.send_redirects",
    ];

    fn new() -> Result<Self> {
        for (name, value) in Self::SYSCTLS.iter().zip([1, 0, 0]) {
            run(None, &format!("sysctl -qw {name}={value}"))?;
        }
        Ok(Self)
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        for (name, value) in Self::SYSCTLS.iter().zip([0, 1, 1]) {
            let _ = run(None, &format!("sysctl -qw {name}={value}"));
        }
    }
}

fn forwarded(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let _bound = Bound::new()?;
    let far = Far::new(Ipv4Addr::new(198, 51, 100, 2))?;
    run(None, &format!("ip address add 198.51.100.1/24 dev {NEAR}"))?;
    let _route = Route::new("198.51.100.0/24")?;
    let _forwarding = Forwarding::new()?;
    dropped_before(&far, transcript)
}

/// Forwards to the receiving port itself, which can send from memory that the CPU can't read
/// (`netmem_tx`).
fn hairpin(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let unused = Ipv4Addr::new(203, 0, 113, 1);
    let _bound = Bound::new()?;
    let _route = Route::new("203.0.113.0/24")?;
    let _forwarding = Forwarding::new()?;
    run(None, "ip route add 203.0.113.0/24 via 192.0.2.2")?;
    let port = Destination::Unreadable;
    let frames = capture(Some(PEER), "eth1", &port.filter(), COUNT, || {
        send(unused, port)
    });
    run(None, "ip route delete 203.0.113.0/24")?;
    let frames = frames?;
    for frame in &frames {
        ensure!(
            frame.bytes.len() == HEADERS + SIZE
                && frame.bytes[HEADERS..].iter().all(|&byte| byte == FILL),
            "{frame:?} came back"
        );
    }
    transcript.is("frames that came back whole", frames.len() as u64, COUNT)
}

fn bridged(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let _bound = Bound::new()?;
    let far = Far::new(Ipv4Addr::new(192, 0, 2, 3))?;
    run(None, "ip link add br0 type bridge")?;
    run(None, "ip link set br0 up")?;
    run(None, &format!("ip link set {NEAR} master br0"))?;
    run(None, "ip link set eth0 master br0")?;
    let result = dropped_before(&far, transcript);
    run(None, "ip link delete br0")?;
    result
}

fn redirected(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let _bound = Bound::new()?;
    let far = Far::new(Ipv4Addr::new(198, 51, 100, 2))?;
    // The far end accepts frames for eth0's address.
    far.run("ip link set far0 address 5a:43:4e:00:00:01")?;
    let _route = Route::new("198.51.100.0/24")?;
    run(None, "tc qdisc add dev eth0 clsact")?;
    run(
        None,
        &format!(
            "tc filter add dev eth0 ingress protocol ip flower ip_proto udp dst_ip 198.51.100.2 \
             action mirred egress redirect dev {NEAR}"
        ),
    )?;
    let result = dropped_before(&far, transcript);
    run(None, "tc qdisc delete dev eth0 clsact")?;
    result
}

fn multicast(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);

    let _bound = Bound::new()?;
    run(Some(PEER), "ip route add 239.0.0.0/8 dev eth1")?;
    let result = (|| {
        for (port, wanted) in [(Destination::Readable, 0), (Destination::Unreadable, COUNT)] {
            let members = [member(GROUP, port)?, member(GROUP, port)?];
            send(GROUP, port)?;
            for socket in &members {
                let came = take(socket)?;
                transcript.is("received and right", came.whole, COUNT - wanted)?;
                transcript.is("EFAULT", came.unreadable, wanted)?;
            }
        }
        Ok(())
    })();
    run(Some(PEER), "ip route delete 239.0.0.0/8 dev eth1")?;
    result
}

/// One of several sockets with the same port.
fn member(group: Ipv4Addr, port: Destination) -> Result<std::net::UdpSocket> {
    let member = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    sockopt::set_socket_reuseaddr(&member, true)?;
    let address = std::net::SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port as u16);
    bind(&member, &address)?;
    let member = std::net::UdpSocket::from(member);
    member.join_multicast_v4(&group, &HERE)?;
    Ok(member)
}

/// The device fails to split one segment. `skb_gro_receive()` of 7.3 would coalesce it with the
/// next one and mark both readable; then a copy of the payload, by tcpdump for instance, reads
/// invalid memory.
fn mixed(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    const MSS: u64 = 100;
    const TIMESTAMPS: u64 = 12;
    /// The first frame with data, behind two of the handshake.
    const NTH: u64 = 3;

    let (queue, port) = ZERO_COPY;
    let (zcrx, _) = bind_patiently(queue, &Options::default())?;
    // Short enough to fit behind the headers.
    run(
        None,
        &format!("ip route add 192.0.2.2/32 dev eth0 advmss {MSS}"),
    )?;
    let fault =
        json!({"direction": "rx", "queue": queue, "action": "payload-in-header", "nth": NTH});
    let fault = lab.arm("0", &fault)?;
    // A capture copies all data that is marked readable.
    let filter = format!("tcp dst port {port}");
    let captured = capture(None, "eth0", &filter, NTH + 1, || {
        let mut connection = connect(port, 1)?.pop().context("one connection")?;
        let sender = Sender::start(connection.sender, 1, 16 << 20);
        let mut buffer = [0; 4096];
        let read = connection.receiver.read(&mut buffer)? as u64;
        transcript.is("bytes that can be read", read, MSS - TIMESTAMPS)?;
        let then = connection.receiver.read(&mut buffer);
        let errno = then.err().and_then(|error| error.raw_os_error());
        ensure!(errno == Some(libc::EFAULT), "then: {errno:?}");
        drop(connection.receiver);
        // The rest is unread.
        ensure!(sender.finish().is_err(), "everything was sent");
        Ok(())
    });
    run(None, "ip route delete 192.0.2.2/32 dev eth0")?;
    let readable = captured?.pop().context("no frame")?;
    transcript.sees("bytes captured of the next frame", readable.bytes.len());
    transcript.is(
        "frames that were not split",
        lab.hits(fault)?.unwrap_or(0),
        1,
    )?;
    lab.disarm()?;
    drop(zcrx);
    Ok(())
}

fn closed(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    /// Buffers of the area.
    const BUFFERS: usize = 1024;
    /// Least number of them in the first socket's queue.
    const QUEUED: u64 = 128;

    let (queue, port) = ZERO_COPY;
    let options = Options {
        area_bytes: BUFFERS * PAGE,
        ..Options::default()
    };
    let mut receiver = Receiver::new(queue, &options)?;
    let mut connections = connect(port, 2)?;
    let (first, second) = (connections.remove(0), connections.remove(0));
    sockopt::set_socket_recv_buffer_size_force(&first.receiver, 8 << 20)?;
    let posted = provider_pool()?.inflight;
    let sender = Sender::start(first.sender, 1, 64 << 20);
    let queued = eventually(PATIENCE, || {
        let more = provider_pool()?.inflight.saturating_sub(posted);
        ensure!(more >= QUEUED, "only {more} buffers are in use");
        Ok(more)
    })?;
    transcript.sees("buffers in the socket's queue, at least", queued);
    drop(first.receiver);
    ensure!(sender.finish().is_err(), "everything was sent");
    pools::flush_deferred_frees()?;

    // There would not be enough without the first socket's buffers.
    receiver.keep(true);
    receiver.add(second.receiver, 2)?;
    let sender = Sender::start(second.sender, 2, 64 << 20);
    let wanted = BUFFERS - QUEUED as usize / 2;
    receiver.until(
        "another socket has received nearly all buffers",
        |receiver| receiver.held() >= wanted,
    )?;
    transcript.sees("buffers that another socket received then", receiver.held());
    drop(receiver);
    ensure!(sender.finish().is_err(), "everything was sent");
    await_pools(<[_]>::is_empty)
}
