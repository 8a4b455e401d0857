//! One connection of a frontend: relay and daemon.

use std::{io, os::unix::net::UnixStream, sync::Arc};

use thiserror::Error;
use vhost::vhost_user::{Error as VhostUserError, Listener, VhostUserProtocolFeatures};
use vhost_user_backend::{Error as DaemonError, VhostUserBackend, VhostUserDaemon};
use virtio_bindings::{
    virtio_config::{VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1},
    virtio_net::{
        VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4,
        VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF,
    },
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use super::{
    private,
    relay::{RelayError, relay},
    vring::{self, SharedMemory, Vring},
};
use crate::{
    control::frontend,
    index::MAX_RINGS,
    memory::{self, MemoryError},
    port::Port,
};

/// `VHOST_USER_F_PROTOCOL_FEATURES`.
const PROTOCOL_FEATURES: u64 = 1 << 30;

/// The longest ring: QEMU's limit for virtio-net.
const MAX_RING_SIZE: usize = 1024;

/// Virtio features that are offered. Not RING_RESET (QEMU does not forward it to a backend), PACKED
/// or IN_ORDER, which are not served; MAC, STATUS and the control queue are QEMU's.
const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_F_ACCESS_PLATFORM
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | 1 << VIRTIO_NET_F_MRG_RXBUF
    | 1 << VIRTIO_NET_F_CSUM
    | 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_HOST_TSO4
    | 1 << VIRTIO_NET_F_HOST_TSO6
    | 1 << VIRTIO_NET_F_HOST_ECN
    | 1 << VIRTIO_NET_F_HOST_USO
    | 1 << VIRTIO_NET_F_MQ
    | PROTOCOL_FEATURES;

/// Why a connection ended, other than that the frontend left.
#[derive(Debug, Error)]
pub(crate) enum ConnectionError {
    #[error("Can't make a private socket")]
    Socket(#[source] io::Error),
    #[error("Frontend violated the vhost-user protocol")]
    Relay(#[from] RelayError),
    /// The crate's errors may include a thread's panic, which can't be passed on as a source.
    #[error("Frontend violated the vhost-user protocol: {0}")]
    Daemon(String),
}

impl From<DaemonError> for ConnectionError {
    fn from(error: DaemonError) -> Self {
        Self::Daemon(error.to_string())
    }
}

/// The crate's view of a port.
struct NetBackend {
    port: Arc<Port>,
}

impl VhostUserBackend for NetBackend {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        MAX_RINGS
    }

    fn max_queue_size(&self) -> usize {
        MAX_RING_SIZE
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn acked_features(&self, features: u64) {
        // The relay's own message acknowledges nothing else.
        if features != PROTOCOL_FEATURES {
            frontend::set_features(&self.port, features);
        }
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        // QEMU demands a channel for the backend's requests as soon as there might be a vIOMMU
        // (iommu_platform=on).
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::BACKEND_REQ
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        // No worker threads of the crate, with their limits: workers are the port's.
        Vec::new()
    }

    fn set_event_idx(&self, _: bool) {
        // Each ring gets it in `set_queue_event_idx`.
    }

    fn update_memory(&self, memory: SharedMemory) -> io::Result<()> {
        let memory = memory.memory().into_inner();
        let checked = memory::check(&memory).inspect_err(|_| {
            // The refused memory must not be accessed, now or later.
            frontend::set_memory(&self.port, None);
        });
        match checked {
            Ok(true) => {}
            Ok(false) => self.port.context.warn(format_args!(
                "guest memory is in a file that can be truncated, which would kill zcnic; \
                 memory-backend-memfd can't be"
            )),
            Err(error @ MemoryError::Stat(..)) => return Err(io::Error::other(error)),
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidInput, error)),
        }
        frontend::set_memory(&self.port, Some(&memory));
        Ok(())
    }

    fn handle_event(&self, _: u16, _: EventSet, _: &[Vring], _: usize) -> io::Result<()> {
        Ok(())
    }
}

/// Serves one frontend until it goes away.
///
/// # Errors
///
/// The frontend violated the protocol, or the private socket can't be made.
pub(crate) fn serve(port: &Arc<Port>, frontend: &UnixStream) -> Result<(), ConnectionError> {
    let (listener, near) = private::pair().map_err(ConnectionError::Socket)?;
    let backend = Arc::new(NetBackend {
        port: Arc::clone(port),
    });
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon = vring::for_port(port, || {
        VhostUserDaemon::new(port.context.name().to_owned(), backend, memory)
    })?;
    daemon.start(&mut Listener::from(listener))?;
    frontend::attach(port);
    let relayed = relay(frontend, &near);
    daemon.request_shutdown();
    let ended = daemon.wait();
    frontend::detach(port);
    relayed?;
    match ended {
        Err(DaemonError::HandleRequest(
            VhostUserError::Disconnected | VhostUserError::PartialMessage,
        ))
        | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
