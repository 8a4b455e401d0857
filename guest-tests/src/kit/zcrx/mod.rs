//! Zero-copy receive of io_uring: typed helpers that the io-uring crate lacks (the refill ring,
//! areas, the uapi of 7.x), with errors that name the remedy.

mod error;
mod instance;
mod options;
mod refill;
mod ring;
pub mod sys;

pub use crate::kit::memory::Area;
pub use error::Error;
pub use instance::Zcrx;
pub use options::{Buffer, Memory, Options, Target};
pub use refill::RefillRing;
pub use ring::{Completion, CompletionKind, NOTIFICATION, Ring};
