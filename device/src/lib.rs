//! The NIC itself: steering, split, offloads and queues, without IO.

#![forbid(unsafe_code)]

pub mod abi;
pub mod checksum;
pub mod frame;
pub mod memory;
