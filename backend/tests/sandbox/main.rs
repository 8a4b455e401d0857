//! The sandbox: what a process in it can't do, and that everything else it does works.
//!
//! All other tests run their backends in it as well (common/mod.rs).

#[path = "../common/mod.rs"]
mod common;

mod attempts;
mod attributes;
mod inside;
mod kernels;
mod trace;
