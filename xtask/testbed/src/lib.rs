//! Guests with zcnic ports: everything that they are made of, how they boot, and commands in them.
//!
//! [`setup::Setup`] downloads and builds a kernel, a root file system, the driver, the backend and,
//! where the host's is too old, QEMU, and keeps them in a cache below `~/.cache/zcnic`. It then
//! boots any number of guests. A [`guest::Guest`] runs commands, counts frames at the device,
//! exchanges its backend and checks its kernel's log. None of this needs root, but for installing
//! missing packages of the host.
//!
//! The crate belongs to the workspace: it compiles the backend, the driver and `zcnic-guest` from
//! the sources around it.
//!
//! # Example
//!
//! ```no_run
//! use zcnic_testbed::{
//!     agent::Exec,
//!     backend::Cable,
//!     sandbox,
//!     setup::{GuestArgs, Setup},
//!     stream::Stream,
//! };
//!
//! # fn main() -> anyhow::Result<()> {
//! sandbox::clean_up_on_signals()?;
//! let setup = Setup::for_zero_copy(&GuestArgs::default())?;
//! let mut guest = setup.boot(&setup.machine(), Cable::Drop)?;
//! // eth0, and eth1 in the network namespace `peer`.
//! guest.bring_up(setup.driver())?;
//! print!("{}", guest.check(&Exec::new(["ethtool", "-g", "eth0"]))?);
//!
//! // A TCP stream from eth1 to eth0, received by io_uring zero-copy receive.
//! let streamed = Stream::default().run(&mut guest)?;
//! assert_eq!(streamed.bytes_copied, Some(0));
//!
//! // Fails if the kernel has complained or buffers are missing.
//! guest.finish()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Layers
//!
//! Imports run downwards: [`progress`], [`step`], [`kernel_report`], [`provision::host`], [`paths`],
//! [`process`], [`qmp`], [`acceleration`], [`agent`] and [`watch`] at the bottom; then [`provision`]
//! and [`symbols`]; [`control`] and [`sandbox`]; [`share`]; [`machine`] and [`diagnosis`];
//! [`options`]; [`backend`]; [`guest`]; [`stream`] and [`violations`]; [`setup`]; [`topology`];
//! [`lab`].

#![forbid(unsafe_code)]

pub mod acceleration;
pub mod agent;
pub mod backend;
pub mod control;
pub mod diagnosis;
pub mod guest;
pub mod kernel_report;
pub mod lab;
pub mod machine;
pub mod options;
pub mod paths;
pub mod process;
pub mod progress;
pub mod provision;
pub mod qmp;
pub mod sandbox;
pub mod setup;
pub mod share;
pub mod step;
pub mod stream;
pub mod symbols;
pub mod topology;
pub mod violations;
pub mod watch;
