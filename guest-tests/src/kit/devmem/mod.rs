//! Devmem TCP (`net/core/devmem.c`): payload in a dmabuf that the kernel does not read. Bindings
//! over netlink, and the sockets' messages about fragments and tokens.

mod control;
mod socket;

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

pub use control::{Fragment, PayloadPiece};
pub use socket::{DevmemMessage, dont_need, receive, send};

use crate::kit::{
    dmabuf::Dmabuf,
    genl::{Attributes, Family},
    net,
};

// The netdev family (include/uapi/linux/netdev.h).
const BIND_RX: u8 = 13;
const BIND_TX: u8 = 15;
const DMABUF_IFINDEX: u16 = 1;
const DMABUF_QUEUES: u16 = 2;
const DMABUF_FD: u16 = 3;
const DMABUF_ID: u16 = 4;
const DMABUF_RX_PAGE_SIZE: u16 = 5;
const QUEUE_ID: u16 = 1;
const QUEUE_TYPE: u16 = 3;
const QUEUE_TYPE_RX: u32 = 0;

/// Binds a dmabuf for queues of an interface to receive into, or for sockets to send from, until it
/// is dropped.
#[derive(Debug)]
pub struct Binding {
    /// The kernel ends a binding with the socket that it was made on.
    _family: Family,
    id: u32,
}

impl Binding {
    /// Makes receive queues use it, in buffers of `buf_len` (`None`: a page).
    pub fn receive(
        interface: &str,
        queues: &[u32],
        dmabuf: &Dmabuf,
        buf_len: Option<u32>,
    ) -> Result<Self, net::Error> {
        let mut wanted = attributes(interface, dmabuf)?;
        for queue in queues {
            let queue = Attributes::default()
                .with(QUEUE_ID, &queue.to_ne_bytes())
                .with(QUEUE_TYPE, &QUEUE_TYPE_RX.to_ne_bytes());
            wanted = wanted.with_nest(DMABUF_QUEUES, &queue);
        }
        if let Some(len) = buf_len {
            wanted = wanted.with(DMABUF_RX_PAGE_SIZE, &len.to_ne_bytes());
        }
        Self::new(BIND_RX, &wanted).map_err(|source| net::Error::Kernel {
            subject: format!("binding a dmabuf to queues {queues:?} of {interface}"),
            source,
        })
    }

    /// Allows sockets to send from it by an interface.
    pub fn transmit(interface: &str, dmabuf: &Dmabuf) -> Result<Self, net::Error> {
        Self::new(BIND_TX, &attributes(interface, dmabuf)?).map_err(|source| net::Error::Kernel {
            subject: format!("binding a dmabuf to transmit by {interface}"),
            source,
        })
    }

    fn new(command: u8, wanted: &Attributes) -> io::Result<Self> {
        let family = Family::open("netdev")?;
        let replies = family.request(command, false, wanted)?;
        let id = replies.first().and_then(|reply| reply.uint(DMABUF_ID));
        let id = id.and_then(|id| u32::try_from(id).ok());
        Ok(Self {
            _family: family,
            id: id.ok_or(io::ErrorKind::InvalidData)?,
        })
    }

    /// Its id in control messages.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }
}

fn attributes(interface: &str, dmabuf: &Dmabuf) -> Result<Attributes, net::Error> {
    let fd = dmabuf.as_fd().as_raw_fd();
    Ok(Attributes::default()
        .with(DMABUF_IFINDEX, &net::ifindex(interface)?.to_ne_bytes())
        .with(DMABUF_FD, &fd.to_ne_bytes()))
}
