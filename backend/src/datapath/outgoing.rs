//! Frames for the threads of a line.

use std::time::Instant;

use zcnic_device::{
    fault::OwnedFrame,
    frame::L4Protocol,
    train::{Train, finish_into, finished, unsegmented_into},
    transmit::virtio_net_header,
};

use super::{
    batch::{PositionedTrain, WaitingTrain},
    rx_queue::PAUSE_LIMIT,
};
use crate::{
    config::FlowControl,
    port::{
        Port,
        line::{Line, LineCounters, OutgoingFrame, Pushed, Sink},
        queues::Backpressure,
    },
    ring::{mover::GuestMover, raw::Span},
};

/// Appends the frames of a batch to the outlets of `line`. On a line with `pause`, returns the first
/// train that has to wait for room; those behind it were not sent.
pub(super) fn send(
    port: &Port,
    line: &Line,
    batch: &[PositionedTrain<'_, '_>],
    resumed: Option<Backpressure>,
) -> Option<WaitingTrain> {
    let now = port.context.now();
    for (position, train) in batch {
        let whole = match line.sink {
            Sink::Discard => {
                LineCounters::add(&line.counters.sent, train.segments() as u64);
                continue;
            }
            Sink::Frames => false,
            Sink::Offloads { uso } => uso || !is_udp_train(train),
        };
        let resumed = resumed.filter(|_| *position == 0);
        let frames = if whole { 1 } else { train.segments() };
        let first = resumed.map_or(0, |resumed| resumed.segment.min(frames));
        for segment in first..frames {
            let frame = if whole {
                unsegmented(train)
            } else {
                finish(train, segment)
            };
            if push(line, frame, train, now) == Pushed::Wait {
                let waits = resumed.filter(|resumed| resumed.segment == segment);
                let deadline = waits.map_or_else(|| Instant::now() + PAUSE_LIMIT, |w| w.deadline);
                if deadline > Instant::now() {
                    let backpressure = Backpressure {
                        segment,
                        shown: 0,
                        deadline,
                    };
                    return Some(WaitingTrain {
                        position: *position,
                        backpressure,
                    });
                }
                line.outlet(train.headers(), train.header_bytes()).give_up();
                LineCounters::add(&line.counters.send_dropped, 1);
            }
        }
    }
    None
}

/// Appends a finished frame to an outlet of `line`, or drops it if there is no room.
pub(super) fn send_frame(port: &Port, line: &Line, frame: &OwnedFrame) {
    if line.sink == Sink::Discard {
        LineCounters::add(&line.counters.sent, 1);
        return;
    }
    let train = finished(frame.bytes());
    let outlet = line.outlet(train.headers(), train.header_bytes());
    let frame = plain(frame.bytes().to_vec());
    count(line, outlet.push(frame, port.context.now(), false));
}

fn push(line: &Line, frame: OutgoingFrame, train: &Train<'_, [Span<'_>]>, now: u64) -> Pushed {
    let outlet = line.outlet(train.headers(), train.header_bytes());
    let may_wait = line.flow_control == FlowControl::Pause;
    let pushed = outlet.push(frame, now, may_wait);
    count(line, pushed);
    pushed
}

fn count(line: &Line, pushed: Pushed) {
    let counter = match pushed {
        Pushed::Queued | Pushed::Wait => return,
        Pushed::Lost => &line.counters.lost,
        Pushed::Full => &line.counters.send_dropped,
    };
    LineCounters::add(counter, 1);
}

fn is_udp_train(train: &Train<'_, [Span<'_>]>) -> bool {
    train.is_segmented(L4Protocol::Udp)
}

fn plain(bytes: Vec<u8>) -> OutgoingFrame {
    OutgoingFrame {
        header: [0; 12],
        bytes,
        due: 0,
    }
}

fn finish(train: &Train<'_, [Span<'_>]>, segment: usize) -> OutgoingFrame {
    let mut bytes = Vec::new();
    finish_into(&GuestMover::new(), train, segment, &mut bytes);
    plain(bytes)
}

fn unsegmented(train: &Train<'_, [Span<'_>]>) -> OutgoingFrame {
    let mut bytes = Vec::new();
    unsegmented_into(&GuestMover::new(), train, &mut bytes);
    OutgoingFrame {
        header: virtio_net_header(train),
        ..plain(bytes)
    }
}
