//! What runs inside the guest: init, zero-copy receive scenarios, selftest runner.

fn main() {}
