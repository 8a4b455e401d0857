//! Locking, and the types of the standard library that `backend/loom` has its own of: it compiles
//! some files of this crate for a model checker.
//!
//! Folder order is lock order: a thread that holds a lock of one layer takes further locks only of
//! the same layer's later ones, as its module head says, or of layers below it (see lib.rs).

pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard, PoisonError,
    atomic::{Ordering, fence},
};

/// Locks `mutex`, poisoned or not: a panic in another thread ends the process in an orderly way,
/// which poisoning must not hinder.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
