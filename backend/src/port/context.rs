//! Who a port is to its surroundings: its name, its log lines, its events and its jobs.

use std::{fmt::Arguments, sync::Arc};

use log::Level;
use zcnic_ctl::protocol::event::{self, Event, EventKind};
use zcnic_device::{fault::Direction, ledger};

use crate::{
    captures::Captures,
    index::{PairIndex, RingIndex},
    limit::LogLimit,
    memory::MemoryRules,
    notifier::Notifier,
    protocol::stop_report_to_protocol,
    ring::{
        RingError,
        ledger::{FoundViolation, violation_to_protocol},
        transport::Transport,
    },
    services::Services,
    timer::Job,
};

/// A port's name and number, its log, and its access to the shared services.
#[derive(Debug)]
pub(crate) struct PortContext {
    name: String,
    /// The port's position among those of the backend.
    number: usize,
    services: Arc<Services>,
    warnings: LogLimit,
    notices: LogLimit,
}

impl PortContext {
    pub(super) fn new(name: String, number: usize, services: &Arc<Services>) -> Self {
        Self {
            name,
            number,
            services: Arc::clone(services),
            warnings: LogLimit::new(),
            notices: LogLimit::new(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The port's position among those of the backend.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// What signals the eventfds of frontends.
    pub(crate) fn notifier(&self) -> &Arc<Notifier> {
        &self.services.notifier
    }

    pub(crate) fn captures(&self) -> &Captures {
        &self.services.captures
    }

    pub(crate) fn memory_rules(&self) -> &MemoryRules {
        &self.services.memory
    }

    /// Nanoseconds since the backend started.
    pub(crate) fn now(&self) -> u64 {
        self.services.timer.now()
    }

    /// The device's clock, in nanoseconds.
    pub(crate) fn clock(&self) -> u64 {
        self.services.timer.clock()
    }

    /// Schedules `job` of this port for `deadline`.
    pub(crate) fn schedule(&self, deadline: u64, job: Job) {
        self.services.timer.schedule(deadline, self.number, job);
    }

    /// Schedules `job` for `due`, but at least a millisecond from now: a job that is overdue failed
    /// just now, and an immediate retry would spin.
    pub(crate) fn schedule_retry(&self, due: u64, job: Job) {
        const PAUSE: u64 = 1_000_000;
        self.schedule(due.max(self.now().saturating_add(PAUSE)), job);
    }

    /// Schedules the release of a fault lane at `due`, if it holds something back.
    pub(crate) fn schedule_lane(&self, direction: Direction, pair: PairIndex, due: Option<u64>) {
        if let Some(due) = due {
            self.schedule_retry(due, Job::Lane(direction, pair));
        }
    }

    /// Logs, within limits, that a guest or frontend did something it should not.
    pub(crate) fn warn(&self, message: Arguments<'_>) {
        self.log(&self.warnings, Level::Warn, message);
    }

    /// Logs, within limits, an action of a guest or frontend.
    pub(crate) fn info(&self, message: Arguments<'_>) {
        self.log(&self.notices, Level::Info, message);
    }

    fn log(&self, limit: &LogLimit, level: Level, message: Arguments<'_>) {
        limit.log(level, format_args!("Port {}: {message}", self.name));
    }

    /// Marks a ring broken until it is set up again; logs the reason the first time.
    pub(crate) fn mark_broken(&self, ring: RingIndex, transport: &mut Transport, error: RingError) {
        if transport.mark_broken() {
            self.warn(format_args!("ring {ring} is marked broken: {error}"));
        }
    }

    /// Publishes an event to the clients that subscribed to its kind.
    pub(crate) fn publish(&self, event: impl FnOnce() -> Event) {
        self.services.events.publish(event);
    }

    /// Counts events that are not published, for the clients that subscribed to their kind.
    pub(crate) fn lose(&self, kind: EventKind, count: u64) {
        self.services.events.lose(kind, count);
    }

    /// Wakes clients that wait for hits of a fault rule.
    pub(crate) fn wake_waiting_clients(&self) {
        self.services.events.wake();
    }

    /// Publishes whether a frontend is connected.
    pub(crate) fn report_connection(&self, connected: bool) {
        self.publish(|| {
            Event::Connection(event::Connection {
                port: self.name.clone(),
                connected,
            })
        });
    }

    /// Publishes the ledger's report of a queue stop.
    pub(crate) fn report_stop(&self, pair: PairIndex, report: ledger::StopReport) {
        self.publish(|| {
            Event::QueueStop(event::QueueStop {
                port: self.name.clone(),
                queue: pair.queue(),
                report: stop_report_to_protocol(report),
            })
        });
    }

    /// Logs and publishes violations that a ledger found.
    pub(crate) fn report_violations(&self, pair: PairIndex, violations: Vec<FoundViolation>) {
        for found in violations {
            let violation = found.violation;
            self.warn(format_args!("receive queue {pair}: {violation}"));
            self.publish(|| {
                Event::Violation(violation_to_protocol(&self.name, pair.queue(), &found))
            });
        }
    }
}
