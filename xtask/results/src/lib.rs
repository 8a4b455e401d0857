//! Test results, and the formats in which others read them.

#![forbid(unsafe_code)]

pub mod junit;
pub mod ktap;
pub mod netdev_ci;
pub mod program;
pub mod report;
