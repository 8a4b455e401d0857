//! Suites: programs in the guest that run many cases.

pub mod compare;
pub mod edges;
pub mod faults;
pub mod features;
pub mod scenarios;
pub mod soak;
