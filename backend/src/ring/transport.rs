//! A ring as the frontend sets it up: where it is, whether it runs, how to notify.

use std::{os::fd::AsFd, sync::Arc};

use super::{
    Indices, RingError, Setup,
    raw::{Mapping, Memory},
    split::SplitRing,
};
use crate::{index::RingIndex, notifier::SharedEventfd, waker::Waker};

/// One ring, running or not.
#[derive(Debug, Default)]
pub(crate) struct Transport {
    setup: Setup,
    pub(crate) indices: Indices,
    memory: Option<Arc<Memory>>,
    /// The parts of the ring in `memory`, once they were looked up.
    mapping: Option<Mapping>,
    /// Between SET_VRING_KICK and GET_VRING_BASE.
    ready: bool,
    enabled: bool,
    broken: bool,
    kick: Option<SharedEventfd>,
    watched: bool,
    call: Option<Arc<SharedEventfd>>,
    /// An interrupt was due while there was no call descriptor.
    missed_call: bool,
    /// The timer has a job to raise a moderated interrupt.
    pub(crate) moderated: bool,
    /// The next available index and the setup at the last stop, until the ring starts again.
    stopped_at: Option<(u16, Setup)>,
}

/// An interrupt, to be raised when no lock is held.
#[derive(Debug)]
#[must_use]
pub(crate) struct Interrupt(Arc<SharedEventfd>);

impl Interrupt {
    /// Never waits for the frontend.
    pub(crate) fn raise(&self) {
        self.0.signal();
    }
}

impl Transport {
    /// The ring, if it runs; chains of a ring that is not [enabled](Self::is_enabled) may be
    /// discarded but not used.
    ///
    /// # Errors
    ///
    /// Its parts are not in guest memory.
    #[inline]
    pub(crate) fn ring(&mut self) -> Result<Option<SplitRing<'_>>, RingError> {
        if !self.ready || self.broken {
            return Ok(None);
        }
        if self.mapping.is_none() {
            let Some(memory) = &self.memory else {
                return Ok(None);
            };
            self.mapping = Some(Mapping::new(&self.setup, Arc::clone(memory))?);
        }
        let event_idx = self.setup.event_idx;
        Ok(self
            .mapping
            .as_ref()
            .map(|mapping| SplitRing::new(mapping, event_idx, &mut self.indices)))
    }

    /// Runs `action` on the ring if it runs, and publishes what it completed. Returns its result,
    /// and the interrupt to raise when the ring is unlocked.
    pub(crate) fn with_ring<T>(
        &mut self,
        action: impl FnOnce(&mut SplitRing<'_>) -> Result<T, RingError>,
    ) -> (Result<Option<T>, RingError>, Option<Interrupt>) {
        let mut wanted = false;
        let work = || {
            let Some(mut ring) = self.ring()? else {
                return Ok(None);
            };
            let value = action(&mut ring)?;
            wanted = ring.publish();
            Ok(Some(value))
        };
        let result = work();
        (result, if wanted { self.interrupt() } else { None })
    }

    /// Changes where the ring is or how driver and device notify each other.
    pub(crate) fn set_up(&mut self, change: impl FnOnce(&mut Setup)) {
        change(&mut self.setup);
        self.mapping = None;
    }

    /// Descriptors of the ring.
    pub(crate) fn size(&self) -> u16 {
        self.setup.size
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    pub(crate) fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    pub(crate) fn set_memory(&mut self, memory: Arc<Memory>) {
        self.memory = Some(memory);
        self.mapping = None;
    }

    /// Marks the ring broken until it is started again. Returns whether it was usable before, which
    /// is when the caller logs the reason.
    pub(crate) fn mark_broken(&mut self) -> bool {
        !std::mem::replace(&mut self.broken, true)
    }

    /// Whether a start now resumes the ring where it was stopped, rather than after a device reset.
    ///
    /// While the ring was stopped the frontend itself may have returned transmit chains, so the
    /// base may have advanced; a reset starts from 0 and as a rule at other addresses.
    pub(crate) fn resumes(&self) -> bool {
        let Some((base, setup)) = self.stopped_at else {
            return true;
        };
        let now = self.indices.next_available;
        let advanced = now.wrapping_sub(base) < 1 << 15;
        setup == self.setup && advanced && (now != 0 || base == 0)
    }

    /// Drops the position of the last stop: the next start resumes nothing.
    pub(crate) fn forget_stop(&mut self) {
        self.stopped_at = None;
    }

    /// The used index in guest memory: how far a previous backend came.
    pub(crate) fn used_index(&self) -> Option<u16> {
        let mapping = Mapping::new(&self.setup, Arc::clone(self.memory.as_ref()?));
        mapping.ok().map(|mapping| mapping.used_index())
    }

    /// Starts using the ring, and watches its kick descriptor.
    pub(crate) fn start(&mut self, worker: &Waker, ring: RingIndex) -> Result<(), RingError> {
        self.ready = true;
        self.broken = false;
        self.stopped_at = None;
        self.indices.published = self.indices.next_used;
        self.indices.signalled = None;
        self.indices.flags = None;
        self.check()?;
        self.watch(worker, ring)
    }

    /// Checks that the ring's parts are in guest memory; marks it broken if not.
    pub(crate) fn check(&mut self) -> Result<(), RingError> {
        let result = self.ring().map(drop);
        self.broken |= result.is_err();
        result
    }

    /// The moderated interrupt, if it is still wanted. Ends the moderation.
    pub(crate) fn take_moderated_interrupt(&mut self) -> Option<Interrupt> {
        if !std::mem::take(&mut self.moderated) {
            return None;
        }
        let wanted = self
            .ring()
            .ok()?
            .is_some_and(|mut ring| ring.take_moderated());
        if wanted { self.interrupt() } else { None }
    }

    /// Stops using the ring; a start resumes at the next available chain.
    pub(crate) fn stop(&mut self, worker: &Waker) {
        self.unwatch(worker);
        if self.ready {
            self.ready = false;
            self.stopped_at = Some((self.indices.next_available, self.setup));
        }
    }

    /// Resets everything, because the frontend went away.
    pub(crate) fn clear(&mut self, worker: &Waker) {
        self.unwatch(worker);
        *self = Self::default();
    }

    pub(crate) fn set_kick(
        &mut self,
        kick: Option<SharedEventfd>,
        worker: &Waker,
        ring: RingIndex,
    ) -> Result<(), RingError> {
        self.unwatch(worker);
        self.kick = kick;
        if self.ready {
            self.watch(worker, ring)
        } else {
            Ok(())
        }
    }

    /// Drops the kick descriptor. The ring is served only when something else schedules it.
    pub(crate) fn drop_kick(&mut self, worker: &Waker) {
        self.unwatch(worker);
        self.kick = None;
    }

    pub(crate) fn set_call(&mut self, call: Option<SharedEventfd>) -> Option<Interrupt> {
        self.call = call.map(Arc::new);
        if self.missed_call {
            self.interrupt()
        } else {
            None
        }
    }

    /// The interrupt to raise after unlocking. Without a call descriptor it is noted as missed.
    pub(crate) fn interrupt(&mut self) -> Option<Interrupt> {
        self.missed_call = self.call.is_none();
        self.call.clone().map(Interrupt)
    }

    fn watch(&mut self, worker: &Waker, ring: RingIndex) -> Result<(), RingError> {
        if let Some(kick) = &self.kick {
            if let Err(error) = worker.watch(kick.as_fd(), ring) {
                self.kick = None;
                return Err(RingError::Kick(error.kind()));
            }
            self.watched = true;
        }
        Ok(())
    }

    fn unwatch(&mut self, worker: &Waker) {
        if let (true, Some(kick)) = (self.watched, &self.kick) {
            worker.unwatch(kick.as_fd());
        }
        self.watched = false;
    }
}
