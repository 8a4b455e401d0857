//! Packet sockets.
#![allow(
    unsafe_code,
    reason = "addresses that neither the standard library nor rustix knows"
)]

use std::{
    io,
    mem::zeroed,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    kit::net,
    runtime::ports::{Port, in_netns, links},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// The Ethernet address of a port.
pub(super) fn address_of(port: &Port) -> Result<[u8; 6]> {
    let mut links = links(port.netns)?.into_iter();
    let link = links.find(|link| link.ifname == port.name);
    let address = link.context("no such interface")?.address;
    let mut bytes = [0; 6];
    for (byte, word) in bytes.iter_mut().zip(address.split(':')) {
        *byte = u8::from_str_radix(word, 16)?;
    }
    Ok(bytes)
}

/// Sends and receives frames of one type, with their headers.
pub(super) struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens a socket for a type of frames; with type 0 it receives none.
    pub(super) fn new(netns: Option<&str>, interface: &str, kind: u16) -> Result<Self> {
        in_netns(netns, || {
            let interface = net::ifindex(interface)?;
            Ok(Self(bound(interface, kind).context("packet socket")?))
        })
    }

    pub(super) fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: the kernel reads the frame.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent != frame.len() as isize {
            return Err(io::Error::last_os_error()).context("sending a frame");
        }
        Ok(())
    }

    pub(super) fn receive(&self) -> Result<Vec<u8>> {
        self.receive_within(PATIENCE)?.context("no frame arrived")
    }

    pub(super) fn receive_within(&self, patience: Duration) -> Result<Option<Vec<u8>>> {
        let mut poll = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one structure, as is output.
        if unsafe { libc::poll(&raw mut poll, 1, patience.as_millis() as i32) } <= 0 {
            return Ok(None);
        }
        let mut frame = vec![0; 65536];
        // SAFETY: the kernel writes no more than there is room for.
        let length = unsafe {
            libc::recv(
                self.0.as_raw_fd(),
                frame.as_mut_ptr().cast(),
                frame.len(),
                0,
            )
        };
        if length < 0 {
            return Err(io::Error::last_os_error()).context("receiving a frame");
        }
        frame.truncate(length as usize);
        Ok(Some(frame))
    }
}

fn bound(interface: u32, kind: u16) -> io::Result<OwnedFd> {
    // SAFETY: makes a new descriptor or fails.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has made the descriptor for this call alone.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zeroes are a value of this type.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = kind.to_be();
    address.sll_ifindex = interface as i32;
    let size = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the kernel reads the structure.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}
