//! The NIC itself: steering, header/data split, offloads, queues and the control plane, without IO.
//! A caller supplies rings and memory ([`memory`]), the time, and random numbers.

#![forbid(unsafe_code)]

pub mod abi;
pub mod budget;
pub mod checksum;
pub mod clock;
pub mod command;
pub mod fault;
pub mod features;
pub mod filter;
pub mod flow;
pub mod frame;
mod gro;
pub mod ledger;
pub mod limits;
pub mod memory;
pub mod port;
pub mod receive;
pub mod rss;
pub mod rules;
pub mod steering;
pub mod train;
pub mod transmit;

#[cfg(test)]
mod testing;
