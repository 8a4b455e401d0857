//! Rings as the vhost-user crate sees them.
//!
//! The crate keeps its own view of each ring, from which it decides when a ring starts. Everything
//! that it does to a ring is passed on to the port, whose rings are those that frames go through.

use std::{
    cell::RefCell,
    fs::File,
    io,
    sync::{Arc, MutexGuard},
};

use vhost_user_backend::{VringMutex, VringState, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::{Error as VirtQueueError, QueueT};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::{
    control::frontend,
    index::RingIndex,
    notifier::SharedEventfd,
    port::Port,
    ring::{Setup, transport::Transport},
};

/// Guest memory as the crate shares it with its rings.
pub(crate) type SharedMemory = GuestMemoryAtomic<GuestMemoryMmap<()>>;

thread_local! {
    /// The port whose rings the crate makes on this thread, and how many it has made.
    static MAKING: RefCell<Option<(Arc<Port>, usize)>> = const { RefCell::new(None) };
}

/// Runs `make`, which builds a daemon; the rings that it makes on this thread are those of `port`.
///
/// The crate makes all rings in order, on the thread that builds the daemon, by a constructor that
/// does not get the port.
pub(crate) fn for_port<T>(port: &Arc<Port>, make: impl FnOnce() -> T) -> T {
    MAKING.set(Some((Arc::clone(port), 0)));
    let made = make();
    MAKING.set(None);
    made
}

/// One ring of a port, beside the crate's own view of it.
#[derive(Clone)]
pub(crate) struct Vring {
    inner: VringMutex<SharedMemory>,
    port: Arc<Port>,
    ring: RingIndex,
}

impl Vring {
    fn with_transport<R>(&self, action: impl FnOnce(&mut Transport) -> R) -> R {
        self.port.queues.with_transport(self.ring, action)
    }

    fn change(&self, change: impl FnOnce(&mut Setup)) {
        self.with_transport(|transport| transport.set_up(change));
    }

    /// Takes over an eventfd. The gate let no other descriptor through.
    fn eventfd(&self, file: File) -> Option<SharedEventfd> {
        self.port.context.notifier().accept(file.into())
    }

    /// Duplicates a kick descriptor: the crate starts a ring when it has one itself.
    fn duplicate(&self, kick: Option<&File>) -> Option<SharedEventfd> {
        match kick?.try_clone() {
            Ok(file) => self.eventfd(file),
            Err(error) => {
                let ring = self.ring;
                self.port
                    .context
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

/// The answer to calls that the crate makes on worker threads of its own: it has none here.
fn unserved<T>() -> Result<T, VirtQueueError> {
    Err(VirtQueueError::QueueNotReady)
}

impl VringT<SharedMemory> for Vring {
    fn new(memory: SharedMemory, max_queue_size: u16) -> Result<Self, VirtQueueError> {
        let (port, ring) = MAKING.with_borrow_mut(|making| {
            let (port, made) = making.as_mut().ok_or(VirtQueueError::QueueNotReady)?;
            let ring = RingIndex::new(*made).ok_or(VirtQueueError::QueueNotReady)?;
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
        frontend::enable_ring(&self.port, self.ring, enabled);
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
        self.with_transport(|transport| transport.indices.next_available)
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.with_transport(|transport| transport.indices.next_available = base);
    }

    fn set_queue_next_used(&self, index: u16) {
        self.with_transport(|transport| transport.indices.next_used = index);
    }

    fn queue_used_idx(&self) -> Result<u16, VirtQueueError> {
        self.with_transport(|transport| transport.used_index())
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
            frontend::start_ring(&self.port, self.ring);
        } else {
            frontend::stop_ring(&self.port, self.ring);
        }
    }

    fn set_kick(&self, file: Option<File>) {
        frontend::set_kick(&self.port, self.ring, self.duplicate(file.as_ref()));
        self.inner.set_kick(file);
    }

    fn read_kick(&self) -> io::Result<bool> {
        Ok(false)
    }

    fn set_call(&self, file: Option<File>) {
        frontend::set_call(
            &self.port,
            self.ring,
            file.and_then(|file| self.eventfd(file)),
        );
    }

    fn set_err(&self, _: Option<File>) {
        // QEMU does not ask for it: errors of a ring are logged.
    }
}
