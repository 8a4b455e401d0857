//! The zcnic backend.

fn main() {}
