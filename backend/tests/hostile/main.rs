//! Attacks on the backend: each test is one, by a frontend, a guest, or a control client.
//!
//! [`attack`](attacked::attack) runs each against a daemon of its own that also serves an honest
//! pair of ports, and asserts that the daemon and this pair did not suffer.

mod attacked;
mod chains;
mod commands;
mod control;
mod faults;
mod flips;
mod flood;
mod memory;
mod messages;
mod neighbour;
mod raw;
mod rings;
mod usage;
