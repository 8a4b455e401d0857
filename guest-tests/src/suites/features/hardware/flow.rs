//! Datagrams from one port to the other.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    runtime::ports::{PEER, in_netns},
    traffic::pattern::Pattern,
};

pub(super) const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(super) const THERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Datagrams from one socket to another, numbered from 0, each with its part of the pattern.
pub(super) struct DatagramFlow {
    pub(super) sender: UdpSocket,
    pub(super) receiver: UdpSocket,
    pub(super) pattern: Pattern,
}

impl DatagramFlow {
    /// From eth1 to a port of eth0.
    pub(super) fn incoming(to: SocketAddr, from: Ipv4Addr) -> Result<Self> {
        let receiver = UdpSocket::bind(to)?;
        let sender = in_netns(Some(PEER), || Ok(UdpSocket::bind((from, 0))?))?;
        Self::new(sender, receiver)
    }

    /// From eth0 to eth1.
    pub(super) fn outgoing() -> Result<Self> {
        let receiver = in_netns(Some(PEER), || Ok(UdpSocket::bind((THERE, 0))?))?;
        Self::new(UdpSocket::bind((HERE, 0))?, receiver)
    }

    fn new(sender: UdpSocket, receiver: UdpSocket) -> Result<Self> {
        sender.connect(receiver.local_addr()?)?;
        receiver.set_read_timeout(Some(PATIENCE))?;
        // Room for all datagrams in flight.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&receiver, 8 << 20)?;
        Ok(Self {
            sender,
            receiver,
            pattern: Pattern::new(1),
        })
    }

    pub(super) fn send(&self, number: u64, size: usize) -> Result<()> {
        let mut datagram = vec![0; size];
        self.pattern.fill(number << 16, &mut datagram);
        self.sender.send(&datagram).context("sending")?;
        Ok(())
    }

    /// Fails unless these are the bytes of a datagram.
    pub(super) fn verify(&self, number: u64, size: usize, bytes: &[u8]) -> Result<()> {
        let length = bytes.len();
        ensure!(
            length == size,
            "datagram {number} has {length} bytes, not {size}"
        );
        self.pattern
            .verify(number << 16, bytes)
            .with_context(|| format!("datagram {number}"))
    }

    /// Sends `count` datagrams with a pause between two, and receives them meanwhile.
    pub(super) fn run(&self, count: u64, size: usize, pause: Duration) -> Result<()> {
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                (0..count).try_for_each(|number| {
                    thread::sleep(pause);
                    self.send(number, size)
                })
            });
            let mut buffer = vec![0; size + 1];
            for number in 0..count {
                let length = self.receiver.recv(&mut buffer);
                let length = length.with_context(|| format!("receiving datagram {number}"))?;
                self.verify(number, size, &buffer[..length])?;
            }
            sender.join().expect("the sender does not panic")
        })
    }
}
