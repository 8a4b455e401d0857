//! Attacks on the backend: each test is one, by a frontend, a guest, or a control client.
//!
//! [`attack`](common::attacked::attack) runs each against a daemon of its own that also serves an
//! honest pair of ports, and asserts that the daemon and this pair did not suffer.

#[path = "../common/mod.rs"]
mod common;

mod chains;
mod flips;
mod memory;
mod messages;
mod rings;
