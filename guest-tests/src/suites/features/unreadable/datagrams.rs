//! Datagrams from eth1, to a port that is steered to memory that the CPU can't read, and to another
//! port.

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
/// Datagrams per batch.
pub(super) const COUNT: u64 = 20;
/// Payload bytes of each.
pub(super) const SIZE: usize = 1000;
/// Bytes of the headers: Ethernet, IPv4, UDP.
pub(super) const HEADERS: usize = 14 + 20 + 8;
/// Value of all payload bytes.
pub(super) const FILL: u8 = 0xa5;
/// After this time without a datagram, none will arrive any more.
const QUIET: Duration = Duration::from_millis(400);

/// Destination port of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Destination {
    /// Into ordinary pages.
    Readable = 5001,
    /// Into memory that `io_uring` provides.
    Unreadable = 5002,
}

impl Destination {
    /// tcpdump's filter for it.
    pub(super) fn filter(self) -> String {
        format!("udp dst port {}", self as u16)
    }
}

/// A queue with memory that `io_uring` provides, and the rule that steers
/// [`Destination::Unreadable`] to it.
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
        // The check of the configuration would find it if this failed.
        let _ = net::delete_flow_rule("eth0", self.rule);
    }
}

/// Sends [`COUNT`] datagrams.
pub(super) fn send(to: Ipv4Addr, port: Destination) -> Result<()> {
    in_netns(Some(PEER), || {
        let socket = UdpSocket::bind(("192.0.2.2", 0))?;
        for _ in 0..COUNT {
            socket.send_to(&[FILL; SIZE], (to, port as u16))?;
        }
        Ok(())
    })
}

/// Counts of received datagrams.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Complete, with every byte right.
    pub(super) whole: u64,
    /// Reported as unreadable: EFAULT.
    pub(super) unreadable: u64,
}

/// Receives until no more datagrams come.
pub(super) fn take(socket: &UdpSocket) -> Result<Counts> {
    socket.set_read_timeout(Some(QUIET))?;
    let mut came = Counts::default();
    let mut buffer = [0; 2 * SIZE];
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                ensure!(
                    buffer[..length] == [FILL; SIZE],
                    "a datagram of {length} bytes that was never sent"
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
