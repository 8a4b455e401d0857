//! Which clients of the control socket see the frames of which ports.

use std::sync::{
    Arc, Mutex, Weak,
    atomic::{AtomicBool, Ordering},
};

use zcnic_ctl::protocol::{
    event::{Event, Frame},
    fault::Direction,
};

use crate::{events::Outbox, sync::lock};

/// A client sees the frames of a port.
#[derive(Debug)]
pub(crate) struct Capture {
    pub(crate) port: usize,
    outbox: Weak<Outbox>,
    /// Bytes of each frame that are told.
    length: usize,
}

/// Who sees the frames of which port.
#[derive(Debug, Default)]
pub(crate) struct Captures {
    pub(crate) list: Mutex<Arc<Vec<Arc<Capture>>>>,
    /// There are some.
    any: AtomicBool,
}

impl Captures {
    /// From now on a client sees this port's frames, the first `length` bytes of each.
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

    /// The client no longer does, of this port or of any; `false` if it did not.
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

    /// Whether somebody captures; asked once per batch.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }
}

impl Capture {
    fn is(&self, port: Option<usize>, outbox: &Arc<Outbox>) -> bool {
        port.is_none_or(|port| port == self.port)
            && std::ptr::eq(self.outbox.as_ptr(), Arc::as_ptr(outbox))
    }

    pub(crate) fn tell(&self, port: &str, direction: Direction, time: u64, frame: &[u8]) {
        if let Some(outbox) = self.outbox.upgrade() {
            let told = &frame[..frame.len().min(self.length)];
            outbox.offer(&Event::Frame(Frame {
                port: port.to_owned(),
                direction,
                time,
                length: frame.len() as u32,
                bytes: hexadecimal(told),
            }));
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(digit).collect()
}
