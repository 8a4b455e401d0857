//! A port's queues as the device's commands use them.

use std::num::NonZeroU64;

use rustix::rand::{GetRandomFlags, getrandom};
use zcnic_device::{
    fault::Lane,
    port::{Configuration, PortCounters, Rings},
    receive::{Layout, ReceiveCounters},
    transmit::{TransmitCounters, TransmitFormat},
};

use crate::{
    index::{PairIndex, RingIndex},
    port::{
        Port,
        context::PortContext,
        control_state::PublishContext,
        queues::{RxQueue, TxQueue},
    },
    ring::{
        ledger::LedgerRecorder,
        receive::ReceiveChains,
        transport::{Interrupt, Transport},
        window::PrefetchWindow,
    },
};

/// The queues of a port for the duration of a command. Locks one queue at a time; its user holds
/// the control lock.
pub(super) struct PortRings<'p> {
    port: &'p Port,
    publish_context: PublishContext,
}

impl<'p> PortRings<'p> {
    pub(super) fn new(port: &'p Port, publish_context: PublishContext) -> Self {
        Self {
            port,
            publish_context,
        }
    }

    fn stop_rx(&self, pair: PairIndex) -> u32 {
        let context = &self.port.context;
        let mut guard = self.port.queues.rx(pair);
        let RxQueue {
            transport,
            device,
            lane,
            ledger_state,
            stalled,
            ..
        } = &mut *guard;
        device.stop();
        *stalled = false;
        let recorder = ledger_state.recorder(|| context.now());
        let (drained, interrupt) = drain(context, pair.rx_ring(), transport, lane, recorder);
        // The stop of a queue that never ran is not reported.
        let report = ledger_state
            .stop(context.now())
            .filter(|report| report.posted > 0);
        let violations = ledger_state.violations(|| context.now());
        drop(guard);
        raise(interrupt);
        context.report_violations(pair, violations);
        if let Some(report) = report {
            context.report_stop(pair, report);
        }
        self.port.retry_senders();
        drained
    }

    fn stop_tx(&self, pair: PairIndex) -> u32 {
        let mut guard = self.port.queues.tx(pair);
        let TxQueue {
            transport,
            running,
            lane,
            decision,
            backpressure,
            ..
        } = &mut *guard;
        *running = false;
        *backpressure = None;
        *decision = None;
        let context = &self.port.context;
        let (drained, interrupt) = drain(context, pair.tx_ring(), transport, lane, None);
        drop(guard);
        raise(interrupt);
        drained
    }
}

/// Returns every available chain of a ring with length 0. Returns how many there were, and the
/// interrupt to raise when the queue is unlocked.
fn drain(
    context: &PortContext,
    ring: RingIndex,
    transport: &mut Transport,
    lane: &mut Lane,
    recorder: Option<LedgerRecorder<'_>>,
) -> (u32, Option<Interrupt>) {
    let split = match transport.ring() {
        Ok(split) => split,
        Err(error) => {
            context.mark_broken(ring, transport, error);
            return (0, None);
        }
    };
    if split.is_none() {
        lane.reset();
    }
    let mut chains =
        ReceiveChains::new(split, usize::MAX, PrefetchWindow::default()).recorded_by(recorder);
    lane.stop(&mut chains);
    let drained = chains.drain();
    let wanted = chains.publish();
    let error = chains.error();
    drop(chains);
    if let Some(error) = error {
        context.mark_broken(ring, transport, error);
    }
    (drained, if wanted { transport.interrupt() } else { None })
}

fn raise(interrupt: Option<Interrupt>) {
    if let Some(interrupt) = interrupt {
        interrupt.raise();
    }
}

/// Queue numbers come from the device, which checked them against the port's pairs; a number beyond
/// is ignored.
impl Rings for PortRings<'_> {
    fn session_id(&mut self) -> u64 {
        loop {
            let mut bytes = [0; 8];
            // Small requests are never cut short, and the pool is ready long before we run.
            let _ = getrandom(&mut bytes, GetRandomFlags::empty());
            if let Some(id) = NonZeroU64::new(u64::from_ne_bytes(bytes)) {
                return id.get();
            }
        }
    }

    fn reset(&mut self, command_pair: u16) {
        let command_pair = PairIndex::from_queue(command_pair);
        for pair in PairIndex::all() {
            self.stop_rx(pair);
            if Some(pair) != command_pair {
                self.stop_tx(pair);
            }
        }
        self.publish_context.command_pair = command_pair;
    }

    fn configure(&mut self, configuration: Configuration) {
        if configuration.transmit_format != Some(TransmitFormat::Zcnic) {
            self.publish_context.command_pair = None;
        }
        self.port
            .publish(self.publish_context.active(configuration));
    }

    fn start_receive(&mut self, queue: u16, layout: Layout, max_chains: usize) {
        if let Some(pair) = PairIndex::from_queue(queue) {
            let device = &mut self.port.queues.rx(pair).device;
            device.start(layout, max_chains);
        }
        self.port.retry_senders();
    }

    fn stop_receive(&mut self, queue: u16) -> u32 {
        PairIndex::from_queue(queue).map_or(0, |pair| self.stop_rx(pair))
    }

    fn start_transmit(&mut self, queue: u16) {
        if let Some(pair) = PairIndex::from_queue(queue) {
            self.port.queues.tx(pair).running = true;
            self.port.wakers.kick(pair.tx_ring());
        }
    }

    fn stop_transmit(&mut self, queue: u16) -> u32 {
        PairIndex::from_queue(queue).map_or(0, |pair| self.stop_tx(pair))
    }

    fn counters(&self, queue: u16) -> (ReceiveCounters, TransmitCounters) {
        let Some(pair) = PairIndex::from_queue(queue) else {
            return Default::default();
        };
        let queues = &self.port.queues;
        let receive = *queues.rx(pair).device.counters();
        (receive, queues.tx(pair).counters)
    }

    fn port_counters(&self) -> PortCounters {
        self.port.counters.of_device()
    }

    fn link_up(&self) -> bool {
        self.port.link_up()
    }

    fn clock(&self) -> u64 {
        self.port.context.clock()
    }
}
