//! Programs whose result is a verdict on the kernel: the gate after each test, and the selftests.

pub mod gate;
pub mod kselftest;
pub mod ktap;
