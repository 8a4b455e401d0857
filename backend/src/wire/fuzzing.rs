//! Targets of the fuzzer: captures that are replayed, and the framing of streams.

use std::io::Cursor;

use super::{
    framing::{Deframer, Framer, MAX_LENGTH, TooLong},
    replay::Capture,
};
use crate::{input::Input, port::line::OutgoingFrame};

/// Reads a capture of either format.
///
/// # Panics
///
/// A frame has a length that no port takes, or is due before the frame in front of it.
pub fn capture(bytes: &[u8]) {
    let Ok(capture) = Capture::parse(Cursor::new(bytes)) else {
        return;
    };
    capture.check();
}

/// Finds the frames of a stream that arrives in any pieces, and writes them again in any pieces.
///
/// # Panics
///
/// The frames depend on the pieces, or what is written differs from what was read.
pub fn framing(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let pieces = input.array::<8>().map(|piece| usize::from(piece) + 1);
    let stream = input.rest();
    let whole = frames(stream, &[stream.len().max(1)]);
    let (found, error) = frames(stream, &pieces);
    assert_eq!(
        (&found, error),
        (&whole.0, whole.1),
        "the pieces change the frames"
    );

    let framed = |frame: &Vec<u8>| [&(frame.len() as u32).to_be_bytes()[..], frame].concat();
    let expected: Vec<u8> = found.iter().flat_map(framed).collect();
    assert!(
        stream.starts_with(&expected),
        "frames that are not in the stream"
    );
    let mut framer = Framer::default();
    let count = found.len() as u64;
    framer
        .frames
        .extend(found.into_iter().map(|bytes| OutgoingFrame {
            header: [0; 12],
            bytes,
            due: 0,
        }));
    let (mut written, mut complete) = (Vec::new(), 0);
    let mut pieces = pieces.iter().cycle();
    while !framer.frames.is_empty() {
        let prefixes = framer.prefixes();
        let slices = framer.slices(&prefixes);
        let left: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        let now = left.len().min(*pieces.next().expect("endless"));
        written.extend_from_slice(&left[..now]);
        complete += framer.advance(now);
    }
    assert_eq!((written, complete), (expected, count), "what was written");
}

/// The frames of a stream that arrives in pieces of these sizes, and the error that ended it.
fn frames(mut stream: &[u8], pieces: &[usize]) -> (Vec<Vec<u8>>, Option<TooLong>) {
    let mut deframer = Deframer::default();
    let mut found = Vec::new();
    let mut pieces = pieces.iter().cycle();
    while !stream.is_empty() {
        let room = deframer.room();
        assert!(!room.is_empty(), "there is always room");
        let count = (*pieces.next().expect("endless"))
            .min(room.len())
            .min(stream.len());
        room[..count].copy_from_slice(&stream[..count]);
        stream = &stream[count..];
        deframer.filled(count);
        loop {
            match deframer.next() {
                Ok(Some(place)) => {
                    assert!(place.len() <= MAX_LENGTH, "a frame that is too long");
                    found.push(deframer.buffer()[place].to_vec());
                }
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}
