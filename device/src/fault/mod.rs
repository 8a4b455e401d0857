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

pub use command::CommandFault;
pub use completion::{CompletionFault, RawRing, UsedElement};
pub use frame::FrameFault;
pub use lane::{Effects, Hit, Lane};
pub use metadata::MetadataFault;
pub use placement::PlacementFault;
pub use port::PortFault;
pub use queue::{InterruptFault, QueueFault};
pub use rule::{Armed, Engine, Probability, Rule, RuleError, RuleId, RuleStatus, When};

/// Whose traffic a rule watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Frames that arrive at a receive queue of the port.
    Receive,
    /// Frames that a transmit queue of the port sends.
    Transmit,
    /// Commands of the driver.
    Command,
}

impl Direction {
    /// As rules name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Receive => "rx",
            Self::Transmit => "tx",
            Self::Command => "command",
        }
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// With the frame itself, as on a bad wire.
    Frame(FrameFault),
    /// With where the frame is put.
    Placement(PlacementFault),
    /// With what is told about the frame.
    Metadata(MetadataFault),
    /// With how the frame's chains are returned.
    Completion(CompletionFault),
    /// With the queue.
    Queue(QueueFault),
    /// With a command.
    Command(CommandFault),
    /// With the whole port.
    Port(PortFault),
}

/// An action as docs/faults.md lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActionInfo {
    /// As rules name it.
    pub name: &'static str,
    /// Directions in which it can be asked for.
    pub directions: &'static [Direction],
    /// It breaks the order of completions, or invents some: after it a backend that dies leaves rings with
    /// which its successor can't go on.
    pub voids_recovery: bool,
}

const BOTH: &[Direction] = &[Direction::Receive, Direction::Transmit];
const RECEIVE: &[Direction] = &[Direction::Receive];
const COMMAND: &[Direction] = &[Direction::Command];
const ANY: &[Direction] = &[Direction::Receive, Direction::Transmit, Direction::Command];

const fn info(
    name: &'static str,
    directions: &'static [Direction],
    voids_recovery: bool,
) -> ActionInfo {
    ActionInfo {
        name,
        directions,
        voids_recovery,
    }
}

/// Every action there is.
pub const ACTIONS: [ActionInfo; 25] = [
    info("drop", BOTH, false),
    info("duplicate", BOTH, false),
    info("delay", BOTH, false),
    info("reorder", BOTH, false),
    info("corrupt", BOTH, false),
    info("truncate", BOTH, false),
    info("short-buffer", RECEIVE, false),
    info("split-missed", RECEIVE, false),
    info("split-wrong", RECEIVE, false),
    info("payload-in-header", RECEIVE, false),
    info("wrong-queue", RECEIVE, false),
    info("wrong-hash", RECEIVE, false),
    info("wrong-checksum", RECEIVE, false),
    info("descriptor-error", BOTH, false),
    info("bad-used-id", BOTH, true),
    info("duplicate-completion", BOTH, true),
    info("withhold-completion", BOTH, true),
    info("stall", BOTH, false),
    info("lost-interrupt", BOTH, false),
    info("spurious-interrupt", BOTH, false),
    info("command-error", COMMAND, false),
    info("command-timeout", COMMAND, true),
    info("link-flap", ANY, false),
    info("device-reset", ANY, false),
    info("disconnect", ANY, false),
];

impl Action {
    /// As rules name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Frame(FrameFault::Drop) => "drop",
            Self::Frame(FrameFault::Duplicate { .. }) => "duplicate",
            Self::Frame(FrameFault::Delay { .. }) => "delay",
            Self::Frame(FrameFault::Reorder { .. }) => "reorder",
            Self::Frame(FrameFault::Corrupt { .. }) => "corrupt",
            Self::Frame(FrameFault::Truncate { .. }) => "truncate",
            Self::Placement(PlacementFault::ShortBuffer { .. }) => "short-buffer",
            Self::Placement(PlacementFault::SplitMissed) => "split-missed",
            Self::Placement(PlacementFault::SplitWrong { .. }) => "split-wrong",
            Self::Placement(PlacementFault::PayloadInHeader) => "payload-in-header",
            Self::Placement(PlacementFault::WrongQueue { .. }) => "wrong-queue",
            Self::Metadata(MetadataFault::WrongHash { .. }) => "wrong-hash",
            Self::Metadata(MetadataFault::WrongChecksum { .. }) => "wrong-checksum",
            Self::Completion(CompletionFault::DescriptorError) => "descriptor-error",
            Self::Completion(CompletionFault::BadUsedId { .. }) => "bad-used-id",
            Self::Completion(CompletionFault::Duplicate) => "duplicate-completion",
            Self::Completion(CompletionFault::Withhold { .. }) => "withhold-completion",
            Self::Queue(QueueFault::Stall { .. }) => "stall",
            Self::Queue(QueueFault::Interrupt(InterruptFault::Lost)) => "lost-interrupt",
            Self::Queue(QueueFault::Interrupt(InterruptFault::Spurious)) => "spurious-interrupt",
            Self::Command(CommandFault::Error { .. }) => "command-error",
            Self::Command(CommandFault::Timeout { .. }) => "command-timeout",
            Self::Port(PortFault::LinkFlap { .. }) => "link-flap",
            Self::Port(PortFault::DeviceReset) => "device-reset",
            Self::Port(PortFault::Disconnect) => "disconnect",
        }
    }

    /// What docs/faults.md lists of it.
    #[must_use]
    pub fn info(self) -> ActionInfo {
        let found = ACTIONS.iter().find(|info| info.name == self.name());
        found.copied().unwrap_or(info(self.name(), &[], false))
    }
}
