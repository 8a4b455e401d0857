//! The backend's synchronisation under [loom](https://docs.rs/loom), which runs a model in every
//! order of its threads' steps, and lets each load return every value that the memory model allows.
//!
//! The code is the backend's own: `ring/split.rs` and `timer.rs` are compiled here a second time,
//! with loom's types in `sync`. Only the words of a ring in guest memory are another
//! implementation, because loom's atomics can't lie in foreign memory. The driver's side is what
//! Linux does (`drivers/virtio/virtio_ring.c`).

#![allow(dead_code, reason = "a model uses a part of each file")]

#[path = "../../src/index.rs"]
mod index;
pub mod interrupts;
pub mod jobs;
pub mod kicks;
mod ring;
pub mod stop;
mod sync;
#[path = "../../src/timer.rs"]
mod timer;

/// The part of the backend's module that `index` uses.
mod config {
    pub(crate) use zcnic_backend::MAX_PAIRS;
}
