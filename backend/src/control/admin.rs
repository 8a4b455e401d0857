//! What the control server does to a port, and what it tells its clients of it.

use std::sync::atomic::Ordering;

use zcnic_ctl::protocol::{
    event::{self, Event},
    ledger::StopReport,
};
use zcnic_device::{abi, ledger};

use crate::{port::Port, sync::lock};

impl Port {
    /// Allows a carrier or not.
    pub(crate) fn set_link(&self, up: bool) {
        if self.carrier.swap(up, Ordering::AcqRel) == up {
            return;
        }
        let peer = self.peer().map(|(peer, _)| peer);
        for port in std::iter::once(self).chain(peer.as_deref()) {
            port.send_event(abi::EVENT_LINK);
            port.retry();
            port.tell_link();
        }
    }

    /// Says to subscribers whether there is a carrier.
    pub(crate) fn tell_link(&self) {
        self.hub.events.publish(|| {
            Event::Link(event::Link {
                port: self.name.clone(),
                up: self.link_up(),
            })
        });
    }

    /// Says to subscribers whether there is a frontend.
    pub(crate) fn tell_connection(&self, connected: bool) {
        self.hub.events.publish(|| {
            Event::Connection(event::Connection {
                port: self.name.clone(),
                connected,
            })
        });
    }

    /// What the ledgers of all receive queues do from now on.
    pub(crate) fn set_ledger(&self, settings: ledger::Settings) {
        for side in &self.receive {
            lock(side).ledger_state.configure(settings);
        }
    }

    /// The device forgets its session and its configuration.
    pub(crate) fn reset_device(&self) {
        let mut control = self.control();
        // In the session that ends: whoever has no buffer for it finds out with its next command. A command
        // that the event is a reason for has to wait for us.
        self.announce(&mut control, abi::EVENT_RESET);
        self.release_all();
        self.end_session(&mut control, "the device was told to reset");
    }

    /// Says how a queue's ledger sees its stop.
    pub(crate) fn report_stop(&self, pair: usize, report: ledger::Report) {
        self.hub.events.publish(|| {
            Event::QueueStop(event::QueueStop {
                port: self.name.clone(),
                queue: pair as u16,
                report: stop_report(report),
            })
        });
    }

    /// Says what a ledger found.
    pub(crate) fn report_violations(&self, pair: usize, violations: Vec<ledger::Violation>) {
        for violation in violations {
            self.warn(format_args!("receive queue {pair}: {violation}"));
            self.hub.events.publish(|| {
                Event::Violation(event::Violation {
                    port: self.name.clone(),
                    queue: pair as u16,
                    kind: violation.name().into(),
                    desc: violation.to_string(),
                })
            });
        }
    }
}

/// What is said of a queue that stopped.
pub(crate) fn stop_report(report: ledger::Report) -> StopReport {
    StopReport {
        clean: report.is_clean(),
        posted: report.posted,
        returned: report.returned,
        violations: report.violations,
        out: report.out,
    }
}
