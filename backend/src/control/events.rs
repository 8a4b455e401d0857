//! Events to the zcnic driver, which arrive in buffers of the command pair's receive ring.

use zcnic_device::abi;
use zerocopy::IntoBytes;

use crate::{
    index::PairIndex,
    port::{Port, control_state::ControlState},
    ring::{chain::walk, mover::scatter, raw::Span, transport::Interrupt},
};

/// Sends event `bits` (`EVENT_*`) to the driver, now or when it posts a buffer. Takes the control
/// lock.
pub(crate) fn send(port: &Port, bits: u32) {
    send_locked(port, &mut port.control(), bits);
}

/// Does what [`send`] does for a caller that holds the control lock.
pub(crate) fn send_locked(port: &Port, control: &mut ControlState, bits: u32) {
    control.pending_events |= bits;
    flush(port, control);
}

/// Handles a kick of a receive ring: the driver posted buffers, for events or for frames of a peer
/// under backpressure.
pub(crate) fn rx_kicked(port: &Port, pair: PairIndex) {
    if port.active().command_pair == Some(pair) {
        flush(port, &mut port.control());
    } else if std::mem::take(&mut port.queues.rx(pair).waited_for) {
        port.retry_senders();
    }
}

/// Sends pending events if the driver posted a buffer for them; else asks for a kick.
pub(super) fn flush(port: &Port, control: &mut ControlState) {
    let Some(pair) = control.command_pair() else {
        control.pending_events = 0;
        return;
    };
    if control.pending_events == 0 {
        return;
    }
    if let Some(interrupt) = place(port, pair, control) {
        interrupt.raise();
    }
}

/// Places the pending events in the next buffer, if the ring runs and there is one. Returns the
/// interrupt to raise when the ring is unlocked.
fn place(port: &Port, pair: PairIndex, control: &mut ControlState) -> Option<Interrupt> {
    let transport = &mut port.queues.rx(pair).transport;
    if !transport.is_enabled() {
        return None;
    }
    let (result, interrupt) = transport.with_ring(|ring| {
        if ring.available(1)? == 0 && !ring.enable_kicks()? {
            return Ok(());
        }
        let head = ring.head(0)?;
        let mut spans = Vec::new();
        let mut written = 0;
        if let Ok(chain) = walk(ring.map(), head, &mut spans) {
            let writable = chain.writable(&spans);
            let room: usize = writable.iter().map(Span::len).sum();
            if room >= size_of::<abi::Event>()
                && let Some(event) = control.device.event(control.pending_events)
            {
                written = scatter(writable, event.as_bytes());
                control.pending_events = 0;
            }
        }
        ring.complete(head, written as u32);
        Ok(())
    });
    if let Err(error) = result {
        port.context.mark_broken(pair.rx_ring(), transport, error);
    }
    interrupt
}
