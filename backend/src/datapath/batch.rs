//! A worker's scratch memory, and the frames of the batch in hand.

use std::ops::Range;

use zcnic_device::{
    abi::TxTime,
    clock::PortClock,
    features::FeatureSet,
    rss::Hash,
    train::Train,
    transmit::{Snapshot, TransmitCounters, TransmitFormat, wants_time},
};
use zerocopy::IntoBytes;

use super::capture::Received;
use crate::{
    port::{SteeringDrop, queues::Backpressure, switch::Destination},
    ring::{chain::Chain, mover::gather, raw::Span, transport::Interrupt, window::PrefetchWindow},
};

/// Chains taken from a ring at once.
pub(crate) const BATCH: u16 = 64;

/// Segments after which a batch ends: rings are unlocked between batches, and control waits for
/// that.
pub(super) const MAX_SEGMENTS: usize = 8192;

/// A train of the batch in hand, with the position of its chain in the batch.
pub(crate) type PositionedTrain<'a, 's> = (usize, Train<'a, [Span<'s>]>);

/// A train that was steered to a queue.
pub(crate) struct SteeredTrain {
    /// Index of the train in the batch.
    pub(crate) index: u32,
    pub(crate) queue: u16,
    pub(crate) hash: Option<Hash>,
}

/// A train that was steered to no queue.
pub(crate) struct FilteredTrain {
    /// Position of its chain in the batch.
    pub(crate) position: usize,
    pub(crate) frames: u64,
    pub(crate) reason: SteeringDrop,
}

/// A train that waits for receive buffers.
pub(crate) struct WaitingTrain {
    /// Position of its chain in the batch.
    pub(crate) position: usize,
    pub(crate) backpressure: Backpressure,
}

/// The segments of a train that were sent: a train that waited begins where it had got, and one that
/// waits now ends where it got.
pub(crate) fn sent_segments<S: ?Sized>(
    position: usize,
    train: &Train<'_, S>,
    resumed: Option<Backpressure>,
    waiting: Option<&WaitingTrain>,
) -> Range<usize> {
    let start = resumed.filter(|_| position == 0);
    let end = match waiting {
        Some(waiting) if position > waiting.position => 0,
        Some(waiting) if position == waiting.position => waiting.backpressure.segment,
        _ => train.segments(),
    };
    start.map_or(0, |resumed| resumed.segment)..end
}

/// The writable part of a transmit chain into which its transmit time is written.
#[derive(Clone, Copy)]
pub(crate) struct TimestampSlot {
    /// Position of the chain in the batch.
    pub(crate) position: usize,
    chain: Chain,
}

impl TimestampSlot {
    /// Bytes that are written.
    pub(crate) const LENGTH: u32 = size_of::<TxTime>() as u32;

    /// The slot of `chain`, which has a writable part; `None`: its header asks for no time, or the
    /// part has the wrong shape.
    #[cold]
    pub(crate) fn of(position: usize, chain: Chain, spans: &[Span<'_>]) -> Option<Self> {
        let (readable, writable) = (chain.readable(spans), chain.writable(spans));
        let mut start = [0; 2];
        let length: usize = readable.iter().map(Span::len).sum();
        if length >= start.len() {
            gather(readable, 0, &mut start);
        }
        wants_time(start, writable.iter().map(Span::len)).then_some(Self { position, chain })
    }

    /// Writes `time`, in nanoseconds of the port's clock. `spans` are those of the batch.
    pub(crate) fn write(&self, spans: &[Span<'_>], time: u64) {
        let time = TxTime {
            timestamp_ns: time.into(),
            ..TxTime::default()
        };
        if let [target] = self.chain.writable(spans) {
            target.write(0, time.as_bytes());
        }
    }
}

/// The frames of a transmit ring's batch, and the parts of their queue that change when they are
/// sent.
pub(crate) struct TxBatch<'b, 'm> {
    pub(crate) chains: &'b [Chain],
    pub(crate) spans: &'b [Span<'m>],
    /// Slots of the frames that ask for their transmit time.
    pub(crate) timestamps: &'b mut Vec<TimestampSlot>,
    pub(crate) format: TransmitFormat,
    pub(crate) features: FeatureSet,
    /// The clock of timestamps.
    pub(crate) clock: PortClock,
    /// The transmit queue's number.
    pub(crate) queue: u16,
    pub(crate) counters: &'b mut TransmitCounters,
    /// How far the first frame got, if it waited already.
    pub(crate) backpressure: &'b mut Option<Backpressure>,
}

/// A worker's memory for a batch. It is kept for the next one, so that a batch allocates nothing.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) heads: Vec<u16>,
    pub(crate) spans: Vec<Span<'static>>,
    pub(crate) chains: Vec<Chain>,
    pub(crate) timestamps: Vec<TimestampSlot>,
    pub(crate) snapshots: Vec<Snapshot>,
    pub(crate) trains: Vec<PositionedTrain<'static, 'static>>,
    pub(crate) rx_batch: RxBatch,
}

/// The part of [`Scratch`] that the receiving side of a batch uses.
#[derive(Default)]
pub(crate) struct RxBatch {
    pub(crate) steered: Vec<SteeredTrain>,
    pub(crate) filtered: Vec<FilteredTrain>,
    /// Where the frames of a switch's member go.
    pub(crate) destinations: Vec<Destination>,
    pub(crate) window: PrefetchWindow<'static>,
    pub(crate) interrupts: Vec<Interrupt>,
    /// Frames that this worker has placed in buffers so far.
    pub(crate) delivered: u64,
    /// The decisions on the segments of this batch, while a client captures frames.
    pub(crate) received: Option<Vec<Received>>,
}

impl RxBatch {
    /// Raises the interrupts of the batch. The caller holds no lock.
    pub(crate) fn raise_interrupts(&mut self) {
        for interrupt in self.interrupts.drain(..) {
            interrupt.raise();
        }
    }
}
