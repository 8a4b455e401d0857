//! Datagrams from eth1, to a port that is steered to memory that the CPU can't read, and to one that is not.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Result, bail, ensure};

use crate::{
    fixture::{receiver::bind_patiently, traffic::ZERO_COPY},
    kit::{
        net,
        zcrx::{Options, Zcrx},
    },
    runtime::ports::{PEER, in_netns},
};

/// Address of eth0.
pub(super) const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// How many are sent at a time.
pub(super) const COUNT: u64 = 20;
/// Payload of each.
pub(super) const SIZE: usize = 1000;
/// Headers in front of it: Ethernet, IPv4, UDP.
pub(super) const HEADERS: usize = 14 + 20 + 8;
/// What all of the payload is.
pub(super) const FILL: u8 = 0xa5;
/// Whatever was sent is there by then, or will never be.
const QUIET: Duration = Duration::from_millis(400);

/// Where datagrams are sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Destination {
    /// Into ordinary pages.
    Readable = 5001,
    /// Into memory that `io_uring` provides.
    Unreadable = 5002,
}

impl Destination {
    /// What goes there, for tcpdump.
    pub(super) fn filter(self) -> String {
        format!("udp dst port {}", self as u16)
    }
}

/// A queue with memory that `io_uring` provides, and what steers [`Destination::Unreadable`] to it.
pub(super) struct Bound {
    rule: u32,
    _zcrx: Zcrx,
}

impl Bound {
    pub(super) fn new() -> Result<Self> {
        let (queue, _) = ZERO_COPY;
        let (zcrx, _) = bind_patiently(queue, &Options::default())?;
        let rule = net::add_flow_rule("eth0", "udp4", Destination::Unreadable as u16, queue)?;
        Ok(Self { rule, _zcrx: zcrx })
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // What is left behind, the configuration tells.
        let _ = net::delete_flow_rule("eth0", self.rule);
    }
}

/// Sends [`COUNT`].
pub(super) fn send(to: Ipv4Addr, port: Destination) -> Result<()> {
    in_netns(Some(PEER), || {
        let socket = UdpSocket::bind(("192.0.2.2", 0))?;
        for _ in 0..COUNT {
            socket.send_to(&[FILL; SIZE], (to, port as u16))?;
        }
        Ok(())
    })
}

/// What came of datagrams.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Came {
    /// Whole, every byte right.
    pub(super) whole: u64,
    /// That could not be read: EFAULT.
    pub(super) unreadable: u64,
}

/// Takes what comes, until nothing does.
pub(super) fn take(socket: &UdpSocket) -> Result<Came> {
    socket.set_read_timeout(Some(QUIET))?;
    let mut came = Came::default();
    let mut buffer = [0; 2 * SIZE];
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                ensure!(
                    buffer[..length] == [FILL; SIZE],
                    "a datagram that nobody sent, of {length} bytes"
                );
                came.whole += 1;
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EFAULT) => came.unreadable += 1,
                Some(libc::EAGAIN) => return Ok(came),
                _ => bail!("receiving: {error}"),
            },
        }
    }
}

/// A socket in a namespace.
pub(super) fn listen(netns: Option<&str>, port: Destination) -> Result<UdpSocket> {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port as u16));
    in_netns(netns, || Ok(UdpSocket::bind(address)?))
}
