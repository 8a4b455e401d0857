//! Target of the fuzzer: the relay between a frontend and the daemon.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{Arc, LazyLock},
    thread,
};

use super::{
    gate::{Gate, GateError, SET_MEM_TABLE, is_served},
    relay::{HEADER, MAX_BODY, RelayError, pass_requests},
};
use crate::{descriptors::Share, input::Input, memory::MemoryRules, notifier::Notifier};

/// One for all runs: the system has few.
static NOTIFIER: LazyLock<Arc<Notifier>> =
    LazyLock::new(|| Arc::new(Notifier::new().expect("Linux AIO")));

/// Bytes of one connection.
const MOST: usize = 32 << 10;

/// Relays a frontend's bytes, which arrive in any pieces.
///
/// # Panics
///
/// The daemon gets anything but the frontend's messages up to the first that is not served, or the
/// relay names another reason for its end.
pub fn relay(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let piece = usize::from(input.word()) + 1;
    let stream = input.take(MOST);
    let (mut frontend, near) = UnixStream::pair().expect("a socket pair");
    let (far, mut daemon) = UnixStream::pair().expect("a socket pair");
    // Many small pieces fill a socket long before its bytes do.
    let (result, passed) = thread::scope(|scope| {
        scope.spawn(move || {
            for piece in stream.chunks(piece) {
                frontend.write_all(piece).expect("a reader");
            }
            frontend.shutdown(Shutdown::Write).expect("a socket");
        });
        let reader = scope.spawn(move || {
            let mut passed = Vec::new();
            daemon.read_to_end(&mut passed).expect("a socket");
            passed
        });
        let rules = MemoryRules::default();
        let mut gate = Gate::new(Arc::clone(&NOTIFIER), &rules, Share::FULL);
        let result = pass_requests(&near, &far, &mut gate);
        drop(far);
        // What the relay did not want.
        io::copy(&mut &near, &mut io::sink()).expect("a socket");
        (result, reader.join().expect("a reader"))
    });

    let (length, expected) = plainly(stream);
    assert_eq!(passed, stream[..length], "messages that were passed on");
    let found = match result {
        Ok(()) => End::Left,
        Err(RelayError::Truncated) => End::Truncated,
        Err(RelayError::Refused(GateError::Request(request))) => End::Request(request),
        Err(RelayError::Refused(GateError::Memory(_))) => End::Memory,
        Err(RelayError::Oversized { request, size }) => End::Oversized(request, size),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(found, expected, "why the relay ended");
}

/// Why a relay ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Left,
    Truncated,
    Request(u32),
    /// A memory table without files.
    Memory,
    Oversized(u32, usize),
}

/// The bytes of `stream` that are passed on, and why no more are.
fn plainly(stream: &[u8]) -> (usize, End) {
    let mut at = 0;
    loop {
        let left = &stream[at..];
        let word = |index: usize| {
            let bytes = left[4 * index..4 * index + 4]
                .try_into()
                .expect("four bytes");
            u32::from_ne_bytes(bytes)
        };
        if left.is_empty() {
            return (at, End::Left);
        }
        if left.len() < HEADER {
            return (at, End::Truncated);
        }
        let (request, size) = (word(0), word(2) as usize);
        if size > MAX_BODY {
            return (at, End::Oversized(request, size));
        }
        if left.len() < HEADER + size {
            return (at, End::Truncated);
        }
        if !is_served(request) {
            return (at, End::Request(request));
        }
        if request == SET_MEM_TABLE {
            return (at, End::Memory);
        }
        at += HEADER + size;
    }
}
