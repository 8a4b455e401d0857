//! The timer's jobs on the data path: releases of fault lanes, flushes of coalesced segments.

use zcnic_device::fault::{Direction, Lane};

use super::{effects::with_rx_queue, faulty::send_frames, receive::schedule_flush};
use crate::{
    index::PairIndex,
    port::{
        Port,
        context::PortContext,
        queues::{Queues, TxQueue},
    },
    ring::split::SplitRing,
};

/// Releases frames and chains that the lane of one direction and pair holds back, as far as they
/// are due.
pub(crate) fn release_due(port: &Port, direction: Direction, pair: PairIndex) {
    match direction {
        Direction::Receive => with_rx_queue(port, pair.queue(), |faulty, note| {
            faulty.release(note);
        }),
        Direction::Transmit => release_tx(port, pair),
        Direction::Command => release_commands(port, pair),
    }
}

fn release_tx(port: &Port, pair: PairIndex) {
    let context = &port.context;
    let armed = port.faults.armed(Direction::Transmit);
    let now = context.now();
    let frames = {
        let mut queue = port.queues.tx(pair);
        let frames = queue.lane.take_due(armed.as_deref(), now);
        let due = queue.lane.next_deadline(armed.as_deref());
        context.schedule_lane(Direction::Transmit, pair, due);
        frames
    };
    with_tx_ring(context, &port.queues, pair, |ring, lane, _| {
        lane.return_due(ring, armed.as_deref(), now);
    });
    send_frames(port, pair.queue(), &frames);
    // A stall may have ended.
    port.wakers.kick(pair.tx_ring());
}

fn release_commands(port: &Port, pair: PairIndex) {
    let context = &port.context;
    let armed = port.faults.armed(Direction::Command);
    let now = context.now();
    with_tx_ring(context, &port.queues, pair, |ring, _, commands| {
        commands.return_due(ring, armed.as_deref(), now);
    });
    let due = port
        .queues
        .tx(pair)
        .commands
        .next_deadline(armed.as_deref());
    context.schedule_lane(Direction::Command, pair, due);
}

/// Runs `action` on a running transmit ring and its two lanes, the frames' and the commands', under
/// its lock; publishes completed chains and notifies the driver.
pub(crate) fn with_tx_ring(
    context: &PortContext,
    queues: &Queues,
    pair: PairIndex,
    action: impl FnOnce(&mut SplitRing<'_>, &mut Lane, &mut Lane),
) {
    let mut guard = queues.tx(pair);
    let TxQueue {
        transport,
        lane,
        commands,
        ..
    } = &mut *guard;
    let published = transport.ring().map(|ring| {
        ring.is_some_and(|mut ring| {
            action(&mut ring, lane, commands);
            ring.publish()
        })
    });
    let wanted = published.unwrap_or_else(|error| {
        context.mark_broken(pair.tx_ring(), transport, error);
        false
    });
    let interrupt = if wanted { transport.interrupt() } else { None };
    drop(guard);
    if let Some(interrupt) = interrupt {
        interrupt.raise();
    }
}

/// Flushes segments that a receive queue holds for coalescing, as far as they are due.
pub(crate) fn flush_held(port: &Port, pair: PairIndex) {
    let stalled = {
        let queue = &mut *port.queues.rx(pair);
        queue.flush_scheduled = false;
        queue.stalled
    };
    let waits = !stalled && port.senders_wait();
    let flows = port.flow_counters.current();
    let number = pair.queue();
    with_rx_queue(port, number, |faulty, _| {
        let device = &mut *faulty.queue;
        device.release(faulty.mover, faulty.ring, waits, faulty.now);
        device.settled(|held| {
            flows.count(held.headers(), held.header_bytes(), number, &held.delivered);
        });
    });
    let queue = &mut *port.queues.rx(pair);
    schedule_flush(
        &port.context,
        pair,
        &queue.device,
        &mut queue.flush_scheduled,
    );
}
