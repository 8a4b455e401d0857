//! Faults of the frame itself.
//!
//! On transmit they happen on the wire: the receiver parses and steers the changed frame. On
//! receive they happen behind steering, in the NIC.

use std::num::NonZeroU32;

/// Bytes of an Ethernet header: a shorter frame is meaningless.
pub const MIN_LENGTH: u32 = 14;

/// The fault of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameFault {
    /// It is lost.
    Drop,
    /// It arrives this many more times.
    Duplicate {
        /// Additional copies, 1 to [`MAX_COPIES`].
        copies: NonZeroU32,
    },
    /// It arrives later; other frames do not wait for it.
    Delay {
        /// Nanoseconds.
        nanoseconds: u64,
    },
    /// It arrives behind the frames that follow it on its queue.
    Reorder {
        /// The number of frames that overtake it.
        by: NonZeroU32,
    },
    /// One bit is flipped.
    Corrupt {
        /// The bit's number from the first bit of the frame (the most significant one of its first
        /// byte), modulo the frame's length in bits. `None`: drawn.
        bit: Option<u32>,
    },
    /// Its end is missing. A frame that is not longer than `length` is left alone.
    Truncate {
        /// The remaining bytes, at least [`MIN_LENGTH`].
        length: u32,
    },
}

/// The most copies of one frame.
pub const MAX_COPIES: u32 = 64;

/// The longest delay of any action: an hour, in nanoseconds.
pub const MAX_DELAY: u64 = 3_600_000_000_000;

/// Applies `fault` to the bytes of a frame; `draw` is the random choice if the rule leaves one.
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
