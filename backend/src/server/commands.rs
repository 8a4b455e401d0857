//! What the commands do.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use serde_json::Value;
use zcnic_ctl::protocol::{
    ErrorClass, Failure, FlowCounterAdd, FlowCounterId, FlowCounts, command,
    event::Subscribe,
    fault::{FaultAdd, FaultIds, FaultRemove, FaultStatus, FaultWait, Faults},
    ledger::{LedgerMode, LedgerSet},
    port::{CaptureStart, FeaturesSet, LinkSet, PortName},
};
use zcnic_device::{
    fault::{RuleId, RuleStatus},
    features::{Feature, FeatureSet},
    ledger,
};

use super::{
    Client, Inner, none, not_found, nothing, parse,
    query::{names, word},
    value, wrong,
};
use crate::{
    entry::Entry,
    port::Port,
    protocol::{rule_from_protocol, rule_to_protocol},
    sync::lock,
};

type Answer = Result<Value, Failure>;

impl Inner {
    pub(super) fn execute(
        &self,
        name: &str,
        arguments: Option<Value>,
        client: &Client<'_>,
    ) -> Answer {
        match name {
            command::QUERY_STATUS => none(arguments).and_then(|()| value(&self.status())),
            command::QUERY_STATS => none(arguments).and_then(|()| value(&self.stats())),
            command::QUERY_FEATURES => value(&self.features(self.port(arguments)?)),
            command::FEATURES_SET => self.set_features(&parse(arguments)?),
            command::QUERY_QUEUES => value(&self.queues(self.port(arguments)?)),
            command::QUERY_STEERING => value(&self.steering(self.port(arguments)?)),
            command::FLOW_COUNTER_ADD => value(&self.add_flow(&parse(arguments)?)?),
            command::FLOW_COUNTER_QUERY => value(&self.query_flow(parse(arguments)?)?),
            command::FLOW_COUNTER_REMOVE => {
                self.remove_flow(parse(arguments)?)?;
                Ok(nothing())
            }
            command::FAULT_ADD => value(&self.add_faults(&parse(arguments)?)?),
            command::FAULT_LIST => none(arguments).and_then(|()| value(&self.faults())),
            command::FAULT_REMOVE => self.remove_faults(&parse(arguments)?),
            command::FAULT_WAIT => value(&self.wait_for_fault(parse(arguments)?, client)?),
            command::LEDGER_SET => self.set_ledger(&parse(arguments)?),
            command::QUERY_LEDGER => value(&self.ledger(self.port(arguments)?)),
            command::LEDGER_HISTORY => value(&self.history(&parse(arguments)?)?),
            command::LINK_SET => {
                let LinkSet { port, up } = parse(arguments)?;
                self.entry(&port)?.port.set_link(up);
                Ok(nothing())
            }
            command::DEVICE_RESET => {
                self.port(arguments)?.reset_device();
                Ok(nothing())
            }
            command::DISCONNECT => {
                let PortName { port } = parse(arguments)?;
                self.entry(&port)?.disconnect();
                Ok(nothing())
            }
            command::CAPTURE_START => {
                let CaptureStart { port, length } = parse(arguments)?;
                let length = length.map_or(usize::MAX, |length| length as usize);
                let port = self.index(&port)?;
                self.shared.hub.captures.start(port, client.outbox, length);
                Ok(nothing())
            }
            command::CAPTURE_STOP => {
                let PortName { port } = parse(arguments)?;
                let index = self.index(&port)?;
                if !self.shared.hub.captures.stop(Some(index), client.outbox) {
                    return Err(not_found(format!("No capture of port {port}")));
                }
                Ok(nothing())
            }
            command::SUBSCRIBE => {
                let Subscribe { events } = parse(arguments)?;
                client.outbox.subscribe(events);
                self.shared.hub.captures.stop(None, client.outbox);
                Ok(nothing())
            }
            other => Err(Failure {
                class: ErrorClass::CommandNotFound,
                desc: format!(
                    "No command {other:?}; there are {}",
                    command::ALL.join(", ")
                ),
            }),
        }
    }

    pub(super) fn entries(&self) -> &[Arc<Entry>] {
        &self.shared.ports
    }

    fn index(&self, name: &str) -> Result<usize, Failure> {
        let names = || self.entries().iter().map(|entry| entry.port.name.as_str());
        names().position(|known| known == name).ok_or_else(|| {
            let known: Vec<&str> = names().collect();
            not_found(format!("No port {name:?}; there are {}", known.join(", ")))
        })
    }

    pub(super) fn entry(&self, name: &str) -> Result<&Arc<Entry>, Failure> {
        self.index(name).map(|index| &self.entries()[index])
    }

    fn port(&self, arguments: Option<Value>) -> Result<&Arc<Port>, Failure> {
        let PortName { port } = parse(arguments)?;
        Ok(&self.entry(&port)?.port)
    }

    fn add_flow(&self, add: &FlowCounterAdd) -> Result<FlowCounterId, Failure> {
        let index = self.index(&add.port)?;
        let id = self.next_flow.fetch_add(1, Ordering::Relaxed);
        if !self.entries()[index].port.flows.add(id, add.pattern) {
            return Err(wrong(format!(
                "Port {} has too many flow counters, remove some",
                add.port
            )));
        }
        lock(&self.shared.flow_counters).insert(id, index);
        Ok(FlowCounterId { id })
    }

    fn flow(&self, id: u64) -> Result<&Arc<Entry>, Failure> {
        let index = lock(&self.shared.flow_counters).get(&id).copied();
        index
            .map(|index| &self.entries()[index])
            .ok_or_else(|| not_found(format!("No flow counter {id}")))
    }

    fn query_flow(&self, FlowCounterId { id }: FlowCounterId) -> Result<FlowCounts, Failure> {
        let queues = self.flow(id)?.port.flows.query(id);
        Ok(FlowCounts {
            queues: queues.unwrap_or_default(),
        })
    }

    fn remove_flow(&self, FlowCounterId { id }: FlowCounterId) -> Result<(), Failure> {
        self.flow(id)?.port.flows.remove(id);
        lock(&self.shared.flow_counters).remove(&id);
        Ok(())
    }

    fn add_faults(&self, add: &FaultAdd) -> Result<FaultIds, Failure> {
        let port = &self.entry(&add.port)?.port;
        let at = |position: usize, error: &dyn std::fmt::Display| match add.rules.len() {
            1 => wrong(error.to_string()),
            _ => wrong(format!("Rule {position}: {error}")),
        };
        let mut rules = Vec::with_capacity(add.rules.len());
        for (position, requested) in add.rules.iter().enumerate() {
            let rule = rule_from_protocol(requested, position as u32)
                .map_err(|error| at(position, &error))?;
            rule.check().map_err(|error| at(position, &error))?;
            rules.push(rule);
        }
        let next = || RuleId(self.next_rule.fetch_add(1, Ordering::Relaxed));
        let ids = port
            .faults
            .add(rules, next)
            .map_err(|error| wrong(error.to_string()))?;
        Ok(FaultIds {
            ids: ids.into_iter().map(|RuleId(id)| id).collect(),
        })
    }

    fn faults(&self) -> Faults {
        let of = |entry: &Arc<Entry>| {
            let rules = entry.port.faults.list().into_iter();
            let listed: Vec<_> = rules.map(|rule| listed(&entry.port, &rule)).collect();
            listed
        };
        Faults {
            faults: self.entries().iter().flat_map(of).collect(),
        }
    }

    fn fault(&self, id: u64) -> Option<FaultStatus> {
        self.faults()
            .faults
            .into_iter()
            .find(|fault| fault.id == id)
    }

    fn remove_faults(&self, remove: &FaultRemove) -> Answer {
        match remove {
            FaultRemove {
                id: Some(id),
                port: None,
            } => {
                let removed = self
                    .entries()
                    .iter()
                    .any(|entry| entry.port.remove_fault(RuleId(*id)));
                if !removed {
                    return Err(not_found(format!("No fault rule {id}")));
                }
            }
            FaultRemove {
                id: None,
                port: Some(port),
            } => self.entry(port)?.port.clear_faults(),
            _ => return Err(wrong("Wrong arguments: give either id or port".into())),
        }
        self.shared.hub.events.wake();
        Ok(nothing())
    }

    fn wait_for_fault(
        &self,
        FaultWait { id, hits, timeout }: FaultWait,
        client: &Client<'_>,
    ) -> Result<FaultStatus, Failure> {
        let deadline = Instant::now()
            .checked_add(Duration::from_nanos(timeout))
            .ok_or_else(|| wrong("Timeout is too long".into()))?;
        let gone = || not_found(format!("No fault rule {id}"));
        let look = || {
            let Some(fault) = self.fault(id) else {
                return Some(Err(gone()));
            };
            if fault.hits >= hits {
                return Some(Ok(fault));
            }
            let pointless = self.stopping.load(Ordering::Acquire) || client.gave_up();
            pointless.then(|| Err(wrong("Nobody waits any more".into())))
        };
        self.shared
            .hub
            .events
            .wait(deadline, look)
            .unwrap_or_else(|| {
                let hit = self.fault(id).ok_or_else(gone)?.hits;
                Err(Failure {
                    class: ErrorClass::Timeout,
                    desc: format!("Rule {id} hit {hit} of {hits} times in time"),
                })
            })
    }

    fn set_features(&self, set: &FeaturesSet) -> Answer {
        let port = &self.entry(&set.port)?.port;
        let feature = |name: &String| {
            let mut all = Feature::ALL.into_iter();
            all.find(|feature| word(feature) == *name).ok_or_else(|| {
                let known = names(FeatureSet::ALL).join(", ");
                wrong(format!("No feature {name:?}; there are {known}"))
            })
        };
        let offered = match &set.offered {
            Some(offered) => offered.iter().map(feature).collect::<Result<_, _>>()?,
            None => FeatureSet::ALL,
        };
        port.control().device.offer(offered);
        Ok(nothing())
    }

    fn set_ledger(&self, set: &LedgerSet) -> Answer {
        let port = &self.entry(&set.port)?.port;
        let mode = match set.mode {
            LedgerMode::Off => ledger::Mode::Off,
            LedgerMode::Counting => ledger::Mode::Counting,
            LedgerMode::Full => ledger::Mode::Full,
        };
        if mode != ledger::Mode::Full && (set.sanitize || set.overdue.is_some()) {
            return Err(wrong("Sanitize and overdue need mode full".into()));
        }
        port.set_ledger(ledger::Settings {
            mode,
            sanitize: set.sanitize,
            overdue: set.overdue,
        });
        Ok(nothing())
    }
}

fn listed(port: &Port, status: &RuleStatus) -> FaultStatus {
    FaultStatus {
        id: status.id.0,
        port: port.name.clone(),
        seen: status.seen,
        hits: status.hits,
        voids_recovery: status.rule.action.info().voids_recovery,
        rule: rule_to_protocol(&status.rule),
    }
}
