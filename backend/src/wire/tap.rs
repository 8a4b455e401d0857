//! One queue of the wire `tap`.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    ops::Range,
    os::fd::{AsFd, OwnedFd},
    time::Instant,
};

use rustix::{
    event::PollFlags,
    io::{Errno, read, writev},
};

use super::{tun::HEADER, wait::wait};
use crate::{
    control::admin,
    datapath::ingress::{FRAMES, IncomingFrame, Ingress, Patience},
    port::{
        Port,
        line::{Line, LineCounters, OutgoingFrame},
    },
    ring::raw::Span,
};

/// The most bytes of one read: a header and an unsegmented frame of 64 KiB with its own headers.
const MAX_READ: usize = HEADER + 65_536 + 256;

/// Bytes that are read before they are delivered.
const BUFFER: usize = 8 * MAX_READ;

/// Carries frames between queue `number` of a tap and `port` until the line is stopped or the
/// interface is gone.
///
/// # Errors
///
/// Waiting failed.
pub(super) fn run(port: &Port, line: &Line, number: usize, queue: &OwnedFd) -> io::Result<()> {
    let outlet = &line.outlets[number];
    let mut incoming = Incoming::default();
    let mut outgoing = VecDeque::new();
    let mut may_read = false;
    while !line.is_stopping() {
        if outgoing.is_empty() && outlet.take(0, FRAMES, &mut outgoing) {
            port.wakers.retry();
        }
        let is_blocked = write(line, queue, &mut outgoing);
        if may_read && incoming.frames.is_empty() {
            incoming.read(queue);
        }
        let waits = incoming.deliver(port, line);
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::OUT, is_blocked);
        interest.set(PollFlags::IN, waits.is_none());
        let events = [(queue.as_fd(), interest)];
        let [ready] = wait((port, outlet), !is_blocked, events, waits)?;
        if ready.contains(PollFlags::ERR) {
            port.context.warn(format_args!("its tap is gone"));
            admin::set_line(port, line, false);
            break;
        }
        may_read = ready.contains(PollFlags::IN);
    }
    Ok(())
}

/// Writes frames until the queue takes no more; returns whether some are left.
fn write(line: &Line, queue: &OwnedFd, frames: &mut VecDeque<OutgoingFrame>) -> bool {
    while let Some(frame) = frames.front() {
        let parts = [&frame.header[..], &frame.bytes].map(IoSlice::new);
        let counter = match writev(queue, &parts) {
            Ok(_) => &line.counters.sent,
            Err(Errno::AGAIN) => return true,
            Err(Errno::INTR) => continue,
            // The interface is down, or the kernel refuses the frame.
            Err(_) => &line.counters.send_dropped,
        };
        LineCounters::add(counter, 1);
        frames.pop_front();
    }
    false
}

/// Frames from a tap.
struct Incoming {
    buffer: Vec<u8>,
    /// The places of headers with their frames that were not delivered yet.
    frames: VecDeque<Range<usize>>,
    ingress: Ingress,
}

impl Default for Incoming {
    fn default() -> Self {
        Self {
            buffer: vec![0; BUFFER],
            frames: VecDeque::new(),
            ingress: Ingress::default(),
        }
    }
}

impl Incoming {
    /// Reads frames until the queue is empty or the buffer full.
    fn read(&mut self, queue: &OwnedFd) {
        let mut end = 0;
        while self.frames.len() < FRAMES && end + MAX_READ <= self.buffer.len() {
            // An error is reported by the next wait.
            let Ok(count) = read(queue, &mut self.buffer[end..end + MAX_READ]) else {
                break;
            };
            self.frames.push_back(end..end + count);
            end += count;
        }
    }

    /// Delivers all frames, or those before one that has to wait; returns until when.
    fn deliver(&mut self, port: &Port, line: &Line) -> Option<Instant> {
        if self.frames.is_empty() {
            return None;
        }
        let bytes = Span::own(&mut self.buffer);
        let parts = |place: &Range<usize>| -> Option<IncomingFrame<'_>> {
            let header = bytes.part(place.start, HEADER)?;
            let frame = bytes.part(place.start + HEADER, place.len().checked_sub(HEADER)?)?;
            Some([header, frame])
        };
        let sources: Vec<_> = self.frames.iter().filter_map(parts).collect();
        let patience = Patience::Of(line.flow_control);
        let delivery = self.ingress.deliver(port, line, &sources, patience);
        self.frames.drain(..delivery.done);
        delivery.wait
    }
}
