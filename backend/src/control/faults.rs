//! Changes of fault rules, and the release of held-back frames and chains when a ring stops.

use zcnic_device::fault::RuleId;

use crate::{
    index::{PairIndex, RingIndex},
    port::{
        Port,
        context::PortContext,
        faults::DIRECTIONS,
        queues::{Queues, RxQueue, TxQueue},
    },
    ring::{
        RingError,
        receive::ReceiveChains,
        transport::{Interrupt, Transport},
        window::PrefetchWindow,
    },
    timer::Job,
    waker::Waker,
};

/// Removes a rule and releases its held-back frames and chains; returns whether it existed.
pub(crate) fn remove(port: &Port, id: RuleId) -> bool {
    let removed = port.faults.remove(id);
    if removed {
        schedule_releases(&port.context, &port.queues);
    }
    removed
}

/// Removes all rules and releases their held-back frames and chains.
pub(crate) fn clear(port: &Port) {
    port.faults.clear();
    schedule_releases(&port.context, &port.queues);
}

/// Schedules a release for each lane that holds something back.
fn schedule_releases(context: &PortContext, queues: &Queues) {
    for pair in PairIndex::all() {
        let rx = queues.rx(pair).lane.is_idle();
        let (tx, commands) = {
            let queue = queues.tx(pair);
            (queue.lane.is_idle(), queue.commands.is_idle())
        };
        for (direction, idle) in DIRECTIONS.into_iter().zip([rx, tx, commands]) {
            if !idle {
                context.schedule(0, Job::Lane(direction, pair));
            }
        }
    }
}

/// Stops a ring for the frontend. Before, under the same lock, returns the chains that its lanes
/// hold back.
pub(super) fn stop_ring(port: &Port, ring: RingIndex) {
    let pair = ring.pair();
    let waker = port.wakers.of(ring);
    let interrupt = if ring.is_rx() {
        let queue = &mut *port.queues.rx(pair);
        let interrupt = release_rx(&port.context, pair, queue);
        stop_transport(&mut queue.transport, interrupt, waker)
    } else {
        let queue = &mut *port.queues.tx(pair);
        let interrupt = release_tx(&port.context, pair, queue);
        stop_transport(&mut queue.transport, interrupt, waker)
    };
    if let Some(interrupt) = interrupt {
        interrupt.raise();
    }
}

fn stop_transport(
    transport: &mut Transport,
    interrupt: Option<Interrupt>,
    waker: &Waker,
) -> Option<Interrupt> {
    let interrupt = interrupt.or_else(|| transport.take_moderated_interrupt());
    transport.stop(waker);
    interrupt
}

/// Returns the chains that lanes hold back of all rings, which keep running.
pub(super) fn release_all(context: &PortContext, queues: &Queues) {
    for pair in PairIndex::all() {
        // One after the other: a transmit queue may not be locked under a receive queue.
        let rx = release_rx(context, pair, &mut queues.rx(pair));
        let tx = release_tx(context, pair, &mut queues.tx(pair));
        for interrupt in rx.into_iter().chain(tx) {
            interrupt.raise();
        }
    }
}

fn release_rx(context: &PortContext, pair: PairIndex, queue: &mut RxQueue) -> Option<Interrupt> {
    let RxQueue {
        transport,
        lane,
        ledger_state,
        ..
    } = queue;
    if lane.is_idle() {
        return None;
    }
    let released = transport.ring().and_then(|ring| {
        if ring.is_none() {
            lane.reset();
        }
        let mut chains = ReceiveChains::new(ring, usize::MAX, PrefetchWindow::default())
            .recorded_by(ledger_state.recorder(|| context.now()));
        lane.stop(&mut chains);
        let wanted = chains.publish();
        chains.error().map_or(Ok(wanted), Err)
    });
    interrupt_after(context, pair.rx_ring(), transport, released)
}

fn release_tx(context: &PortContext, pair: PairIndex, queue: &mut TxQueue) -> Option<Interrupt> {
    let TxQueue {
        transport,
        lane,
        commands,
        ..
    } = queue;
    if lane.is_idle() && commands.is_idle() {
        return None;
    }
    let released = transport.ring().map(|ring| {
        let Some(mut ring) = ring else {
            lane.reset();
            commands.reset();
            return false;
        };
        lane.stop(&mut ring);
        commands.stop(&mut ring);
        ring.publish()
    });
    interrupt_after(context, pair.tx_ring(), transport, released)
}

/// The interrupt that the driver wants after a release.
fn interrupt_after(
    context: &PortContext,
    ring: RingIndex,
    transport: &mut Transport,
    wanted: Result<bool, RingError>,
) -> Option<Interrupt> {
    match wanted {
        Ok(true) => transport.interrupt(),
        Ok(false) => None,
        Err(error) => {
            context.mark_broken(ring, transport, error);
            None
        }
    }
}
