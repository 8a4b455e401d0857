//! Checks of the kernel: the gate after each test, and the kernel's selftests.

pub mod gate;
pub mod kselftest;
pub mod ktap;
