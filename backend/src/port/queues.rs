//! The two rings of a queue pair, and what moving frames through them leaves behind.

use std::time::Instant;

use zcnic_device::{
    fault::{Direction, Lane},
    receive::ReceiveQueue,
    transmit::TransmitCounters,
};

use crate::{
    datapath::faulty::RuleDecision,
    ring::{
        ledger::LedgerState, receive::ReceiveChains, transport::Transport, window::PrefetchWindow,
    },
};

/// What serving a transmit ring came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServeOutcome {
    /// There may be more.
    More,
    /// There is no more, and no kick will tell when there is.
    Empty,
    /// A kick will tell when there is more.
    Idle,
    /// Its next frame waits for receive buffers, at most until then.
    Backpressure(Instant),
}

/// A receive ring and its queue.
#[derive(Debug)]
pub(crate) struct RxQueue {
    pub(crate) transport: Transport,
    pub(crate) queue: ReceiveQueue,
    pub(crate) lane: Lane,
    pub(crate) ledger_state: LedgerState,
    /// Somebody is blocked on this ring.
    pub(crate) waited_for: bool,
    /// A frame waited in vain; the next ones do not wait until one is received.
    pub(crate) stalled: bool,
    /// The [hub](crate::timer) will look at what the queue holds.
    pub(crate) releasing: bool,
}

/// A transmit ring and its queue.
#[derive(Debug)]
pub(crate) struct TxQueue {
    pub(crate) transport: Transport,
    pub(crate) lane: Lane,
    /// The lane of commands that come on this ring.
    pub(crate) commands: Lane,
    /// What fault rules said of the next chain, if they were asked before it had to wait.
    pub(crate) decision: Option<RuleDecision>,
    pub(crate) running: bool,
    pub(crate) counters: TransmitCounters,
    /// How far the next chain got before buffers ran out.
    pub(crate) backpressure: Option<Backpressure>,
}

impl RxQueue {
    pub(crate) fn new(queue: u16) -> Self {
        Self {
            transport: Transport::default(),
            queue: ReceiveQueue::default(),
            lane: Lane::new(Direction::Receive, queue),
            ledger_state: LedgerState::default(),
            waited_for: false,
            stalled: false,
            releasing: false,
        }
    }

    /// Tells the ledger of chains that were posted since the last frame. What is wrong with the ring, the next one finds.
    pub(crate) fn look(&mut self, now: u64) {
        if let Ok(Some(ring)) = self.transport.ring() {
            ReceiveChains::new(Some(ring), 0, PrefetchWindow::default())
                .recorded_by(self.ledger_state.recorder(|| now))
                .look();
        }
    }
}

impl TxQueue {
    pub(crate) fn new(queue: u16) -> Self {
        Self {
            transport: Transport::default(),
            lane: Lane::new(Direction::Transmit, queue),
            commands: Lane::new(Direction::Command, queue),
            decision: None,
            running: false,
            counters: TransmitCounters::default(),
            backpressure: None,
        }
    }
}

/// A train of which not all segments could be delivered yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backpressure {
    /// The next segment.
    pub(crate) segment: usize,
    /// Segments below this were shown to the receiver's fault rules.
    pub(crate) shown: usize,
    /// When it is given up.
    pub(crate) deadline: Instant,
}
