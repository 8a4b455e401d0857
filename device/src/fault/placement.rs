//! Faults of a received frame's placement.

/// The fault of a frame's placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlacementFault {
    /// The used length of the frame's last chain is this much shorter than in its receive header.
    ShortBuffer {
        /// Missing bytes; the used length is at least 1.
        bytes: u32,
    },
    /// On a split queue: the whole frame goes to payload buffers, and no header fragment is used.
    SplitMissed,
    /// On a split queue: the frame is split at `at`.
    SplitWrong {
        /// Offset from the start of the frame; bytes that do not fit the header fragment go to the
        /// payload.
        at: u32,
    },
    /// On a split queue: payload follows the headers until the header fragment is full.
    PayloadInHeader,
    /// The frame goes to another queue than steering chose.
    WrongQueue {
        /// The queue.
        queue: u16,
    },
}
