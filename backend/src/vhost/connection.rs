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
    gate::{Gate, GateError},
    private,
    relay::{RelayError, relay},
    vring::{self, SharedMemory, Vring},
};
use crate::{
    control::frontend, descriptors::Share, index::MAX_RINGS, memory::MemoryError, port::Port,
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
    /// The system has no descriptor or thread for the connection.
    #[error("Can't serve a frontend: {0}")]
    Start(String),
    #[error("Frontend violated the vhost-user protocol")]
    Relay(#[source] RelayError),
    #[error("Memory of the frontend is refused")]
    Memory(#[source] MemoryError),
    /// The crate's errors may include a thread's panic, which can't be passed on as a source.
    #[error("Frontend violated the vhost-user protocol: {0}")]
    Daemon(String),
}

impl From<RelayError> for ConnectionError {
    fn from(error: RelayError) -> Self {
        match error {
            RelayError::Thread(error) => Self::Start(error.to_string()),
            RelayError::Refused(GateError::Memory(error)) => Self::Memory(error),
            error => Self::Relay(error),
        }
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
        // The relay has checked it.
        frontend::set_memory(&self.port, &memory.memory().into_inner());
        Ok(())
    }

    fn handle_event(&self, _: u16, _: EventSet, _: &[Vring], _: usize) -> io::Result<()> {
        Ok(())
    }
}

/// Serves one frontend, which may use a `share` of the descriptors, until it goes away.
///
/// # Errors
///
/// The frontend violated the protocol, or the system lacks a descriptor or thread for it.
pub(crate) fn serve(
    port: &Arc<Port>,
    frontend: &UnixStream,
    share: Share,
) -> Result<(), ConnectionError> {
    let (listener, near) = private::pair().map_err(ConnectionError::Socket)?;
    let backend = Arc::new(NetBackend {
        port: Arc::clone(port),
    });
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let unserved = |error: DaemonError| ConnectionError::Start(error.to_string());
    let daemon = vring::for_port(port, || {
        VhostUserDaemon::new(port.context.name().to_owned(), backend, memory)
    });
    let mut daemon = daemon.map_err(unserved)?;
    let started = daemon.start(&mut Listener::from(listener));
    started.map_err(unserved)?;
    frontend::attach(port);
    let context = &port.context;
    let mut gate = Gate::new(
        Arc::clone(context.notifier()),
        context.memory_rules(),
        share,
    );
    let relayed = relay(frontend, &near, &mut gate);
    daemon.request_shutdown();
    let ended = daemon.wait();
    frontend::detach(port);
    relayed?;
    match ended {
        Err(DaemonError::HandleRequest(
            VhostUserError::Disconnected | VhostUserError::PartialMessage,
        ))
        | Ok(()) => Ok(()),
        Err(error) => Err(ConnectionError::Daemon(error.to_string())),
    }
}
