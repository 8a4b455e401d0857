//! Faults of where a received frame is put.

/// How a frame is misplaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlacementFault {
    /// The used length of the frame's last chain is this much shorter than its receive header says.
    ShortBuffer {
        /// Bytes; the used length is at least 1.
        bytes: u32,
    },
    /// On a queue that splits: the whole frame goes to payload buffers and no header fragment is used.
    SplitMissed,
    /// On a queue that splits: the frame is split, but there.
    SplitWrong {
        /// Offset from the start of the frame; what does not fit the header fragment goes to the payload.
        at: u32,
    },
    /// On a queue that splits: payload follows the headers until the header fragment is full.
    PayloadInHeader,
    /// The frame goes to another queue than steering said.
    WrongQueue {
        /// Which one.
        queue: u16,
    },
}
