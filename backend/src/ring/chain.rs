//! From a head to the memory that its descriptor chain names.

use std::ops::Range;

use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};

use super::{
    RingError,
    split::{Descriptor, SplitRing},
};

/// The most descriptors of one chain, indirect ones included. QEMU's own devices take no longer ones
/// (`VIRTQUEUE_MAX_SIZE`), and Linux makes none.
const MAX_DESCRIPTORS: usize = 1024;

/// The most bytes of one chain; the largest meaningful one is a command of 64 KiB with its response.
const MAX_BYTES: usize = 1 << 20;

/// Why a chain can only be returned unused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum ChainError {
    #[error("Chain loops or has more than {MAX_DESCRIPTORS} descriptors")]
    TooManyDescriptors,
    #[error("Chain of more than {MAX_BYTES} bytes")]
    TooLong,
    #[error("Chain goes on at descriptor {0}, which is not in its table")]
    Next(u16),
    #[error("Descriptor has no bytes")]
    Empty,
    #[error("Descriptor of {length} bytes at {address:#x} is not in guest memory")]
    Outside { address: u64, length: u32 },
    #[error("Device-readable descriptor behind a device-writable one")]
    Order,
    #[error("Indirect table of {0} bytes, or in an indirect table, or not at the end of a chain")]
    Indirect(u32),
}

impl From<RingError> for ChainError {
    fn from(_: RingError) -> Self {
        // Tables were checked to be in memory: an access to them can only fail if that is gone.
        Self::Outside {
            address: 0,
            length: 0,
        }
    }
}

/// One chain, as ranges of the slices that [`walk`] appended.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    /// Device-readable parts; a descriptor that spans regions of guest memory has several.
    pub(crate) readable: Range<usize>,
    /// Device-writable parts, one per descriptor.
    pub(crate) writable: Range<usize>,
}

/// Follows the chain that starts at `head` and appends its memory to `slices`. On an error `slices` is as
/// before.
pub(crate) fn walk<'m>(
    ring: &SplitRing<'_, 'm>,
    head: u16,
    slices: &mut Vec<VolatileSlice<'m>>,
) -> Result<Chain, ChainError> {
    let start = slices.len();
    let mut walk = Walk {
        ring,
        slices,
        writable: None,
        descriptors: 0,
        bytes: 0,
    };
    match walk.table(&ring.descriptors, ring.size(), head, true) {
        Ok(()) => {
            let end = walk.slices.len();
            let middle = walk.writable.unwrap_or(end);
            Ok(Chain {
                readable: start..middle,
                writable: middle..end,
            })
        }
        Err(error) => {
            slices.truncate(start);
            Err(error)
        }
    }
}

struct Walk<'w, 'r, 'm> {
    ring: &'w SplitRing<'r, 'm>,
    slices: &'w mut Vec<VolatileSlice<'m>>,
    /// Where in `slices` the device-writable part starts.
    writable: Option<usize>,
    descriptors: usize,
    bytes: usize,
}

impl<'m> Walk<'_, '_, 'm> {
    fn table(
        &mut self,
        table: &VolatileSlice<'m>,
        entries: u16,
        first: u16,
        may_be_indirect: bool,
    ) -> Result<(), ChainError> {
        let mut index = first;
        loop {
            if index >= entries {
                return Err(ChainError::Next(index));
            }
            // A loop visits some descriptor twice, so it exceeds this sooner or later.
            self.descriptors += 1;
            if self.descriptors > MAX_DESCRIPTORS {
                return Err(ChainError::TooManyDescriptors);
            }
            let descriptor = Descriptor::read(table, index)?;
            let more = descriptor.flags & Descriptor::NEXT != 0;
            if descriptor.flags & Descriptor::INDIRECT != 0 {
                if !may_be_indirect || more {
                    return Err(ChainError::Indirect(descriptor.length));
                }
                return self.indirect(descriptor);
            }
            self.push(descriptor)?;
            if !more {
                return Ok(());
            }
            index = descriptor.next;
        }
    }

    fn indirect(&mut self, descriptor: Descriptor) -> Result<(), ChainError> {
        let Descriptor {
            address, length, ..
        } = descriptor;
        let entries = length / 16;
        if !length.is_multiple_of(16) || entries == 0 || entries as usize > MAX_DESCRIPTORS {
            return Err(ChainError::Indirect(length));
        }
        let table = self
            .ring
            .memory
            .get_slice(GuestAddress(address), length as usize)
            .map_err(|_| ChainError::Outside { address, length })?;
        self.table(&table, entries as u16, 0, false)
    }

    fn push(&mut self, descriptor: Descriptor) -> Result<(), ChainError> {
        let Descriptor {
            address,
            length,
            flags,
            ..
        } = descriptor;
        let outside = ChainError::Outside { address, length };
        if length == 0 {
            return Err(ChainError::Empty);
        }
        self.bytes += length as usize;
        if self.bytes > MAX_BYTES {
            return Err(ChainError::TooLong);
        }
        let address = GuestAddress(address);
        if flags & Descriptor::WRITE != 0 {
            self.writable.get_or_insert(self.slices.len());
            // One descriptor is one place to the device, which matters for its shape. A buffer that
            // lies across two regions of guest memory is nothing that a driver allocates.
            let slice = self
                .ring
                .memory
                .get_slice(address, length as usize)
                .map_err(|_| outside)?;
            self.slices.push(slice);
        } else if self.writable.is_some() {
            return Err(ChainError::Order);
        } else {
            for slice in self.ring.memory.get_slices(address, length as usize) {
                self.slices.push(slice.map_err(|_| outside)?);
            }
        }
        Ok(())
    }
}
