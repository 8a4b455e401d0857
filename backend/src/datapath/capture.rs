//! Frames as they cross the wire, told to clients of the control socket that want to see those of a port.
//!
//! A backend in which nobody captures pays one load per batch. Otherwise each frame is finished, as its
//! receiver shall see it, and offered to whoever captures, who is never waited for.

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use zcnic_ctl::protocol::{
    event::{Event, Frame},
    fault::Direction,
};
use zcnic_device::{
    memory::Mover,
    train::{Train, finish_into},
};

use crate::{
    events::Outbox,
    port::{End, Port, lock},
};

/// A client sees the frames of a port.
#[derive(Debug)]
struct Capture {
    port: usize,
    outbox: Weak<Outbox>,
    /// Bytes of each frame that are told.
    length: usize,
}

/// Who sees the frames of which port.
#[derive(Debug, Default)]
pub(crate) struct Captures {
    list: Mutex<Arc<Vec<Arc<Capture>>>>,
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

    fn tell(&self, port: &Port, direction: Direction, time: u64, frame: &[u8]) {
        if let Some(outbox) = self.outbox.upgrade() {
            let told = &frame[..frame.len().min(self.length)];
            outbox.offer(&Event::Frame(Frame {
                port: port.name.clone(),
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

impl Port {
    /// Trains that were sent have crossed the wire, if there is one.
    pub(crate) fn captured<'t, M>(
        &self,
        mover: &M,
        trains: impl Iterator<Item = &'t Train<'t, M::Source>>,
    ) where
        M: Mover,
        M::Source: 't,
    {
        let mut frame = Vec::new();
        for train in trains {
            for index in 0..train.segments() {
                finish_into(mover, train, index, &mut frame);
                self.captured_frame(&frame);
            }
        }
    }

    /// A frame that was sent has crossed the wire, if there is one.
    pub(crate) fn captured_frame(&self, frame: &[u8]) {
        match self.end() {
            Some(End::Port(peer, _)) => {
                self.tell(Direction::Tx, frame);
                peer.tell(Direction::Rx, frame);
            }
            Some(End::Null) => self.tell(Direction::Tx, frame),
            None => {}
        }
    }

    /// Tells of a frame that this port sent or received.
    pub(crate) fn tell(&self, direction: Direction, frame: &[u8]) {
        let captures = Arc::clone(&lock(&self.hub.captures.list));
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let time = u64::try_from(time.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX);
        for capture in captures.iter().filter(|capture| capture.port == self.index) {
            capture.tell(self, direction, time, frame);
        }
    }
}
