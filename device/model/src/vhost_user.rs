//! A vhost-user frontend to a backend in another thread or process, which sends QEMU's messages in
//! QEMU's order.

use std::{
    any::Any,
    io::{self, Write},
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vhost::{
    VhostBackend, VhostUserMemoryRegionInfo, VringConfigData,
    vhost_user::{
        Frontend as Protocol, VhostUserFrontend, VhostUserProtocolFeatures,
        message::VhostUserHeaderFlag,
    },
};
use virtio_bindings::{
    virtio_config::{VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1},
    virtio_net::{VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_MRG_RXBUF},
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};
use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    MemoryRegionAddress,
};
use vmm_sys_util::{
    epoll::{ControlOperation, Epoll, EpollEvent, EventSet},
    eventfd::{EFD_NONBLOCK, EventFd},
};

use crate::{
    driver::{Driver, Pair, Transport},
    guest::Guest,
    ring::RingAddresses,
};

/// The virtio features that the driver acknowledges.
pub const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_F_ACCESS_PLATFORM
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_NET_F_MRG_RXBUF
    | 1 << VIRTIO_NET_F_GUEST_CSUM;

/// `VHOST_USER_F_PROTOCOL_FEATURES`.
const PROTOCOL_FEATURES: u64 = 1 << 30;

/// SET_VRING_ENABLE.
const SET_VRING_ENABLE: u32 = 18;

/// The timeout for results that must arrive.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The longest wait for an interrupt without a look at the connection.
const LOOK: Duration = Duration::from_millis(100);

/// A connection to a port with running rings.
pub struct Frontend {
    /// The protocol, for tests that send other messages than QEMU.
    pub protocol: Protocol,
    memory: Arc<GuestMemoryMmap>,
    rings: Vec<RingAddresses>,
    kicks: Vec<EventFd>,
    calls: Vec<EventFd>,
    /// An owner to keep alive, the backend for example. Dropped last.
    pub keep: Option<Arc<dyn Any + Send + Sync>>,
}

/// A vhost-user message without file descriptors.
#[must_use]
pub fn message(request: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [request, 1, body.len() as u32] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(body);
    bytes
}

/// A driver with `pairs` queue pairs of `ring_size` descriptors each, command pair included, at the
/// port that listens at `path`.
pub fn connect(path: &Path, pairs: u16, ring_size: u16) -> Driver<Frontend> {
    let mut guest = Guest::new();
    let pairs = Pair::allocate(&mut guest, pairs, ring_size);
    let frontend = Frontend::start(path, guest.memory(), addresses(&pairs));
    Driver::new(guest, pairs, frontend)
}

/// The addresses of the rings of `pairs`, by ring number.
#[must_use]
pub fn addresses(pairs: &[Pair]) -> Vec<RingAddresses> {
    let rings = |pair: &Pair| {
        let Pair { receive, transmit } = pair;
        [receive.ring().addresses(), transmit.ring().addresses()]
    };
    pairs.iter().flat_map(rings).collect()
}

/// The used indices, at which a restarted backend resumes, by ring number.
#[must_use]
pub fn used_indices(pairs: &[Pair]) -> Vec<u16> {
    let rings = |pair: &Pair| {
        let Pair { receive, transmit } = pair;
        [receive.ring().used_index(), transmit.ring().used_index()]
    };
    pairs.iter().flat_map(rings).collect()
}

impl Frontend {
    /// Connects and negotiates, up to the point where rings are set up.
    ///
    /// # Panics
    ///
    /// The backend refuses.
    pub fn connect(path: &Path, memory: Arc<GuestMemoryMmap>, rings: Vec<RingAddresses>) -> Self {
        raise_descriptor_limit();
        let mut stream = UnixStream::connect(path).expect("the port listens");
        // Before anything was negotiated, as QEMU does when the device is realized.
        for ring in 0..rings.len() as u32 {
            let body = [ring.to_ne_bytes(), 1u32.to_ne_bytes()].concat();
            stream
                .write_all(&message(SET_VRING_ENABLE, &body))
                .expect("early SET_VRING_ENABLE");
        }
        let mut protocol = Protocol::from_stream(stream, rings.len() as u64);
        let offered = protocol.get_features().expect("features");
        let features = FEATURES | PROTOCOL_FEATURES;
        assert_eq!(offered & features, features, "features that are needed");
        let wanted = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
        let offered = protocol.get_protocol_features().expect("protocol features");
        assert!(
            offered.contains(wanted),
            "protocol features that are needed"
        );
        protocol
            .set_protocol_features(wanted)
            .expect("protocol features");
        let queues = protocol.get_queue_num().expect("queues");
        assert!(queues >= rings.len() as u64, "only {queues} rings");
        // Every message is answered from now on, so that it has taken effect when the call returns.
        protocol.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        protocol.set_owner().expect("owner");
        let fds = || {
            rings
                .iter()
                .map(|_| EventFd::new(EFD_NONBLOCK).expect("eventfd"))
                .collect()
        };
        let (kicks, calls) = (fds(), fds());
        Self {
            protocol,
            memory,
            rings,
            kicks,
            calls,
            keep: None,
        }
    }

    /// Connects and starts all rings at index 0, as after a device reset.
    ///
    /// # Panics
    ///
    /// The backend refuses.
    pub fn start(path: &Path, memory: Arc<GuestMemoryMmap>, rings: Vec<RingAddresses>) -> Self {
        let mut frontend = Self::connect(path, memory, rings);
        frontend.start_all(|_| 0);
        frontend
    }

    /// Connects again, to a restarted backend; rings resume at `base`.
    ///
    /// # Panics
    ///
    /// The backend refuses.
    pub fn reconnect(&mut self, path: &Path, base: impl Fn(usize) -> u16) {
        let (memory, rings) = (Arc::clone(&self.memory), self.rings.clone());
        let keep = self.keep.take();
        *self = Self {
            keep,
            ..Self::connect(path, memory, rings)
        };
        self.start_all(base);
    }

    /// Starts all rings, as QEMU does when the driver is ready or the machine resumes.
    ///
    /// # Panics
    ///
    /// The backend refuses.
    pub fn start_all(&mut self, base: impl Fn(usize) -> u16) {
        self.protocol
            .set_features(FEATURES | PROTOCOL_FEATURES)
            .expect("features");
        self.set_memory();
        for ring in 0..self.rings.len() {
            self.start_ring(ring, base(ring));
        }
        for ring in 0..self.rings.len() {
            self.protocol.set_vring_enable(ring, true).expect("enable");
        }
    }

    /// Hands over the memory table.
    ///
    /// # Panics
    ///
    /// The backend refuses.
    pub fn set_memory(&self) {
        let regions: Vec<_> = self
            .memory
            .iter()
            .map(|region| VhostUserMemoryRegionInfo::from_guest_region(region).expect("a file"))
            .collect();
        self.protocol.set_mem_table(&regions).expect("memory table");
    }

    /// Sets up a ring and starts it.
    ///
    /// # Panics
    ///
    /// The backend refuses.
    pub fn start_ring(&mut self, ring: usize, base: u16) {
        let size = self.rings[ring].size;
        self.protocol.set_vring_num(ring, size).expect("size");
        self.protocol.set_vring_base(ring, base).expect("base");
        self.set_addresses(ring, self.rings[ring])
            .expect("addresses");
        self.protocol
            .set_vring_kick(ring, &self.kicks[ring])
            .expect("kick");
        self.protocol
            .set_vring_call(ring, &self.calls[ring])
            .expect("call");
    }

    /// SET_VRING_ENABLE.
    ///
    /// # Panics
    ///
    /// The backend refuses.
    pub fn enable(&mut self, ring: usize, enabled: bool) {
        self.protocol
            .set_vring_enable(ring, enabled)
            .expect("enable");
    }

    /// SET_VRING_ADDR.
    ///
    /// # Errors
    ///
    /// The backend refuses.
    pub fn set_addresses(&self, ring: usize, at: RingAddresses) -> vhost::Result<()> {
        self.protocol.set_vring_addr(ring, &self.ring_config(at))
    }

    /// The SET_VRING_ADDR of a ring.
    ///
    /// # Panics
    ///
    /// The ring is not in memory.
    #[must_use]
    pub fn ring_config(&self, at: RingAddresses) -> VringConfigData {
        VringConfigData {
            queue_max_size: at.size,
            queue_size: at.size,
            flags: 0,
            desc_table_addr: self.user_address(at.descriptors),
            used_ring_addr: self.user_address(at.used),
            avail_ring_addr: self.user_address(at.available),
            log_addr: None,
        }
    }

    /// Stops a ring and returns the index to resume at.
    ///
    /// # Panics
    ///
    /// The backend refuses.
    pub fn stop_ring(&mut self, ring: usize) -> u16 {
        self.protocol.get_vring_base(ring).expect("base") as u16
    }

    /// Stops all rings, as QEMU does when the machine stops or the link goes down.
    pub fn stop_all(&mut self) -> Vec<u16> {
        (0..self.rings.len())
            .map(|ring| self.stop_ring(ring))
            .collect()
    }

    /// A device reset: all rings stop, and the driver sets them up again, at the same addresses.
    ///
    /// # Panics
    ///
    /// The backend refuses.
    pub fn reset(&mut self) {
        self.stop_all();
        for ring in &self.rings {
            for index in [ring.available, ring.used] {
                self.memory
                    .write_obj(0u16, index.unchecked_add(2))
                    .expect("rings lie in memory");
            }
        }
        self.start_all(|_| 0);
    }

    /// The addresses of a ring.
    #[must_use]
    pub fn ring(&self, ring: usize) -> RingAddresses {
        self.rings[ring]
    }

    /// The address of guest memory in this process, as a frontend sends it.
    fn user_address(&self, address: GuestAddress) -> u64 {
        let region = self
            .memory
            .find_region(address)
            .expect("rings lie in memory");
        let offset = MemoryRegionAddress(address.unchecked_offset_from(region.start_addr()));
        region.get_host_address(offset).expect("mapped").addr() as u64
    }

    /// Whether the backend has closed the connection, as it does when it ends.
    fn is_disconnected(&self) -> bool {
        let connection = self.protocol.as_raw_fd();
        has_event(connection, EventSet::READ_HANG_UP, Duration::ZERO)
    }

    /// Waits for an interrupt of a ring, at most for `patience`; returns whether there was one.
    ///
    /// # Panics
    ///
    /// The host has no more file descriptors.
    #[must_use]
    pub fn interrupted(&self, ring: usize, patience: Duration) -> bool {
        let call = &self.calls[ring];
        has_event(call.as_raw_fd(), EventSet::IN, patience) && call.read().is_ok()
    }
}

/// Waits for an event of a descriptor, at most for `patience`; returns whether there was one.
fn has_event(descriptor: RawFd, event: EventSet, patience: Duration) -> bool {
    let epoll = Epoll::new().expect("epoll");
    let event = EpollEvent::new(event, 0);
    epoll
        .ctl(ControlOperation::Add, descriptor, event)
        .expect("epoll");
    let milliseconds = patience.as_millis() as i32;
    match epoll.wait(milliseconds, &mut [EpollEvent::default()]) {
        Ok(ready) => ready > 0,
        // The process was stopped meanwhile.
        Err(error) if error.kind() == io::ErrorKind::Interrupted => false,
        Err(error) => panic!("epoll: {error}"),
    }
}

/// Raises the limit of file descriptors: two eventfds per ring, and as many in a backend of the
/// same process, exceed the default.
fn raise_descriptor_limit() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: limit.maximum,
            ..limit
        };
        setrlimit(Resource::Nofile, raised).expect("a limit may be raised to its maximum");
    });
}

impl Transport for Frontend {
    fn kick(&mut self, ring: usize) {
        self.kicks[ring].write(1).expect("an eventfd takes a kick");
    }

    fn wait(&mut self, ring: usize) -> bool {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if self.interrupted(ring, LOOK) {
                return true;
            }
            if self.is_disconnected() {
                // The interrupt may have come just before.
                return self.interrupted(ring, Duration::ZERO);
            }
        }
        false
    }
}
