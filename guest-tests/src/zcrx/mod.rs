//! Our layer on the io-uring crate for zero-copy receive: what the crate has no helpers for (the
//! refill ring, areas, 7.x uapi), typed, with errors that say what to do.

mod area;
mod refill;
mod ring;
pub mod sys;

pub use area::Area;
pub use refill::RefillRing;
pub use ring::{Buffer, Completion, Error, Kind, NOTIFICATION, Options, Target, Zcrx};
