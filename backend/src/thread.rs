//! Starting and pinning threads.

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::Sender,
    thread::{self, JoinHandle},
};

use rustix::thread::{CpuSet, sched_setaffinity};

/// Pins the calling thread to `cpu`.
pub(crate) fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set)
        .map_err(|errno| io::Error::other(format!("Can't run on CPU {cpu}: {errno}")))
}

/// Starts a thread called `name`. If `body` fails or panics, a message is sent over `failures`.
pub(crate) fn spawn(
    name: String,
    failures: &Sender<String>,
    body: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let failures = failures.clone();
    thread::Builder::new().name(name.clone()).spawn(move || {
        let why = match catch_unwind(AssertUnwindSafe(body)) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => message(&*panic).to_owned(),
        };
        // Without a receiver the process is about to end.
        let _ = failures.send(format!("Thread {name} failed: {why}"));
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("panic")
}
