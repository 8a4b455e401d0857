//! Suites: programs in the guest that have cases of their own.

pub mod compare;
pub mod faults;
pub mod features;
pub mod scenarios;
