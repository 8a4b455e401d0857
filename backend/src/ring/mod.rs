//! Split virtqueues (virtio 1.3, 2.7) in guest memory, which is not trusted.
//!
//! Guest memory is accessed only through `raw`, which checks a ring's parts when the ring starts
//! and a buffer when its chain is walked. Everything that it hands out borrows the mapping that the
//! ring's lock protects, so that nothing outlives the lock.
//!
//! Chains are taken and returned strictly in the order in which the driver made them available:
//! after a crash of the backend the frontend resumes at the used index, and any other order would
//! break the ring.

pub(crate) mod chain;
mod copy;
pub(crate) mod ledger;
pub(crate) mod mover;
pub(crate) mod prefetch;
pub(crate) mod raw;
pub(crate) mod receive;
pub(crate) mod split;
mod state;
pub(crate) mod transport;
pub(crate) mod window;

#[cfg(test)]
mod tests;

pub(crate) use self::state::{Indices, Part, RingError, Setup};

/// An empty vector that reuses the allocation of `used`. The element types differ in nothing but
/// lifetimes.
pub(crate) fn recycle<T, U>(mut used: Vec<T>) -> Vec<U> {
    used.clear();
    // Collected in place, because the elements have the same layout.
    used.into_iter().map(|_| unreachable!()).collect()
}
