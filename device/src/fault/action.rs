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

/// Declares [`ACTIONS`] and [`Action::info`] from one list: an action's pattern, its name, its
/// directions, and whether it voids recovery.
macro_rules! actions {
    ($($kind:ident($fault:pat) => $name:literal, $directions:ident, $voids_recovery:literal;)+) => {
        /// All actions.
        pub const ACTIONS: [ActionInfo; [$($name),+].len()] = [$(
            ActionInfo {
                name: $name,
                directions: $directions,
                voids_recovery: $voids_recovery,
            },
        )+];

        impl Action {
            /// The action's entry in docs/faults.md.
            #[must_use]
            pub const fn info(self) -> ActionInfo {
                match self {
                    $(Self::$kind($fault) => ActionInfo {
                        name: $name,
                        directions: $directions,
                        voids_recovery: $voids_recovery,
                    },)+
                }
            }
        }
    };
}

actions! {
    Frame(FrameFault::Drop) => "drop", BOTH, false;
    Frame(FrameFault::Duplicate { .. }) => "duplicate", BOTH, false;
    Frame(FrameFault::Delay { .. }) => "delay", BOTH, false;
    Frame(FrameFault::Reorder { .. }) => "reorder", BOTH, false;
    Frame(FrameFault::Corrupt { .. }) => "corrupt", BOTH, false;
    Frame(FrameFault::Truncate { .. }) => "truncate", BOTH, false;
    Placement(PlacementFault::ShortBuffer { .. }) => "short-buffer", RECEIVE, false;
    Placement(PlacementFault::SplitMissed) => "split-missed", RECEIVE, false;
    Placement(PlacementFault::SplitWrong { .. }) => "split-wrong", RECEIVE, false;
    Placement(PlacementFault::PayloadInHeader) => "payload-in-header", RECEIVE, false;
    Placement(PlacementFault::WrongQueue { .. }) => "wrong-queue", RECEIVE, false;
    Metadata(MetadataFault::WrongHash { .. }) => "wrong-hash", RECEIVE, false;
    Metadata(MetadataFault::WrongChecksum { .. }) => "wrong-checksum", RECEIVE, false;
    Completion(CompletionFault::DescriptorError) => "descriptor-error", BOTH, false;
    Completion(CompletionFault::BadUsedId { .. }) => "bad-used-id", BOTH, true;
    Completion(CompletionFault::Duplicate) => "duplicate-completion", BOTH, true;
    Completion(CompletionFault::Withhold { .. }) => "withhold-completion", BOTH, true;
    Queue(QueueFault::Stall { .. }) => "stall", BOTH, false;
    Queue(QueueFault::Interrupt(InterruptFault::Lost)) => "lost-interrupt", BOTH, false;
    Queue(QueueFault::Interrupt(InterruptFault::Spurious)) => "spurious-interrupt", BOTH, false;
    Command(CommandFault::Error { .. }) => "command-error", COMMAND, false;
    Command(CommandFault::Timeout { .. }) => "command-timeout", COMMAND, true;
    Port(PortFault::LinkFlap { .. }) => "link-flap", ANY, false;
    Port(PortFault::DeviceReset) => "device-reset", ANY, false;
    Port(PortFault::Disconnect) => "disconnect", ANY, false;
}

impl Action {
    /// The name in rules.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.info().name
    }
}
