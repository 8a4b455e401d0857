//! Interrupts of a batch: faults that lose or add one, and moderation.
//!
//! A moderated interrupt is raised when enough chains wait for the driver or a time has passed,
//! whichever comes first (`ethtool -C`).

use zcnic_device::fault::{Effects, InterruptFault};

use crate::{
    index::RingIndex,
    port::{context::PortContext, queues::Queues},
    ring::transport::Transport,
    timer::Job,
};

/// Whether to raise an interrupt that is `wanted` or not, after the batch's interrupt fault.
pub(crate) fn after_faults(wanted: bool, effects: &mut Effects) -> bool {
    InterruptFault::apply(effects.interrupt.take(), wanted)
}

/// Schedules the moderated interrupt of `ring` in `nanoseconds`, unless it is scheduled already.
pub(crate) fn schedule_moderated(
    context: &PortContext,
    ring: RingIndex,
    transport: &mut Transport,
    nanoseconds: u64,
) {
    if !std::mem::replace(&mut transport.moderated, true) {
        let due = context.now().saturating_add(nanoseconds);
        context.schedule(due, Job::Interrupt(ring));
    }
}

/// Raises the moderated interrupt of `ring` if the driver still wants it. The timer calls this.
pub(crate) fn raise_moderated(queues: &Queues, ring: RingIndex) {
    let interrupt = queues.with_transport(ring, Transport::take_moderated_interrupt);
    if let Some(interrupt) = interrupt {
        interrupt.raise();
    }
}
