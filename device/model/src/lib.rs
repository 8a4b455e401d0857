//! A driver in Rust that drives the device through real rings, for tests.
//!
//! [`Driver`] is to the device what the kernel's driver is, but stricter: it checks each result
//! against docs/abi.md and panics with the violation. It reaches a device through a [`Transport`]:
//! [`in_process`] runs the device behind real rings without threads, to completion whenever the
//! driver waits; `vhost_user` is a frontend to a backend in another process.
//!
//! ```
//! use zcnic_model::{Shape, frames::broadcast, in_process::cabled};
//!
//! let [mut sender, mut receiver] = cabled(2);
//! sender.bring_up(Shape::SPLIT, 0);
//! receiver.bring_up(Shape::SPLIT, 1);
//! sender.send(0, broadcast(b"hello"));
//! assert_eq!(&receiver.receive(0).frame[14..], b"hello");
//! ```

pub mod driver;
pub mod frames;
pub mod guest;
pub mod in_process;
pub mod receive;
pub mod ring;
pub mod steps;
pub mod suite;
pub mod transmit;
pub mod verify;
#[cfg(feature = "vhost-user")]
pub mod vhost_user;

pub use driver::{Driver, Failure, Transport};
pub use receive::{Received, Shape};
pub use transmit::Packet;
