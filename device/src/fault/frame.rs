//! Faults of the frame itself.
//!
//! On transmit they happen on the wire: the receiver parses and steers what is left of the frame. On receive
//! they happen behind steering, in the NIC.

use std::num::NonZeroU32;

/// Frames shorter than an Ethernet header mean nothing to anybody.
pub const MIN_LENGTH: u32 = 14;

/// What happens to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameFault {
    /// It is lost.
    Drop,
    /// It comes this many times more.
    Duplicate {
        /// Additional copies, 1 to [`MAX_COPIES`].
        copies: NonZeroU32,
    },
    /// It comes later; others do not wait for it.
    Delay {
        /// Nanoseconds.
        nanoseconds: u64,
    },
    /// It comes behind the frames that follow it on its queue.
    Reorder {
        /// How many of them.
        by: NonZeroU32,
    },
    /// One bit is flipped.
    Corrupt {
        /// Which one, from the first bit of the frame (the most significant one of its first byte); beyond
        /// the frame's end: counted from its start again. `None`: a drawn one.
        bit: Option<u32>,
    },
    /// Its end is missing. A frame that is not longer is left alone.
    Truncate {
        /// Bytes that are left, at least [`MIN_LENGTH`].
        length: u32,
    },
}

/// The most copies of one frame.
pub const MAX_COPIES: u32 = 64;

/// The longest time that anything takes: an hour, in nanoseconds.
pub const MAX_DELAY: u64 = 3_600_000_000_000;

/// Changes the bytes of a frame as `fault` says; `draw` decides what is left to chance.
pub(super) fn change(bytes: &mut Vec<u8>, fault: FrameFault, draw: u64) {
    match fault {
        FrameFault::Corrupt { bit } => {
            let bits = bytes.len() as u64 * 8;
            let bit = bit.map_or(draw, u64::from).checked_rem(bits).unwrap_or(0) as usize;
            if let Some(byte) = bytes.get_mut(bit / 8) {
                *byte ^= 0x80 >> (bit % 8);
            }
        }
        FrameFault::Truncate { length } => bytes.truncate(length as usize),
        FrameFault::Drop
        | FrameFault::Duplicate { .. }
        | FrameFault::Delay { .. }
        | FrameFault::Reorder { .. } => {}
    }
}
