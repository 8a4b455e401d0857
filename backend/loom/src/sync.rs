//! loom's types in place of those of the standard library, and its runner.

pub(crate) use std::sync::PoisonError;

pub(crate) use loom::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{Ordering, fence},
};

/// As the backend's.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The most switches of threads where none has to wait. Nearly all faults of concurrent code show with
/// two (the documentation of loom), and each more makes a model take several times as long.
const SWITCHES: usize = 3;

/// Runs `threads` in every order of its steps with at most [`SWITCHES`].
pub(crate) fn explore(threads: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(SWITCHES);
    model.check(threads);
}
