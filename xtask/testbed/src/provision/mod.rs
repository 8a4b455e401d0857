//! The parts of a guest, downloaded or built and kept in the cache.
//!
//! Each part has a function that returns its cache entry and makes it first if there is none.

pub mod archive;
pub mod bootstrap;
pub mod buildroot;
pub mod cache;
pub mod driver;
pub mod driver_checks;
pub mod host;
pub mod initrd;
pub mod linux;
pub mod programs;
pub mod qemu;
pub mod recipes;
pub mod rootfs;
pub mod selftests;
pub mod stored;
