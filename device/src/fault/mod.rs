//! Fault injection: rules that make the device misbehave on demand, as no silicon does.
//!
//! A [`Rule`] names frames (or commands) of a queue and the action on them. The rules of a port are
//! an [`Engine`]; the data path gets the rules of one direction as [`Armed`], once per batch and
//! only if there are any. One [`Lane`] per direction and queue keeps counts, held frames and
//! withheld chains, under the lock of that queue's ring.
//!
//! **Replay.** A rule counts the frames that it applies to, per lane. Every random choice is a hash
//! of (seed, stream, direction, queue, count) ([`draw`]). Nothing depends on how lanes interleave:
//! the same frames in the same order on a queue meet the same faults, with any number of workers.
//!
//! **Bounds.** All frames that rules of a port copy share a [budget](crate::budget), and the frames that they
//! make in a batch, the hits that it lists and the frames that a lane holds are limited. Beyond a
//! limit frames are dropped, and [counted](Lane::limit_dropped).
//!
//! **Ownership.** Held frames and frames with changed bytes are copies. Withheld chains are
//! descriptor numbers. Neither outlives a stop of its queue ([`Lane::stop`]).
//!
//! docs/faults.md explains each action to users.

pub mod action;
pub mod command;
pub mod completion;
pub mod draw;
pub mod frame;
pub mod lane;
pub mod metadata;
pub mod owned;
pub mod placement;
pub mod port;
pub mod queue;
pub mod receive;
pub mod rule;
pub mod transmit;
mod waiting;

#[cfg(test)]
mod tests;

pub use action::{ACTIONS, Action, ActionInfo, Direction};
pub use command::CommandFault;
pub use completion::{CompletionFault, RawRing, UsedElement};
pub use frame::FrameFault;
pub use lane::{Effects, Hit, Lane};
pub use metadata::MetadataFault;
pub use owned::{OwnedFrame, Touch};
pub use placement::PlacementFault;
pub use port::PortFault;
pub use queue::{InterruptFault, QueueFault};
pub use rule::{Armed, Engine, Probability, Rule, RuleError, RuleId, RuleStatus, When};
