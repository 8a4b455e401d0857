//! What a guest is made of, downloaded or built and kept in the cache.

pub mod archive;
pub mod bootstrap;
pub mod buildroot;
pub mod cache;
pub mod driver;
pub mod host;
pub mod initrd;
pub mod linux;
pub mod qemu;
pub mod rootfs;
pub mod selftests;
