//! Rings as the vhost-user crate sees them.
//!
//! The crate keeps its own view of each ring, which it consults to decide when a ring starts. Everything it
//! does to one is passed on to the port, whose rings are the ones that data moves through.

use std::{
    cell::RefCell,
    fs::File,
    io,
    os::fd::OwnedFd,
    sync::{Arc, MutexGuard},
};

use vhost_user_backend::{VringMutex, VringState, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::{Error as VirtQueueError, QueueT};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::{port::Port, ring::Setup};

/// Guest memory as the crate shares it with its rings.
pub(crate) type SharedMemory = GuestMemoryAtomic<GuestMemoryMmap<()>>;

thread_local! {
    /// The port whose rings the crate is making on this thread, and how many it made.
    static MAKING: RefCell<Option<(Arc<Port>, usize)>> = const { RefCell::new(None) };
}

/// Runs `make`, which builds a daemon; the rings that it makes on this thread are those of `port`.
///
/// The crate makes all rings in order, on the thread that builds the daemon, by a constructor that can't be
/// told whose they are.
pub(crate) fn for_port<T>(port: &Arc<Port>, make: impl FnOnce() -> T) -> T {
    MAKING.set(Some((Arc::clone(port), 0)));
    let made = make();
    MAKING.set(None);
    made
}

/// One ring of a port, wrapped around the crate's own.
#[derive(Clone)]
pub(crate) struct Vring {
    inner: VringMutex<SharedMemory>,
    port: Arc<Port>,
    ring: usize,
}

impl Vring {
    fn change(&self, change: impl FnOnce(&mut Setup)) {
        self.port
            .set_up(self.ring, |transport| transport.set_up(change));
    }

    /// A second descriptor: the crate starts a ring when it has a kick descriptor itself.
    fn duplicate(&self, kick: Option<&File>) -> Option<OwnedFd> {
        match kick?.try_clone() {
            Ok(file) => Some(file.into()),
            Err(error) => {
                let ring = self.ring;
                self.port
                    .warn(format_args!("ring {ring}: no more descriptors: {error}"));
                None
            }
        }
    }
}

impl<'a> VringStateGuard<'a, SharedMemory> for Vring {
    type G = MutexGuard<'a, VringState<SharedMemory>>;
}

impl<'a> VringStateMutGuard<'a, SharedMemory> for Vring {
    type G = MutexGuard<'a, VringState<SharedMemory>>;
}

/// What the crate would do on a worker thread of its own; it has none.
fn unserved<T>() -> Result<T, VirtQueueError> {
    Err(VirtQueueError::QueueNotReady)
}

impl VringT<SharedMemory> for Vring {
    fn new(memory: SharedMemory, max_queue_size: u16) -> Result<Self, VirtQueueError> {
        let (port, ring) = MAKING.with_borrow_mut(|making| {
            let (port, made) = making.as_mut().ok_or(VirtQueueError::QueueNotReady)?;
            let ring = *made;
            *made += 1;
            Ok((Arc::clone(port), ring))
        })?;
        Ok(Self {
            inner: VringMutex::new(memory, max_queue_size)?,
            port,
            ring,
        })
    }

    fn get_ref(&self) -> MutexGuard<'_, VringState<SharedMemory>> {
        self.inner.get_ref()
    }

    fn get_mut(&self) -> MutexGuard<'_, VringState<SharedMemory>> {
        self.inner.get_mut()
    }

    fn add_used(&self, _: u16, _: u32) -> Result<(), VirtQueueError> {
        unserved()
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        Ok(())
    }

    fn enable_notification(&self) -> Result<bool, VirtQueueError> {
        unserved()
    }

    fn disable_notification(&self) -> Result<(), VirtQueueError> {
        unserved()
    }

    fn needs_notification(&self) -> Result<bool, VirtQueueError> {
        unserved()
    }

    fn set_enabled(&self, enabled: bool) {
        self.inner.set_enabled(enabled);
        self.port.enable_ring(self.ring, enabled);
    }

    fn set_queue_info(
        &self,
        descriptors: u64,
        available: u64,
        used: u64,
    ) -> Result<(), VirtQueueError> {
        self.change(|setup| {
            setup.descriptors = descriptors;
            setup.available = available;
            setup.used = used;
        });
        Ok(())
    }

    fn queue_next_avail(&self) -> u16 {
        self.port
            .set_up(self.ring, |transport| transport.indices.next_available)
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.port.set_up(self.ring, |transport| {
            transport.indices.next_available = base;
        });
    }

    fn set_queue_next_used(&self, index: u16) {
        self.port
            .set_up(self.ring, |transport| transport.indices.next_used = index);
    }

    fn queue_used_idx(&self) -> Result<u16, VirtQueueError> {
        self.port
            .set_up(self.ring, |transport| transport.used_index())
            .ok_or(VirtQueueError::AddressOverflow)
    }

    fn set_queue_size(&self, size: u16) {
        self.change(|setup| setup.size = size);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.change(|setup| setup.event_idx = enabled);
    }

    fn set_queue_ready(&self, ready: bool) {
        self.inner.get_mut().get_queue_mut().set_ready(ready);
        if ready {
            self.port.start_ring(self.ring);
        } else {
            self.port.stop_ring(self.ring);
        }
    }

    fn set_kick(&self, file: Option<File>) {
        self.port.set_kick(self.ring, self.duplicate(file.as_ref()));
        self.inner.set_kick(file);
    }

    fn read_kick(&self) -> io::Result<bool> {
        Ok(false)
    }

    fn set_call(&self, file: Option<File>) {
        self.port.set_call(self.ring, file.map(OwnedFd::from));
    }

    fn set_err(&self, _: Option<File>) {
        // Nobody asks for it: what is wrong with a ring is logged.
    }
}
