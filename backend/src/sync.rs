//! Locking.
//!
//! Folder order is lock order: a thread that holds a lock of one layer takes further locks only of
//! the same layer's later ones, as its module head says, or of layers below it (see lib.rs).

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`, poisoned or not: a panic in another thread ends the process in an orderly way,
/// which poisoning must not hinder.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
