//! Effects of fault rules that need other locks than the one under which the rule matched.

use zcnic_ctl::protocol::{
    event::{self, Event, EventKind},
    fault::FaultId,
};
use zcnic_device::{
    fault::{Direction, Effects, PortFault, receive::FaultyQueue},
    receive::Annotation,
};

use super::interrupts;
use crate::{
    index::PairIndex,
    port::{Port, context::PortContext, queues::RxQueue},
    protocol::direction_to_protocol,
    ring::{mover::GuestMover, receive::ReceiveChains, window::PrefetchWindow},
    timer::Job,
};

/// Applies the effects of a batch: publishes hits, schedules faults of the port, and delivers
/// frames that were redirected to other queues. The caller holds no receive queue of `port`, nor a
/// lock that comes behind those.
pub(crate) fn apply(port: &Port, effects: Effects) {
    let context = &port.context;
    if !effects.hits.is_empty() {
        publish_hits(context, &effects);
    }
    for fault in effects.port {
        let job = match fault {
            PortFault::LinkFlap { nanoseconds } => Job::LinkFlap(nanoseconds),
            PortFault::DeviceReset => Job::DeviceReset,
            PortFault::Disconnect => Job::Disconnect,
        };
        context.schedule(0, job);
    }
    for (queue, frame) in effects.redirected {
        with_rx_queue(port, queue, |faulty, note| {
            faulty.deliver_frame(&frame, note);
        });
    }
}

fn publish_hits(context: &PortContext, effects: &Effects) {
    let time = context.now();
    for hit in &effects.hits {
        context.publish(|| {
            Event::FaultHit(event::FaultHit {
                port: context.name().to_owned(),
                id: FaultId(hit.rule.0),
                action: hit.action.into(),
                direction: direction_to_protocol(hit.direction),
                queue: hit.queue,
                count: hit.count,
                hit: hit.hit,
                time,
            })
        });
    }
    context.lose(EventKind::FaultHit, effects.unlisted_hits);
    context.wake_waiting_clients();
}

/// Runs `action` on a receive queue under its lock and its fault rules, publishes the placed
/// frames, and applies the effects. A queue that the port does not have is ignored.
pub(crate) fn with_rx_queue(
    port: &Port,
    queue: u16,
    action: impl for<'a, 'm> FnOnce(
        &mut FaultyQueue<'a, GuestMover<'m, 'm>, ReceiveChains<'m>>,
        &Annotation,
    ),
) {
    let Some(pair) = PairIndex::from_queue(queue) else {
        return;
    };
    let context = &port.context;
    let armed = port.faults.armed(Direction::Receive);
    let active = port.active();
    let note = Annotation {
        queue,
        hash: None,
        offloads: active.configuration.offloads,
        time: active.stamp(port.rx_time(&active)),
        vlan: None,
    };
    let mut effects = Effects::default();
    let mut guard = port.queues.rx(pair);
    let RxQueue {
        transport,
        device,
        lane,
        ledger_state,
        ..
    } = &mut *guard;
    let usable = transport.is_enabled() && !active.suspended;
    let (ring, mut error) = match if usable { transport.ring() } else { Ok(None) } {
        Ok(ring) => (ring, None),
        Err(error) => (None, Some(error)),
    };
    let mut chains = ReceiveChains::new(ring, active.max_chains, PrefetchWindow::default())
        .recorded_by(ledger_state.recorder(|| context.now()));
    action(
        &mut FaultyQueue {
            queue: device,
            lane,
            armed: armed.as_deref(),
            mover: &GuestMover::new(),
            ring: &mut chains,
            now: context.now(),
            effects: &mut effects,
            fates: None,
        },
        &note,
    );
    let wanted = interrupts::after_faults(chains.publish(), &mut effects);
    error = error.or(chains.error());
    drop(chains);
    let interrupt = if wanted { transport.interrupt() } else { None };
    if let Some(error) = error {
        context.mark_broken(pair.rx_ring(), transport, error);
    }
    let due = lane.next_deadline(armed.as_deref());
    context.schedule_lane(Direction::Receive, pair, due);
    let violations = ledger_state.violations(|| context.now());
    drop(guard);
    if let Some(interrupt) = interrupt {
        interrupt.raise();
    }
    apply(port, effects);
    context.report_violations(pair, violations);
}
