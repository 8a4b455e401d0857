//! Frames from outside: made into trains of a private buffer, and received by the port.
//!
//! The caller is the thread of a line. It holds the port's ingress lock while it delivers, and no
//! lock while frames wait for receive buffers.

use std::time::{Duration, Instant};

use zcnic_device::{
    features::FeatureSet,
    transmit::{Snapshot, TransmitFormat, parse},
};

use super::{
    batch::{BATCH, PositionedTrain, Scratch, WaitingTrain, sent_segments},
    capture,
    receive::receive,
};
use crate::{
    config::FlowControl,
    port::{
        Port,
        line::{Line, LineCounters},
        queues::Backpressure,
    },
    ring::{mover::GuestMover, raw::Span, recycle},
};

/// Frames that are delivered at once.
pub(crate) const FRAMES: usize = BATCH as usize;

/// Without a time limit: posted buffers, a kick or a retry end the wait.
pub(super) const FOR_EVER: Duration = Duration::from_hours(24 * 365);

/// A frame behind its virtio-net header.
pub(crate) type IncomingFrame<'m> = [Span<'m>; 2];

/// How frames that find no receive buffer are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// As a cable treats them.
    Of(FlowControl),
    /// They wait without a time limit.
    Unlimited,
}

/// The outcome of a delivery.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery {
    /// Frames that need no further attention: placed, filtered or dropped.
    pub(crate) done: usize,
    /// Frames that were placed in buffers.
    pub(crate) placed: u64,
    /// The next frame waits for buffers until then. The line is woken when some are posted.
    pub(crate) wait: Option<Instant>,
}

/// The outcome of [`receive_own`].
pub(super) struct Arrived {
    /// Frames that need no further attention.
    pub(super) done: usize,
    /// Those of them that are valid frames.
    pub(super) valid: usize,
    /// The first frame that has to wait.
    pub(super) waiting: Option<WaitingTrain>,
}

/// Receives frames of this process's memory on `port`, at most [`FRAMES`], and records them for
/// captures. `resumed` is how far the first one got before.
pub(super) fn receive_own(
    port: &Port,
    frames: &[IncomingFrame<'_>],
    resumed: Option<Backpressure>,
    flow_control: FlowControl,
    scratch: &mut Scratch,
) -> Arrived {
    let Scratch {
        snapshots,
        trains,
        rx_batch,
        ..
    } = scratch;
    snapshots.resize_with(snapshots.len().max(frames.len()), Snapshot::default);
    let mut batch: Vec<PositionedTrain<'_, '_>> = recycle(std::mem::take(trains));
    for (position, (source, snapshot)) in frames.iter().zip(snapshots).enumerate() {
        let (mover, format) = (GuestMover::new(), TransmitFormat::VirtioNet);
        let train = parse(&mover, &source[..], format, FeatureSet::ALL, snapshot);
        batch.extend(train.ok().map(|train| (position, train)));
    }
    let captures = port.context.captures();
    rx_batch.received = captures.any().then(Vec::new);
    let waiting = receive(port, &batch, resumed, flow_control, rx_batch);
    let done = waiting
        .as_ref()
        .map_or(frames.len(), |waiting| waiting.position);
    if let Some(received) = rx_batch.received.take() {
        let sent = batch.iter().map(|(position, train)| {
            let segments = sent_segments(*position, train, resumed, waiting.as_ref());
            (*position, train, segments)
        });
        capture::record_batch(captures, None, &[], &GuestMover::new(), sent, received);
    }
    let valid = batch.iter().filter(|(position, _)| *position < done);
    let valid = valid.count();
    *trains = recycle(batch);
    Arrived {
        done,
        valid,
        waiting,
    }
}

/// Delivers the frames of one thread.
#[derive(Default)]
pub(crate) struct Ingress {
    scratch: Scratch,
    /// How far the next frame got before buffers ran out.
    backpressure: Option<Backpressure>,
}

impl Ingress {
    /// Delivers at most [`FRAMES`] frames to `port`. If some have to wait, the caller delivers the
    /// rest again later. Without a carrier or driver they are dropped.
    pub(crate) fn deliver(
        &mut self,
        port: &Port,
        line: &Line,
        frames: &[IncomingFrame<'_>],
        patience: Patience,
    ) -> Delivery {
        let guard = port.ingress();
        if !port.link_up() || !port.is_connected() {
            self.backpressure = None;
            LineCounters::add(&line.counters.receive_dropped, frames.len() as u64);
            return Delivery {
                done: frames.len(),
                placed: 0,
                wait: None,
            };
        }
        let flow_control = match patience {
            Patience::Of(flow_control) => flow_control,
            Patience::Unlimited => FlowControl::Pause,
        };
        let before = self.scratch.rx_batch.delivered;
        let resumed = self.backpressure.take();
        let scratch = &mut self.scratch;
        let Arrived {
            done,
            valid: received,
            waiting,
        } = receive_own(port, frames, resumed, flow_control, scratch);
        drop(guard);
        let rx_batch = &mut self.scratch.rx_batch;
        rx_batch.raise_interrupts();
        LineCounters::add(&line.counters.received, received as u64);
        LineCounters::add(&line.counters.receive_dropped, (done - received) as u64);
        let placed = rx_batch.delivered - before;
        self.backpressure = waiting.map(|waiting| Backpressure {
            deadline: match patience {
                Patience::Of(_) => waiting.backpressure.deadline,
                Patience::Unlimited => Instant::now() + FOR_EVER,
            },
            ..waiting.backpressure
        });
        Delivery {
            done,
            placed,
            wait: self.backpressure.map(|backpressure| backpressure.deadline),
        }
    }
}
