//! Access to one split ring while its lock is held.

use std::sync::atomic::{Ordering, fence};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

use super::{Indices, RingError, Setup};
use crate::memory::GuestMemory;

const DESCRIPTOR: usize = 16;
const USED_ELEMENT: usize = 8;

/// `VIRTQ_AVAIL_F_NO_INTERRUPT`.
const NO_INTERRUPT: u16 = 1;
/// `VIRTQ_USED_F_NO_NOTIFY`.
const NO_NOTIFY: u16 = 1;

/// A descriptor as the driver wrote it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub(crate) address: u64,
    pub(crate) length: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

impl Descriptor {
    pub(crate) const NEXT: u16 = 1;
    pub(crate) const WRITE: u16 = 2;
    pub(crate) const INDIRECT: u16 = 4;

    /// Reads entry `index` of a table.
    pub(crate) fn read(table: &VolatileSlice<'_>, index: u16) -> Result<Self, RingError> {
        let mut bytes = [0; DESCRIPTOR];
        table
            .read_slice(&mut bytes, usize::from(index) * DESCRIPTOR)
            .map_err(|_| RingError::Access)?;
        let [
            a0,
            a1,
            a2,
            a3,
            a4,
            a5,
            a6,
            a7,
            l0,
            l1,
            l2,
            l3,
            f0,
            f1,
            n0,
            n1,
        ] = bytes;
        Ok(Self {
            address: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            length: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        })
    }
}

/// A ring whose parts were found in guest memory.
pub(crate) struct SplitRing<'r, 'm> {
    pub(crate) memory: &'m GuestMemory,
    pub(crate) descriptors: VolatileSlice<'m>,
    available: VolatileSlice<'m>,
    used: VolatileSlice<'m>,
    size: u16,
    event_idx: bool,
    /// Chains known to be available.
    known: u16,
    indices: &'r mut Indices,
}

impl<'r, 'm> SplitRing<'r, 'm> {
    /// Finds the ring's parts.
    pub(crate) fn new(
        setup: &Setup,
        memory: &'m GuestMemory,
        indices: &'r mut Indices,
    ) -> Result<Self, RingError> {
        let &Setup {
            size, event_idx, ..
        } = setup;
        if !size.is_power_of_two() || size > 1 << 15 {
            return Err(RingError::Size(size));
        }
        let part = |part, address: u64, length, alignment| {
            let outside = RingError::Outside { part, address };
            let slice = memory
                .get_slice(GuestAddress(address), length)
                .map_err(|_| outside)?;
            // The host's address counts: that is where the atomic accesses happen.
            if (slice.ptr_guard().as_ptr() as usize).is_multiple_of(alignment) {
                Ok(slice)
            } else {
                Err(RingError::Misaligned { part, address })
            }
        };
        let entries = usize::from(size);
        Ok(Self {
            memory,
            descriptors: part(
                "Descriptor table",
                setup.descriptors,
                entries * DESCRIPTOR,
                16,
            )?,
            // Flags, index, entries, event.
            available: part("Available ring", setup.available, 6 + 2 * entries, 2)?,
            used: part("Used ring", setup.used, 6 + USED_ELEMENT * entries, 4)?,
            size,
            event_idx,
            known: 0,
            indices,
        })
    }

    /// Descriptors in the ring.
    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// Chains that the driver made available and that were not taken. Looks again only if fewer than
    /// `enough` are known.
    pub(crate) fn available(&mut self, enough: u16) -> Result<u16, RingError> {
        if self.known < enough {
            // Acquire: the entries up to the index are read after it.
            let index = load16(&self.available, 2, Ordering::Acquire)?;
            let available = index.wrapping_sub(self.indices.next_available);
            if available > self.size {
                return Err(RingError::AvailableIndex {
                    available,
                    size: self.size,
                });
            }
            self.known = available;
        }
        Ok(self.known)
    }

    /// First descriptor of the chain that is `ahead` of the next one, among those available.
    pub(crate) fn head(&self, ahead: u16) -> Result<u16, RingError> {
        let entry = self.indices.next_available.wrapping_add(ahead) & (self.size - 1);
        let head = load16(
            &self.available,
            4 + 2 * usize::from(entry),
            Ordering::Relaxed,
        )?;
        if head < self.size {
            Ok(head)
        } else {
            Err(RingError::Head {
                head,
                size: self.size,
            })
        }
    }

    /// Takes the next available chain, whose first descriptor is `head`, and returns it with `length`
    /// bytes written. The driver sees it after [`publish`](Self::publish).
    pub(crate) fn complete(&mut self, head: u16, length: u32) -> Result<(), RingError> {
        let entry = usize::from(self.indices.next_used & (self.size - 1));
        let mut element = [0; USED_ELEMENT];
        element[..4].copy_from_slice(&u32::from(head).to_le_bytes());
        element[4..].copy_from_slice(&length.to_le_bytes());
        self.used
            .write_slice(&element, 4 + USED_ELEMENT * entry)
            .map_err(|_| RingError::Access)?;
        self.indices.next_available = self.indices.next_available.wrapping_add(1);
        self.indices.next_used = self.indices.next_used.wrapping_add(1);
        self.known = self.known.saturating_sub(1);
        Ok(())
    }

    /// Shows the driver everything that was completed. Returns whether it wants an interrupt.
    pub(crate) fn publish(&mut self) -> Result<bool, RingError> {
        let new = self.indices.next_used;
        if new == self.indices.published {
            return Ok(false);
        }
        // Release: used elements and the bytes of the chains are visible before the index.
        self.used
            .store(new.to_le(), 2, Ordering::Release)
            .map_err(|_| RingError::Access)?;
        self.indices.published = new;
        // The driver stores its wish and then reads the index; this side the other way round. Without a
        // full barrier both could miss the other's store (virtio 1.3, 2.7.10).
        fence(Ordering::SeqCst);
        if !self.event_idx {
            return Ok(load16(&self.available, 0, Ordering::Relaxed)? & NO_INTERRUPT == 0);
        }
        let event = load16(
            &self.available,
            4 + 2 * usize::from(self.size),
            Ordering::Relaxed,
        )?;
        let wanted = match self.indices.signalled.replace(new) {
            // virtio 1.3, 2.7.7.2: was `event` passed since the last time?
            Some(old) => new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old),
            None => true,
        };
        Ok(wanted)
    }

    /// Asks the driver not to kick: somebody is looking anyway.
    pub(crate) fn disable_kicks(&mut self) -> Result<(), RingError> {
        if self.event_idx {
            // A stale event index is passed once in 65536 chains; that kick does no harm.
            return Ok(());
        }
        self.store_flags(NO_NOTIFY)
    }

    /// Asks the driver to kick when it makes another chain available than those known. Returns whether
    /// it did so meanwhile, so that no kick will come.
    pub(crate) fn enable_kicks(&mut self) -> Result<bool, RingError> {
        let before = self.known;
        if self.event_idx {
            let event = self.indices.next_available.wrapping_add(self.known);
            let offset = 4 + USED_ELEMENT * usize::from(self.size);
            self.used
                .store(event.to_le(), offset, Ordering::Relaxed)
                .map_err(|_| RingError::Access)?;
        } else {
            self.store_flags(0)?;
        }
        // The wish is visible before the index is looked at again.
        fence(Ordering::SeqCst);
        Ok(self.available(self.size)? > before)
    }

    fn store_flags(&mut self, flags: u16) -> Result<(), RingError> {
        self.used
            .store(flags.to_le(), 0, Ordering::Relaxed)
            .map_err(|_| RingError::Access)
    }
}

fn load16(slice: &VolatileSlice<'_>, offset: usize, order: Ordering) -> Result<u16, RingError> {
    slice
        .load::<u16>(offset, order)
        .map(u16::from_le)
        .map_err(|_| RingError::Access)
}
