//! Faults on demand: what no silicon does when asked.
//!
//! A [`Rule`] says on which frame (or command) of which queue what goes wrong. The rules of a port are an
//! [`Engine`]; the data path gets those of one direction as [`Armed`], once per batch and only if there are
//! any. What rules count and what they hold back lives in one [`Lane`] per direction and queue, under the
//! lock of that queue's ring.
//!
//! **Replay.** A rule counts the frames that it applies to, per lane, and whatever is left to chance is a
//! hash of (seed, stream, direction, queue, count) ([`draw`]). Nothing depends on how lanes interleave, so
//! that the same frames in the same order on a queue meet the same faults, however many workers there are.
//!
//! **Ownership.** Frames that are held back, and those whose bytes change, are copies. Returns that are held
//! back are descriptor numbers. Neither outlives a stop of its queue ([`Lane::stop`]).
//!
//! docs/faults.md explains each action to those who use it.

pub mod action;
pub mod command;
pub mod completion;
pub mod draw;
pub mod frame;
pub mod lane;
pub mod metadata;
pub mod placement;
pub mod port;
pub mod queue;
pub mod receive;
pub mod rule;
pub mod transmit;

#[cfg(test)]
mod tests;

pub use action::{ACTIONS, Action, ActionInfo, Direction};
pub use command::CommandFault;
pub use completion::{CompletionFault, RawRing, UsedElement};
pub use frame::FrameFault;
pub use lane::{Effects, Hit, Lane};
pub use metadata::MetadataFault;
pub use placement::PlacementFault;
pub use port::PortFault;
pub use queue::{InterruptFault, QueueFault};
pub use rule::{Armed, Engine, Probability, Rule, RuleError, RuleId, RuleStatus, When};
