//! The actions of fault rules, and the traffic that a rule applies to.

use super::{
    command::CommandFault,
    completion::CompletionFault,
    frame::FrameFault,
    metadata::MetadataFault,
    placement::PlacementFault,
    port::PortFault,
    queue::{InterruptFault, QueueFault},
};

/// The traffic that a rule applies to.
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
    /// The name in rules.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Receive => "rx",
            Self::Transmit => "tx",
            Self::Command => "command",
        }
    }
}

/// The action of a fault rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// On the frame itself, as on a bad wire.
    Frame(FrameFault),
    /// On the placement of the frame.
    Placement(PlacementFault),
    /// On the metadata of the frame.
    Metadata(MetadataFault),
    /// On the completion of the frame's chains.
    Completion(CompletionFault),
    /// On the queue.
    Queue(QueueFault),
    /// On a command.
    Command(CommandFault),
    /// On the whole port.
    Port(PortFault),
}

/// An action as docs/faults.md lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActionInfo {
    /// The name in rules.
    pub name: &'static str,
    /// Directions that the action can be used in.
    pub directions: &'static [Direction],
    /// It breaks the order of completions, or adds some: a backend that dies after it leaves rings
    /// that its successor can't resume.
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

/// All actions.
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
    /// The name in rules.
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

    /// The action's entry in docs/faults.md.
    #[must_use]
    pub fn info(self) -> ActionInfo {
        let found = ACTIONS.iter().find(|info| info.name == self.name());
        found.copied().unwrap_or(info(self.name(), &[], false))
    }
}
