//! A driver in Rust that drives the device through real rings, for tests.
