//! A frontend that sends any message, and a guest that writes anything, with no library between.

use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::{
    eventfd::{EFD_NONBLOCK, EventFd},
    sock_ctrl_msg::ScmSocket,
};
use zcnic_model::vhost_user::PATIENCE;

pub(crate) const GET_FEATURES: u32 = 1;
pub(crate) const SET_FEATURES: u32 = 2;
pub(crate) const SET_OWNER: u32 = 3;
pub(crate) const SET_MEM_TABLE: u32 = 5;
pub(crate) const SET_VRING_NUM: u32 = 8;
pub(crate) const SET_VRING_ADDR: u32 = 9;
pub(crate) const SET_VRING_BASE: u32 = 10;
pub(crate) const GET_VRING_BASE: u32 = 11;
pub(crate) const SET_VRING_KICK: u32 = 12;
pub(crate) const SET_VRING_CALL: u32 = 13;
pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
pub(crate) const SET_VRING_ENABLE: u32 = 18;

/// VERSION_1, PROTOCOL_FEATURES, INDIRECT_DESC, MRG_RXBUF.
pub(crate) const FEATURES: u64 = 1 << 32 | 1 << 30 | 1 << 28 | 1 << 15;

/// MQ, REPLY_ACK.
pub(crate) const PROTOCOL_FEATURES: u64 = 1 << 3 | 1;

/// NEED_REPLY.
const NEED_REPLY: u32 = 9;

/// The frontend's address of guest address 0.
pub(crate) const USER: u64 = 0x7f00_0000_0000;

/// A connection to a port's socket.
pub(crate) struct RawFrontend {
    pub(crate) stream: UnixStream,
}

/// A message with these flags, the version among them.
pub(crate) fn message(request: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let header = [request, flags, body.len() as u32].map(u32::to_ne_bytes);
    [&header.concat()[..], body].concat()
}

/// Bytes of 64-bit words.
pub(crate) fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Bytes of 32-bit words.
pub(crate) fn halves(halves: &[u32]) -> Vec<u8> {
    halves.iter().flat_map(|half| half.to_ne_bytes()).collect()
}

impl RawFrontend {
    /// Connects and says nothing.
    pub(crate) fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("the port listens");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a socket has timeouts");
        Self { stream }
    }

    /// Connects and negotiates.
    pub(crate) fn negotiated(path: &Path) -> Self {
        let mut frontend = Self::connect(path);
        frontend.send(GET_FEATURES, &[]).expect("a listener");
        frontend.reply().expect("features");
        frontend.send(SET_OWNER, &[]).expect("a listener");
        frontend
            .send(GET_PROTOCOL_FEATURES, &[])
            .expect("a listener");
        frontend.reply().expect("protocol features");
        for (request, features) in [
            (SET_PROTOCOL_FEATURES, PROTOCOL_FEATURES),
            (SET_FEATURES, FEATURES),
        ] {
            frontend
                .send(request, &words(&[features]))
                .expect("a listener");
        }
        frontend
    }

    /// Sends a message.
    pub(crate) fn send(&self, request: u32, body: &[u8]) -> io::Result<()> {
        self.send_with(request, body, &[])
    }

    /// Sends a message with file descriptors.
    pub(crate) fn send_with(
        &self,
        request: u32,
        body: &[u8],
        descriptors: &[&dyn AsRawFd],
    ) -> io::Result<()> {
        let bytes = message(request, 1, body);
        let descriptors: Vec<_> = descriptors.iter().map(|one| one.as_raw_fd()).collect();
        let sent = self.stream.send_with_fds(&[&bytes[..]], &descriptors);
        sent.map(drop)
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }

    /// Sends a message and asks for its result: 0 for success. `None`: the connection was ended.
    pub(crate) fn ask(
        &mut self,
        request: u32,
        body: &[u8],
        descriptors: &[&dyn AsRawFd],
    ) -> Option<u64> {
        let bytes = message(request, NEED_REPLY, body);
        let descriptors: Vec<_> = descriptors.iter().map(|one| one.as_raw_fd()).collect();
        self.stream
            .send_with_fds(&[&bytes[..]], &descriptors)
            .ok()?;
        let reply = self.reply()?;
        Some(u64::from_ne_bytes(reply.get(..8)?.try_into().ok()?))
    }

    /// The body of the next reply; `None`: the connection was ended.
    pub(crate) fn reply(&mut self) -> Option<Vec<u8>> {
        let mut header = [0; 12];
        self.stream.read_exact(&mut header).ok()?;
        let length = u32::from_ne_bytes(header[8..].try_into().ok()?);
        let mut body = vec![0; length as usize];
        self.stream.read_exact(&mut body).ok()?;
        Some(body)
    }

    /// Returns when every message before has had its effect; `false`: the connection was ended.
    pub(crate) fn settle(&mut self) -> bool {
        self.send(GET_FEATURES, &[]).is_ok() && self.reply().is_some()
    }
}

/// The memory of a guest: one region from address 0.
pub(crate) struct RawMemory {
    pub(crate) file: Arc<File>,
    pub(crate) map: GuestMemoryMmap,
    pub(crate) size: u64,
}

impl RawMemory {
    /// Memory in a memfd that can be sealed.
    pub(crate) fn new(size: u64) -> Self {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd: OwnedFd = memfd_create("raw", flags).expect("memfd");
        ftruncate(&fd, size).expect("memfd takes a size");
        let file = Arc::new(File::from(fd));
        let backing = FileOffset::from_arc(Arc::clone(&file), 0);
        let range = (GuestAddress(0), size as usize, Some(backing));
        let map = GuestMemoryMmap::from_ranges_with_files([range]).expect("memory is mapped");
        Self { file, map, size }
    }

    /// The body of a SET_MEM_TABLE with this memory.
    pub(crate) fn table(&self) -> Vec<u8> {
        [halves(&[1, 0]), words(&[0, self.size, USER, 0])].concat()
    }

    /// Writes bytes at an address.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        self.map
            .write_slice(bytes, GuestAddress(at))
            .expect("in memory");
    }

    fn index(&self, at: u64) -> u16 {
        u16::from_le(self.map.read_obj(GuestAddress(at)).expect("in memory"))
    }
}

/// A ring of a raw guest, with the parts at any addresses.
pub(crate) struct RawRing {
    pub(crate) number: u32,
    pub(crate) size: u32,
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    pub(crate) kick: EventFd,
    pub(crate) call: EventFd,
    published: u16,
}

impl RawRing {
    /// Ring `number` of 64 descriptors at a place of its own in the first 0x3000 bytes per ring.
    pub(crate) fn new(number: u32) -> Self {
        let base = 0x3000 * u64::from(number) + 0x1000;
        let eventfd = || EventFd::new(EFD_NONBLOCK).expect("eventfd");
        Self {
            number,
            size: 64,
            descriptors: base,
            available: base + 0x1000,
            used: base + 0x2000,
            kick: eventfd(),
            call: eventfd(),
            published: 0,
        }
    }

    /// Sets the ring up and enables it, from available index `base`.
    pub(crate) fn start(&mut self, frontend: &RawFrontend, base: u16) -> io::Result<()> {
        self.published = base;
        let Self { number, size, .. } = *self;
        frontend.send(SET_VRING_NUM, &halves(&[number, size]))?;
        frontend.send(SET_VRING_BASE, &halves(&[number, base.into()]))?;
        frontend.send(SET_VRING_ADDR, &self.addresses())?;
        let index = words(&[number.into()]);
        frontend.send_with(SET_VRING_CALL, &index, &[&self.call])?;
        frontend.send_with(SET_VRING_KICK, &index, &[&self.kick])?;
        frontend.send(SET_VRING_ENABLE, &halves(&[number, 1]))
    }

    /// The body of SET_VRING_ADDR.
    pub(crate) fn addresses(&self) -> Vec<u8> {
        let user = |at: u64| USER.wrapping_add(at);
        let parts = [
            user(self.descriptors),
            user(self.used),
            user(self.available),
            0,
        ];
        [halves(&[self.number, 0]), words(&parts)].concat()
    }

    /// Writes a descriptor.
    pub(crate) fn descriptor(
        &self,
        memory: &RawMemory,
        index: u16,
        (address, length, flags, next): (u64, u32, u16, u16),
    ) {
        memory.write(
            self.descriptors + 16 * u64::from(index),
            &descriptor(address, length, flags, next),
        );
    }

    /// Makes heads available and kicks.
    pub(crate) fn offer(&mut self, memory: &RawMemory, heads: &[u16]) {
        for head in heads {
            let slot = u64::from(self.published) % u64::from(self.size);
            memory.write(self.available + 4 + 2 * slot, &head.to_le_bytes());
            self.published = self.published.wrapping_add(1);
        }
        memory.write(self.available + 2, &self.published.to_le_bytes());
        self.kick();
    }

    /// Kicks; a frontend may have filled the counter.
    pub(crate) fn kick(&self) {
        let _ = self.kick.write(1);
    }

    /// The available index.
    pub(crate) fn published(&self) -> u16 {
        self.published
    }

    /// The used index.
    pub(crate) fn returned(&self, memory: &RawMemory) -> u16 {
        memory.index(self.used + 2)
    }

    /// Waits until all chains were returned; `false`: some were not within `patience`.
    pub(crate) fn drained(&self, memory: &RawMemory, patience: Duration) -> bool {
        let start = Instant::now();
        while self.returned(memory) != self.published {
            if start.elapsed() > patience {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }
}

/// The bytes of a descriptor.
pub(crate) fn descriptor(address: u64, length: u32, flags: u16, next: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    bytes
}
