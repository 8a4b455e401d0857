//! Which clients of the control socket capture the frames of which ports.
//!
//! Lock order: the list of captures, held for a copy of a pointer, then an outbox of the event bus.

use std::sync::{
    Arc, Mutex, Weak,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use zcnic_ctl::protocol::event::{Event, Frame};

use crate::{events::Outbox, sync::lock};

/// A client that captures the frames of a port.
#[derive(Debug)]
struct Capture {
    port: usize,
    outbox: Weak<Outbox>,
    /// Bytes of each frame that the client gets at most.
    length: usize,
}

/// All captures of a backend.
#[derive(Debug, Default)]
pub(crate) struct Captures {
    list: Mutex<Arc<Vec<Arc<Capture>>>>,
    /// The list is not empty.
    any: AtomicBool,
    /// Frames that were numbered.
    frames: AtomicU64,
}

impl Captures {
    /// Starts a capture of port number `port`: the client of `outbox` gets the first `length` bytes
    /// of each frame. Replaces its capture of the same port.
    pub(crate) fn start(&self, port: usize, outbox: &Arc<Outbox>, length: usize) {
        let capture = Capture {
            port,
            outbox: Arc::downgrade(outbox),
            length,
        };
        self.change(|list| {
            list.retain(|other| !other.is(Some(port), outbox));
            list.push(Arc::new(capture));
        });
    }

    /// Ends a client's capture of one port, or all of its captures; returns whether there was one.
    pub(crate) fn stop(&self, port: Option<usize>, outbox: &Arc<Outbox>) -> bool {
        self.change(|list| {
            let before = list.len();
            list.retain(|capture| !capture.is(port, outbox));
            list.len() < before
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<Arc<Capture>>) -> T) -> T {
        let mut list = lock(&self.list);
        let result = change(Arc::make_mut(&mut list));
        self.any.store(!list.is_empty(), Ordering::Release);
        result
    }

    /// Whether any client captures; the data path asks once per batch.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// A number for a frame that is captured at both ends of its cable.
    pub(crate) fn next_id(&self) -> u64 {
        self.frames.fetch_add(1, Ordering::Relaxed)
    }

    /// Offers a frame of port number `port` to the clients that capture it. `about` is the event
    /// but for length and bytes. Never waits for a client.
    pub(crate) fn record(&self, port: usize, about: &Frame, frame: &[u8]) {
        let captures = Arc::clone(&lock(&self.list));
        for capture in captures.iter().filter(|capture| capture.port == port) {
            capture.offer(about, frame);
        }
    }
}

impl Capture {
    fn is(&self, port: Option<usize>, outbox: &Arc<Outbox>) -> bool {
        port.is_none_or(|port| port == self.port)
            && std::ptr::eq(self.outbox.as_ptr(), Arc::as_ptr(outbox))
    }

    fn offer(&self, about: &Frame, frame: &[u8]) {
        if let Some(outbox) = self.outbox.upgrade() {
            let captured = &frame[..frame.len().min(self.length)];
            outbox.offer_with(|| {
                Event::Frame(Frame {
                    length: frame.len() as u32,
                    bytes: hexadecimal(captured),
                    ..about.clone()
                })
            });
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(digit).collect()
}
