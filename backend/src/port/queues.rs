//! The receive and the transmit queues of a port, each with its ring, under one lock per queue.

use std::{
    sync::{Mutex, MutexGuard},
    time::Instant,
};

use zcnic_device::{
    budget::Budget,
    fault::{Direction, Lane, lane::PORT_BYTES, transmit::ChainFault},
    ledger,
    receive::ReceiveQueue,
    transmit::TransmitCounters,
};

use crate::{
    index::{PairIndex, RingIndex},
    ring::{
        ledger::LedgerState, receive::ReceiveChains, transport::Transport, window::PrefetchWindow,
    },
    sync::lock,
};

/// The outcome of serving a transmit ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServeOutcome {
    /// There may be more chains.
    More,
    /// There are no more chains, and the driver was not asked to kick.
    Empty,
    /// The driver kicks when there are more chains.
    Idle,
    /// The next frame waits for receive buffers, at most until then.
    Backpressure(Instant),
    /// The next chain is not for the data path: it may be a command, or the first frame of a driver
    /// that is not known yet.
    Control,
}

/// A train of which not all segments could be delivered yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backpressure {
    /// The next segment.
    pub(crate) segment: usize,
    /// Segments below this passed the receiver's fault rules already.
    pub(crate) shown: usize,
    /// When the rest is dropped.
    pub(crate) deadline: Instant,
}

/// The fault rules' decision for a transmit chain whose train is under backpressure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RuleDecision {
    pub(crate) completion: Option<ChainFault>,
}

/// A receive queue and its ring.
#[derive(Debug)]
pub(crate) struct RxQueue {
    pub(crate) transport: Transport,
    /// The device's receive queue.
    pub(crate) device: ReceiveQueue,
    pub(crate) lane: Lane,
    pub(crate) ledger_state: LedgerState,
    /// A sender waits for buffers of this ring.
    pub(crate) waited_for: bool,
    /// A frame waited in vain: later frames are dropped without waiting until one is received.
    pub(crate) stalled: bool,
    /// The timer has a job to flush the segments that the queue holds for coalescing.
    pub(crate) flush_scheduled: bool,
}

/// A transmit queue and its ring.
#[derive(Debug)]
pub(crate) struct TxQueue {
    pub(crate) transport: Transport,
    pub(crate) lane: Lane,
    /// The lane of commands that arrive on this ring.
    pub(crate) commands: Lane,
    /// The fault rules' decision for the next chain, if it was made before backpressure.
    pub(crate) decision: Option<RuleDecision>,
    pub(crate) running: bool,
    pub(crate) counters: TransmitCounters,
    /// How far the next chain got before buffers ran out.
    pub(crate) backpressure: Option<Backpressure>,
}

impl RxQueue {
    fn new(pair: PairIndex, budget: &Budget, ledger: &Budget) -> Self {
        Self {
            transport: Transport::default(),
            device: ReceiveQueue::default(),
            lane: Lane::new(Direction::Receive, pair.queue(), budget),
            ledger_state: LedgerState::new(ledger),
            waited_for: false,
            stalled: false,
            flush_scheduled: false,
        }
    }

    /// Records chains in the ledger that were posted since the last frame. An error of the ring is
    /// left to the next frame to find.
    pub(crate) fn record_posted(&mut self, now: u64) {
        if let Ok(Some(ring)) = self.transport.ring() {
            ReceiveChains::new(Some(ring), 0, PrefetchWindow::default())
                .recorded_by(self.ledger_state.recorder(|| now))
                .record_posted();
        }
    }
}

impl TxQueue {
    fn new(pair: PairIndex, budget: &Budget) -> Self {
        Self {
            transport: Transport::default(),
            lane: Lane::new(Direction::Transmit, pair.queue(), budget),
            commands: Lane::new(Direction::Command, pair.queue(), budget),
            decision: None,
            running: false,
            counters: TransmitCounters::default(),
            backpressure: None,
        }
    }
}

/// All queues of a port.
///
/// Lock order: one transmit queue, then one receive queue (of the peer). A thread never holds two
/// of one direction.
#[derive(Debug)]
pub(crate) struct Queues {
    rx: Vec<Mutex<RxQueue>>,
    tx: Vec<Mutex<TxQueue>>,
}

impl Queues {
    pub(super) fn new() -> Self {
        let budget = Budget::new(PORT_BYTES);
        let ledger = Budget::new(ledger::PORT_BYTES);
        Self {
            rx: PairIndex::all()
                .map(|pair| Mutex::new(RxQueue::new(pair, &budget, &ledger)))
                .collect(),
            tx: PairIndex::all()
                .map(|pair| Mutex::new(TxQueue::new(pair, &budget)))
                .collect(),
        }
    }

    /// Locks the receive queue of `pair`.
    #[inline]
    pub(crate) fn rx(&self, pair: PairIndex) -> MutexGuard<'_, RxQueue> {
        lock(&self.rx[pair.position()])
    }

    /// Locks the transmit queue of `pair`.
    #[inline]
    pub(crate) fn tx(&self, pair: PairIndex) -> MutexGuard<'_, TxQueue> {
        lock(&self.tx[pair.position()])
    }

    /// Runs `action` on the transport of `ring` while the ring is locked.
    pub(crate) fn with_transport<R>(
        &self,
        ring: RingIndex,
        action: impl FnOnce(&mut Transport) -> R,
    ) -> R {
        let pair = ring.pair();
        if ring.is_rx() {
            action(&mut self.rx(pair).transport)
        } else {
            action(&mut self.tx(pair).transport)
        }
    }

    /// Returns when every thread that held a transmit queue's lock has released it.
    pub(crate) fn pass_through_tx(&self) {
        for queue in &self.tx {
            drop(lock(queue));
        }
    }
}
