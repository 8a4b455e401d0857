//! What the card does for the stack beyond moving frames: it tells the time, says what it knows of a frame, and interrupts
//! as it is asked to.

mod interrupts;
mod metadata;
mod sys;
mod time;

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::{
    kit::net,
    runtime::ports::{PEER, in_netns},
    traffic::pattern::Pattern,
};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "hardware: received frames have a time between two readings of the PTP clock",
        run: time::received,
    },
    Case {
        name: "hardware: sent frames have a time between two readings of the PTP clock",
        run: time::sent,
    },
    Case {
        name: "hardware: both ports have one clock, and no frame arrives before it was sent",
        run: time::both_ends,
    },
    Case {
        name: "hardware: timestamps follow the PTP clock when it is set",
        run: time::set_clock,
    },
    Case {
        name: "hardware: what the device says of a frame, XDP programs can read",
        run: metadata::programs,
    },
    Case {
        name: "hardware: VLAN tags are taken out or left in, and every byte arrives",
        run: metadata::streams,
    },
    Case {
        name: "hardware: interrupts of a receiver are coalesced by frames and by time",
        run: interrupts::coalesced_receive,
    },
    Case {
        name: "hardware: interrupts of a sender are coalesced by frames and by time",
        run: interrupts::coalesced_transmit,
    },
    Case {
        name: "hardware: a queue's interrupt goes to the processor that it is told to",
        run: interrupts::affinity,
    },
    Case {
        name: "hardware: NAPI in threads of its own receives everything",
        run: interrupts::threaded,
    },
    Case {
        name: "hardware: whoever polls receives without interrupts",
        run: interrupts::busy_poll,
    },
];

const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const PATIENCE: Duration = Duration::from_secs(10);

/// Datagrams from one socket to another, numbered from 0, each with its part of the pattern.
struct Flow {
    sender: UdpSocket,
    receiver: UdpSocket,
    pattern: Pattern,
}

impl Flow {
    /// From eth1 to a port of eth0.
    fn incoming(to: SocketAddr, from: Ipv4Addr) -> Result<Self> {
        let receiver = UdpSocket::bind(to)?;
        let sender = in_netns(Some(PEER), || Ok(UdpSocket::bind((from, 0))?))?;
        Self::new(sender, receiver)
    }

    /// From eth0 to eth1.
    fn outgoing() -> Result<Self> {
        let receiver = in_netns(Some(PEER), || Ok(UdpSocket::bind((THERE, 0))?))?;
        Self::new(UdpSocket::bind((HERE, 0))?, receiver)
    }

    fn new(sender: UdpSocket, receiver: UdpSocket) -> Result<Self> {
        sender.connect(receiver.local_addr()?)?;
        receiver.set_read_timeout(Some(PATIENCE))?;
        // Everything that is on its way may wait there.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&receiver, 8 << 20)?;
        Ok(Self {
            sender,
            receiver,
            pattern: Pattern::new(1),
        })
    }

    fn send(&self, number: u64, size: usize) -> Result<()> {
        let mut datagram = vec![0; size];
        self.pattern.fill(number << 16, &mut datagram);
        self.sender.send(&datagram).context("sending")?;
        Ok(())
    }

    /// Fails unless these are the bytes of a datagram.
    fn verify(&self, number: u64, size: usize, bytes: &[u8]) -> Result<()> {
        let length = bytes.len();
        ensure!(
            length == size,
            "datagram {number} has {length} bytes, not {size}"
        );
        self.pattern
            .verify(number << 16, bytes)
            .with_context(|| format!("datagram {number}"))
    }

    /// Sends one after the other, each so long after the one before, and meanwhile receives them.
    fn run(&self, count: u64, size: usize, pause: Duration) -> Result<()> {
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

/// UDP to a port is steered to a queue of eth0, as long as this lives.
struct Steered(u32);

impl Steered {
    fn new(port: u16, queue: u32) -> Result<Self> {
        Ok(Self(net::add_flow_rule("eth0", "udp4", port, queue)?))
    }
}

impl Drop for Steered {
    fn drop(&mut self) {
        // What is left behind, the configuration tells.
        let _ = net::delete_flow_rule("eth0", self.0);
    }
}

/// A file of /sys or /proc that has another content as long as this lives.
struct Setting {
    path: PathBuf,
    before: String,
}

impl Setting {
    fn new(path: impl Into<PathBuf>, content: &str) -> Result<Self> {
        let path = path.into();
        let what = || format!("{content:?} to {}", path.display());
        let before = std::fs::read_to_string(&path).with_context(what)?;
        std::fs::write(&path, content).with_context(what)?;
        Ok(Self { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        // The next case finds out what is wrong with it.
        let _ = std::fs::write(&self.path, self.before.trim());
    }
}
