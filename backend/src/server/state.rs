//! The state that the commands of all clients share.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use zcnic_ctl::protocol::{Failure, FlowMatch};
use zcnic_device::fault::RuleId;

use super::arguments::{not_found, wrong};
use crate::{
    config::{CableConfig, SwitchConfig, WireConfig},
    entry::Entry,
    port::{line::Line, switch::Switch},
    services::Services,
    sync::lock,
};

/// What connects the ports to each other and to the world.
#[derive(Debug)]
pub(crate) struct LinkState {
    pub(crate) cables: Vec<CableConfig>,
    pub(crate) wires: Vec<WireConfig>,
    pub(crate) switches: Vec<(SwitchConfig, Arc<Switch>)>,
    /// Lines, with the number of the port that sends on each.
    pub(crate) lines: Vec<(usize, Arc<Line>)>,
}

/// The ports of a backend, and the numbers that the server gives to flow counters and fault rules.
#[derive(Debug)]
pub(crate) struct ServerState {
    ports: Vec<Arc<Entry>>,
    links: LinkState,
    services: Arc<Services>,
    /// The port's position, by the number of its flow counter.
    flow_counters: Mutex<BTreeMap<u64, usize>>,
    next_flow: AtomicU64,
    next_rule: AtomicU64,
    stopping: AtomicBool,
}

impl ServerState {
    pub(crate) fn new(ports: Vec<Arc<Entry>>, links: LinkState, services: Arc<Services>) -> Self {
        Self {
            ports,
            links,
            services,
            flow_counters: Mutex::default(),
            next_flow: AtomicU64::new(1),
            next_rule: AtomicU64::new(1),
            stopping: AtomicBool::new(false),
        }
    }

    /// Ends commands that wait.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.services.events.wake();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(super) fn entries(&self) -> &[Arc<Entry>] {
        &self.ports
    }

    pub(super) fn links(&self) -> &LinkState {
        &self.links
    }

    pub(super) fn services(&self) -> &Services {
        &self.services
    }

    /// The position of the port that is called `name`.
    pub(super) fn position(&self, name: &str) -> Result<usize, Failure> {
        let names = || self.ports.iter().map(|entry| entry.port.context.name());
        names().position(|known| known == name).ok_or_else(|| {
            let known: Vec<&str> = names().collect();
            not_found(format!("No port {name:?}; there are {}", known.join(", ")))
        })
    }

    /// The port that is called `name`.
    pub(super) fn entry(&self, name: &str) -> Result<&Arc<Entry>, Failure> {
        self.position(name).map(|position| &self.ports[position])
    }

    /// Adds a flow counter to the port that is called `name`; returns its number.
    pub(super) fn add_flow_counter(&self, name: &str, pattern: FlowMatch) -> Result<u64, Failure> {
        let position = self.position(name)?;
        let id = self.next_flow.fetch_add(1, Ordering::Relaxed);
        if !self.ports[position].port.flow_counters.add(id, pattern) {
            return Err(wrong(format!(
                "Port {name} has too many flow counters, remove some"
            )));
        }
        lock(&self.flow_counters).insert(id, position);
        Ok(id)
    }

    /// The port that has flow counter `id`.
    pub(super) fn flow_counter(&self, id: u64) -> Result<&Arc<Entry>, Failure> {
        let position = lock(&self.flow_counters).get(&id).copied();
        position
            .map(|position| &self.ports[position])
            .ok_or_else(|| not_found(format!("No flow counter {id}")))
    }

    /// Removes flow counter `id`.
    pub(super) fn remove_flow_counter(&self, id: u64) -> Result<(), Failure> {
        self.flow_counter(id)?.port.flow_counters.remove(id);
        lock(&self.flow_counters).remove(&id);
        Ok(())
    }

    /// Removes all flow counters.
    #[cfg(feature = "fuzzing")]
    pub(super) fn remove_all_flow_counters(&self) {
        for (id, port) in std::mem::take(&mut *lock(&self.flow_counters)) {
            self.ports[port].port.flow_counters.remove(id);
        }
    }

    /// The number of the next fault rule.
    pub(super) fn next_rule(&self) -> RuleId {
        RuleId(self.next_rule.fetch_add(1, Ordering::Relaxed))
    }
}
