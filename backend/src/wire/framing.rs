//! The framing of QEMU's `-netdev stream` (net/stream.c, net/net.c): each frame follows its length,
//! four bytes in network order.

use std::{collections::VecDeque, io::IoSlice, ops::Range};

use crate::port::line::OutgoingFrame;

/// Bytes of a length.
const PREFIX: usize = 4;

/// The longest frame that QEMU accepts (`NET_BUFSIZE`).
pub(super) const MAX_LENGTH: usize = 4096 + 65536;

/// Bytes that are read at once, and held until their frames are delivered.
const BUFFER: usize = 256 << 10;

/// A peer announced a frame of more than [`MAX_LENGTH`] bytes: this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong(pub(super) u32);

/// Finds frames in a stream of bytes.
pub(super) struct Deframer {
    buffer: Vec<u8>,
    /// Bytes that were not yet returned as frames.
    rest: Range<usize>,
}

impl Default for Deframer {
    fn default() -> Self {
        Self {
            buffer: vec![0; BUFFER],
            rest: 0..0,
        }
    }
}

impl Deframer {
    /// Room for more bytes, never empty. Frames that were returned are no longer valid.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.rest.clone(), 0);
        self.rest = 0..self.rest.len();
        &mut self.buffer[self.rest.end..]
    }

    /// Notes that `count` bytes were put into the [room](Self::room).
    pub(super) fn filled(&mut self, count: usize) {
        self.rest.end += count;
    }

    /// The place of the next frame in the [buffer](Self::buffer); `None`: it is not complete.
    ///
    /// # Errors
    ///
    /// The next frame is too long. No frame can be found behind it.
    pub(super) fn next(&mut self) -> Result<Option<Range<usize>>, TooLong> {
        let Some(prefix) = self.buffer[self.rest.clone()].first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let announced = u32::from_be_bytes(*prefix);
        let length = announced as usize;
        if length > MAX_LENGTH {
            return Err(TooLong(announced));
        }
        let start = self.rest.start + PREFIX;
        if self.rest.end < start + length {
            return Ok(None);
        }
        self.rest.start = start + length;
        Ok(Some(start..start + length))
    }

    /// The bytes that frames are places in.
    pub(super) fn buffer(&mut self) -> &mut [u8] {
        &mut self.buffer
    }
}

/// Frames on their way into a stream of bytes.
#[derive(Default)]
pub(super) struct Framer {
    pub(super) frames: VecDeque<OutgoingFrame>,
    /// Bytes of the first frame that were written, its length included.
    written: usize,
}

impl Framer {
    /// The lengths of its frames as they are written.
    pub(super) fn prefixes(&self) -> Vec<[u8; PREFIX]> {
        let lengths = self.frames.iter().map(|frame| frame.bytes.len() as u32);
        lengths.map(u32::to_be_bytes).collect()
    }

    /// All bytes that are left, with the [prefixes](Self::prefixes) of now.
    pub(super) fn slices<'f>(&'f self, prefixes: &'f [[u8; PREFIX]]) -> Vec<IoSlice<'f>> {
        let parts = self.frames.iter().zip(prefixes);
        let parts = parts.flat_map(|(frame, prefix)| [&prefix[..], &frame.bytes]);
        let mut slices: Vec<_> = parts.map(IoSlice::new).collect();
        let mut left = &mut slices[..];
        IoSlice::advance_slices(&mut left, self.written);
        let left = left.len();
        slices.split_off(slices.len() - left)
    }

    /// Notes that `count` bytes were written; returns how many frames that completed.
    pub(super) fn advance(&mut self, count: usize) -> u64 {
        self.written += count;
        let mut complete = 0;
        while let Some(frame) = self.frames.front()
            && self.written >= PREFIX + frame.bytes.len()
        {
            self.written -= PREFIX + frame.bytes.len();
            self.frames.pop_front();
            complete += 1;
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(frames: &[Vec<u8>]) -> Vec<u8> {
        let framed = frames.iter().flat_map(|frame| {
            let prefix = (frame.len() as u32).to_be_bytes();
            prefix.into_iter().chain(frame.iter().copied())
        });
        framed.collect()
    }

    fn frames_of(deframer: &mut Deframer, mut bytes: &[u8], step: usize) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let room = deframer.room();
            let count = bytes.len().min(step).min(room.len());
            room[..count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            deframer.filled(count);
            while let Some(place) = deframer.next().expect("short enough") {
                frames.push(deframer.buffer()[place].to_vec());
            }
        }
        frames
    }

    proptest! {
        #[test]
        fn frames_come_back_however_the_stream_is_divided(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
            step in 1usize..400,
        ) {
            let found = frames_of(&mut Deframer::default(), &stream(&frames), step);
            prop_assert_eq!(found, frames);
        }

        #[test]
        fn what_is_written_in_pieces_is_the_stream(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
            step in 1usize..400,
        ) {
            let mut framer = Framer::default();
            framer.frames.extend(frames.iter().map(|bytes| OutgoingFrame {
                header: [0; 12],
                bytes: bytes.clone(),
                due: 0,
            }));
            let (mut written, mut complete) = (Vec::new(), 0);
            while !framer.frames.is_empty() {
                let prefixes = framer.prefixes();
                let left: Vec<u8> = framer
                    .slices(&prefixes)
                    .iter()
                    .flat_map(|slice| slice.to_vec())
                    .collect();
                let count = step.min(left.len());
                written.extend_from_slice(&left[..count]);
                complete += framer.advance(count);
            }
            prop_assert_eq!(written, stream(&frames));
            prop_assert_eq!(complete, frames.len() as u64);
        }
    }

    #[test]
    fn the_longest_frame_is_found_and_a_longer_one_refused() {
        let mut deframer = Deframer::default();
        let frames = vec![vec![7; MAX_LENGTH]; 9];
        assert_eq!(frames_of(&mut deframer, &stream(&frames), 100_000), frames);
        let longer = (MAX_LENGTH as u32 + 1).to_be_bytes();
        deframer.room()[..4].copy_from_slice(&longer);
        deframer.filled(4);
        assert_eq!(deframer.next(), Err(TooLong(MAX_LENGTH as u32 + 1)));
    }
}
