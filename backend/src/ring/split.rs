//! Access to one split ring while its lock is held.

use zcnic_device::fault::{RawRing, UsedElement};

use super::{Indices, RingError, raw::Mapping};
use crate::sync::{Ordering, fence};

/// `VIRTQ_AVAIL_F_NO_INTERRUPT`.
const NO_INTERRUPT: u16 = 1;
/// `VIRTQ_USED_F_NO_NOTIFY`.
const NO_NOTIFY: u16 = 1;

/// A ring that runs.
pub(crate) struct SplitRing<'m> {
    map: &'m Mapping,
    event_idx: bool,
    /// Chains known to be available.
    known: u16,
    indices: &'m mut Indices,
}

impl<'m> SplitRing<'m> {
    pub(crate) fn new(map: &'m Mapping, event_idx: bool, indices: &'m mut Indices) -> Self {
        Self {
            map,
            event_idx,
            known: 0,
            indices,
        }
    }

    /// The mapping of the ring's parts.
    #[inline]
    pub(crate) fn map(&self) -> &'m Mapping {
        self.map
    }

    /// Descriptors in the ring.
    #[inline]
    pub(crate) fn size(&self) -> u16 {
        self.map.size()
    }

    /// The next entry of the available ring to take.
    pub(crate) fn next_available(&self) -> u16 {
        self.indices.next_available
    }

    /// Chains that the driver made available and that were not taken yet. Reads the driver's index
    /// only if fewer than `enough` are known.
    #[inline]
    pub(crate) fn available(&mut self, enough: u16) -> Result<u16, RingError> {
        if self.known < enough {
            let index = self.map.available_index();
            let available = index.wrapping_sub(self.indices.next_available);
            if available > self.size() {
                return Err(RingError::AvailableIndex {
                    available,
                    size: self.size(),
                });
            }
            self.known = available;
        }
        Ok(self.known)
    }

    /// Available chains that are known without reading the driver's index.
    #[inline]
    pub(crate) fn known(&self) -> u16 {
        self.known
    }

    /// First descriptor of the chain that is `ahead` of the next one, among those available.
    #[inline]
    pub(crate) fn head(&self, ahead: u16) -> Result<u16, RingError> {
        let head = self
            .map
            .available_entry(self.indices.next_available.wrapping_add(ahead));
        if head < self.size() {
            Ok(head)
        } else {
            Err(RingError::Head {
                head,
                size: self.size(),
            })
        }
    }

    /// Puts the heads of the next `count` chains, which are available, into `heads`, and prefetches
    /// their descriptors.
    pub(crate) fn heads(&self, count: u16, heads: &mut Vec<u16>) -> Result<(), RingError> {
        heads.clear();
        for ahead in 0..count {
            let head = self.head(ahead)?;
            self.map.prefetch_descriptor(head);
            heads.push(head);
        }
        Ok(())
    }

    /// Takes the next available chain, whose first descriptor is `head`, and returns it with
    /// `length` bytes written. The driver sees it after [`publish`](Self::publish).
    #[inline]
    pub(crate) fn complete(&mut self, head: u16, length: u32) {
        let next = self.indices.next_used;
        self.map.set_used(next, head.into(), length);
        self.indices.next_used = next.wrapping_add(1);
        self.skip();
    }

    /// Completes the next chains, whose heads are `heads`, each with `length` bytes written.
    pub(crate) fn complete_all(&mut self, heads: &[u16], length: u32) {
        let next = self.indices.next_used;
        for (ahead, &head) in (0..).zip(heads) {
            self.map
                .set_used(next.wrapping_add(ahead), head.into(), length);
        }
        let count = heads.len() as u16;
        self.indices.next_used = next.wrapping_add(count);
        self.indices.next_available = self.indices.next_available.wrapping_add(count);
        self.known = self.known.saturating_sub(count);
    }

    /// Takes the next available chain without returning it, which only faults do.
    #[inline]
    pub(crate) fn skip(&mut self) {
        self.indices.next_available = self.indices.next_available.wrapping_add(1);
        self.known = self.known.saturating_sub(1);
    }

    /// Puts an element into the used ring. Only faults pass an `id` that is not the next chain's.
    pub(crate) fn put(&mut self, id: u32, length: u32) {
        self.map.set_used(self.indices.next_used, id, length);
        self.indices.next_used = self.indices.next_used.wrapping_add(1);
    }

    /// Publishes everything that was completed. Returns whether the driver wants an interrupt.
    pub(crate) fn publish(&mut self) -> bool {
        let new = self.indices.next_used;
        if new == self.indices.published {
            return false;
        }
        self.map.set_used_index(new);
        self.indices.published = new;
        // The driver stores its event index and then reads the used index; here the order is the
        // reverse. Without a full barrier both could miss the other's store (virtio 1.3, 2.7.10).
        fence(Ordering::SeqCst);
        if !self.event_idx {
            return self.map.available_flags() & NO_INTERRUPT == 0;
        }
        self.is_interrupt_due()
    }

    /// Whether the driver's event index was passed since the last call (virtio 1.3, 2.7.7.2).
    #[inline]
    fn is_interrupt_due(&mut self) -> bool {
        let new = self.indices.published;
        let event = self.map.used_event();
        match self.indices.signalled.replace(new) {
            Some(old) => new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old),
            None => true,
        }
    }

    /// Moderates an interrupt that [`publish`](Self::publish) found wanted, unless `enough` chains
    /// (0: no number of them) wait for the driver. The last-signalled index is rewound to what the
    /// driver has seen, so the event-index test runs again with the next frame or in
    /// [`take_moderated`](Self::take_moderated). Without event index the driver's wish is not known
    /// well enough: nothing is moderated.
    pub(crate) fn moderate(&mut self, enough: u16) -> bool {
        let event = self.map.used_event();
        let unseen = self.indices.published.wrapping_sub(event);
        let is_enough = unseen > self.size() || (enough > 0 && unseen >= enough);
        if !self.event_idx || is_enough {
            return false;
        }
        self.indices.signalled = Some(event);
        true
    }

    /// Whether a moderated interrupt is still wanted. The caller raises it.
    pub(crate) fn take_moderated(&mut self) -> bool {
        self.event_idx && self.is_interrupt_due()
    }

    /// Asks the driver not to kick, because the ring is polled.
    #[inline]
    pub(crate) fn disable_kicks(&mut self) {
        // A stale event index is passed once in 65536 chains; that kick does no harm.
        if !self.event_idx {
            self.set_flags(NO_NOTIFY);
        }
    }

    /// Asks the driver to kick when it makes another chain available than those known. Returns
    /// whether it did so meanwhile, in which case no kick comes.
    pub(crate) fn enable_kicks(&mut self) -> Result<bool, RingError> {
        let before = self.known;
        if self.event_idx {
            let event = self.indices.next_available.wrapping_add(self.known);
            self.map.set_available_event(event);
        } else {
            self.set_flags(0);
        }
        // The event index is visible before the driver's index is read again.
        fence(Ordering::SeqCst);
        Ok(self.available(self.size())? > before)
    }

    /// Stores the flags only if they change: they share a cache line with the index that the driver
    /// polls.
    fn set_flags(&mut self, flags: u16) {
        if self.indices.flags.replace(flags) != Some(flags) {
            self.map.set_used_flags(flags);
        }
    }
}

/// A transmit ring for fault rules.
impl RawRing for SplitRing<'_> {
    fn size(&self) -> u32 {
        self.map.size().into()
    }

    fn hold(&mut self, written: &[u32], held: &mut Vec<UsedElement>) {
        for &length in written {
            if let Ok(head) = self.head(0) {
                let id = head.into();
                held.push(UsedElement { id, length });
                self.skip();
            }
        }
    }

    fn put_used(&mut self, UsedElement { id, length }: UsedElement) {
        self.put(id, length);
    }
}
