//! Bindings to the kernel's interfaces that the programs in the guest use.

pub(crate) mod bpf;
pub mod devmem;
pub mod dmabuf;
pub mod genl;
pub mod link;
pub(crate) mod mapped;
pub mod memory;
pub mod net;
pub(crate) mod provided;
pub mod socket;
pub mod zcrx;
