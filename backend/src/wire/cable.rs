//! One direction of a shaped cable: delivers frames when they are due.

use std::{collections::VecDeque, io};

use super::wait::wait;
use crate::{
    datapath::ingress::{FRAMES, IncomingFrame, Ingress, Patience},
    port::{
        Port,
        line::{Line, LineCounters},
    },
    ring::raw::Span,
};

/// Carries the frames of `line` from one port to another until the line is stopped.
///
/// # Errors
///
/// Waiting failed.
pub(super) fn run(from: &Port, to: &Port, line: &Line) -> io::Result<()> {
    let outlet = &line.outlets[0];
    let mut ingress = Ingress::default();
    let mut frames = VecDeque::new();
    while !line.is_stopping() {
        if frames.is_empty() && outlet.take(from.context.now(), FRAMES, &mut frames) {
            from.wakers.retry();
        }
        let mut waits = None;
        if !frames.is_empty() {
            let sources: Vec<IncomingFrame<'_>> = frames
                .iter_mut()
                .map(|frame| [&mut frame.header[..], &mut frame.bytes[..]].map(Span::own))
                .collect();
            let patience = Patience::Of(line.flow_control);
            let delivery = ingress.deliver(to, line, &sources, patience);
            frames.drain(..delivery.done);
            LineCounters::add(&line.counters.sent, delivery.done as u64);
            waits = delivery.wait;
        }
        wait((from, outlet), waits.is_none(), [], waits)?;
    }
    Ok(())
}
