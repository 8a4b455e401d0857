//! The JSON messages between the host (`cargo xtask`) and `zcnic-guest`, the program in the guest.
//!
//! Both ends use these types, so that a message that changes stops compiling at the end that was
//! forgotten. There are four channels:
//!
//! * The virtio-serial port of the guest's agent: [`agent::Request`] to the guest,
//!   [`agent::Reply`] to the host.
//! * Standard output of a program that runs for a while: [`event::Event`], the last of which is
//!   its result.
//! * Standard output of a program that answers once, as one line: [`selftest::SelftestResults`],
//!   [`check::CheckResult`], [`interface::FlowSteering`], [`interface::Snapshot`], an array of
//!   [`interface::PortSetup`], or several lines of [`figure::Figure`].
//! * Standard input and output of `zcnic-guest soak`: [`soak::Operation`] to the guest, an
//!   [`event::Event`] with [`soak::OperationEnd`] to the host.
//!
//! Every message is one line of JSON. Keys come in the order of the fields here.

#![forbid(unsafe_code)]

pub mod agent;
pub mod check;
pub mod event;
pub mod figure;
pub mod interface;
pub mod selftest;
pub mod soak;
