//! Our layer on the io-uring crate for zero-copy receive: what the crate has no helpers for (the
//! refill ring, areas, 7.x uapi), typed, with errors that say what to do.

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
