//! Actions of the control server and of fault rules on a whole port.

use zcnic_device::{abi, ledger};

use super::{events, faults, session};
use crate::{
    index::PairIndex,
    port::{Port, line::Line, queues::Queues},
};

/// Allows a carrier or not.
pub(crate) fn set_link(port: &Port, up: bool) {
    if port.allow_carrier(up) == up {
        return;
    }
    let peer = port.peer().map(|(peer, _)| peer);
    for port in std::iter::once(port).chain(peer.as_deref()) {
        events::send(port, abi::EVENT_LINK);
        port.wakers.retry();
        port.report_link();
    }
}

/// Sets whether the line of `port` has a carrier.
pub(crate) fn set_line(port: &Port, line: &Line, up: bool) {
    if line.set_up(up) {
        events::send(port, abi::EVENT_LINK);
        port.wakers.retry();
        port.report_link();
    }
}

/// Configures the ledgers of all receive queues; they start from scratch.
pub(crate) fn set_ledger(queues: &Queues, settings: ledger::Settings) {
    for pair in PairIndex::all() {
        queues.rx(pair).ledger_state.configure(settings);
    }
}

/// Resets the device: it loses its session and its configuration.
pub(crate) fn reset_device(port: &Port) {
    let mut control = port.control();
    // Sent in the session that ends: a driver without a posted buffer learns of the reset from the
    // answer to its next command. A command sent because of the event waits for the control lock.
    events::send_locked(port, &mut control, abi::EVENT_RESET);
    faults::release_all(&port.context, &port.queues);
    session::end(port, &mut control, "a device reset was requested");
}
