//! Faults on demand and the ledger, over a real backend: the control socket on one side, a strict
//! driver on the other.

#[path = "../common/mod.rs"]
mod common;
mod frames;
mod lab;
mod ledger;
mod port;
mod rings;
