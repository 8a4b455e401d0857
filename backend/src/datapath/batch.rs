//! What a worker keeps from one batch to the next, and frames of the batch in hand.

use zcnic_device::{
    abi::TxTime,
    rss::Hash,
    train::Train,
    transmit::{Snapshot, wants_time},
};
use zerocopy::IntoBytes;

use crate::{
    port::Backpressure,
    ring::{chain::Chain, mover::gather, raw::Span, transport::Interrupt, window::PrefetchWindow},
};

/// A train on its way to a queue.
pub(crate) struct SteeredTrain {
    /// Which train of the batch it is.
    pub(crate) index: u32,
    pub(crate) queue: u16,
    pub(crate) hash: Option<Hash>,
}

/// A train that no queue gets.
pub(crate) struct FilteredTrain {
    /// Of its chain in the batch.
    pub(crate) position: usize,
    pub(crate) frames: u64,
    /// A flow rule says so, not the address filter.
    pub(crate) by_rule: bool,
}

/// Chains taken from a ring at once.
pub(crate) const BATCH: u16 = 64;

/// A frame of the batch in hand, by the position of its chain.
pub(crate) type PositionedTrain<'a, 's> = (usize, Train<'a, [Span<'s>]>);

/// Where a frame of a batch wants to have written when it was sent.
#[derive(Clone, Copy)]
pub(crate) struct TimestampSlot {
    /// Of its chain.
    pub(crate) position: usize,
    chain: Chain,
}

impl TimestampSlot {
    /// Bytes that are written.
    pub(crate) const LENGTH: u32 = size_of::<TxTime>() as u32;

    /// That of the chain at `position`, which has a writable part.
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

    pub(crate) fn write(&self, spans: &[Span<'_>], time: u64) {
        let time = TxTime {
            timestamp_ns: time.into(),
            ..TxTime::default()
        };
        if let [place] = self.chain.writable(spans) {
            place.write(0, time.as_bytes());
        }
    }
}

/// What a worker needs for a batch, kept from one to the next so that nothing is allocated for it.
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

/// The part of [`Scratch`] that frames need on their way to queues.
#[derive(Default)]
pub(crate) struct RxBatch {
    pub(crate) outgoing: Vec<SteeredTrain>,
    pub(crate) refused: Vec<FilteredTrain>,
    pub(crate) window: PrefetchWindow<'static>,
    pub(crate) interrupts: Vec<Interrupt>,
    /// Frames that were placed in buffers, ever.
    pub(crate) delivered: u64,
}

impl RxBatch {
    /// Raises the interrupts that are due, now that no lock is held.
    pub(crate) fn raise(&mut self) {
        for interrupt in self.interrupts.drain(..) {
            interrupt.raise();
        }
    }
}

/// A train that has to wait for receive buffers.
pub(crate) struct WaitingTrain {
    pub(crate) position: usize,
    pub(crate) backpressure: Backpressure,
}
