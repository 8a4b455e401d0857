//! Split virtqueues (virtio 1.3, 2.7) in guest memory that nobody here trusts.
//!
//! Guest memory is reached only through `raw`, which checks where a ring is when it starts and where a buffer
//! is when its chain is walked. What it hands out borrows the mapping that the ring's lock protects, so that
//! none outlives the lock.
//!
//! Chains are taken and returned strictly in the order in which the driver made them available: after a
//! crash of the backend the frontend resumes at the used index, and anything else would break the ring.

pub(crate) mod chain;
mod copy;
pub(crate) mod ledger;
pub(crate) mod mover;
pub(crate) mod prefetch;
pub(crate) mod raw;
pub(crate) mod receive;
pub(crate) mod split;
pub(crate) mod transport;
pub(crate) mod window;

#[cfg(test)]
mod tests;

use std::io::ErrorKind;

use thiserror::Error;

/// Why a ring can't be used until it is set up anew.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum RingError {
    #[error("Ring size {0} is not a power of two between 1 and 32768")]
    Size(u16),
    #[error("{part} at {address:#x} is not wholly inside one region of guest memory")]
    Outside { part: &'static str, address: u64 },
    #[error("{part} at {address:#x} is not aligned")]
    Misaligned { part: &'static str, address: u64 },
    #[error("Driver made {available} chains available in a ring of {size}")]
    AvailableIndex { available: u16, size: u16 },
    #[error("Driver made descriptor {head} available in a ring of {size}")]
    Head { head: u16, size: u16 },
    /// The ring is served nevertheless whenever something else causes it.
    #[error("Its kick descriptor can't be waited for ({0})")]
    Kick(ErrorKind),
}

/// Where a ring is and how its sides notify each other. Addresses are guest-physical.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Setup {
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    /// VIRTIO_F_EVENT_IDX was negotiated.
    pub(crate) event_idx: bool,
}

/// How far the device is. All count modulo 2^16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Indices {
    /// The next entry of the available ring to take.
    pub(crate) next_available: u16,
    /// The next entry of the used ring to write.
    pub(crate) next_used: u16,
    /// The used index as the driver sees it.
    pub(crate) published: u16,
    /// The used index when the driver was last asked for attention; `None`: always ask next time.
    pub(crate) signalled: Option<u16>,
    /// The used flags as they were last stored; `None`: whatever whoever served the ring before left.
    pub(crate) flags: Option<u16>,
}

/// An empty vector with the memory of `used`, for elements that differ from its own in nothing but lifetimes.
pub(crate) fn recycle<T, U>(mut used: Vec<T>) -> Vec<U> {
    used.clear();
    // Collected in place, because the elements have the same layout.
    used.into_iter().map(|_| unreachable!()).collect()
}
