//! The commands that change something or wait, and the dispatch of all.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use zcnic_ctl::protocol::{
    CounterId, ErrorClass, Failure, FlowCounterAdd, FlowCounterAdded, FlowCounterId, FlowCounts,
    OrNewer, command,
    event::Subscribe,
    fault::{
        FaultAdd, FaultId, FaultIds, FaultRemove, FaultStatus, FaultWait, Faults as FaultList,
    },
    ledger::{LedgerMode, LedgerSet},
    port::{CaptureStart, FeaturesSet, LinkSet, PortName},
};
use zcnic_device::{
    fault::{RuleId, RuleStatus},
    features::{Feature, FeatureSet},
    ledger,
};

use super::{
    arguments::{none, not_found, nothing, parse, value, wrong},
    client::Client,
    query,
    state::ServerState,
};
use crate::{
    control::{admin, faults as rules},
    entry::Entry,
    port::Port,
    protocol::{names, rule_from_protocol, rule_to_protocol, word},
};

type Answer = Result<Value, Failure>;

/// Executes command `name` for `client`.
///
/// # Errors
///
/// The failure that the client gets as answer.
pub(super) fn execute(
    state: &ServerState,
    name: &str,
    arguments: Option<Value>,
    client: &Client<'_>,
) -> Answer {
    match name {
        command::QUERY_STATUS => none(arguments).and_then(|()| value(&query::status(state))),
        command::QUERY_STATS => none(arguments).and_then(|()| value(&query::stats(state))),
        command::QUERY_FEATURES => value(&query::features(port(state, arguments)?)),
        command::FEATURES_SET => set_features(state, &parse(arguments)?),
        command::QUERY_QUEUES => value(&query::queues(port(state, arguments)?)),
        command::QUERY_STEERING => value(&query::steering(port(state, arguments)?)),
        command::FLOW_COUNTER_ADD => {
            let FlowCounterAdd { port, pattern } = parse(arguments)?;
            let id = state.add_flow_counter(&port, pattern)?;
            value(&FlowCounterAdded { id: CounterId(id) })
        }
        command::FLOW_COUNTER_QUERY => {
            let FlowCounterId { id: CounterId(id) } = parse(arguments)?;
            let queues = state.flow_counter(id)?.port.flow_counters.query(id);
            value(&FlowCounts {
                queues: queues.unwrap_or_default(),
            })
        }
        command::FLOW_COUNTER_REMOVE => {
            let FlowCounterId { id: CounterId(id) } = parse(arguments)?;
            state.remove_flow_counter(id)?;
            Ok(nothing())
        }
        command::FAULT_ADD => value(&add_faults(state, &parse(arguments)?)?),
        command::FAULT_LIST => none(arguments).and_then(|()| value(&faults(state))),
        command::FAULT_REMOVE => remove_faults(state, &parse(arguments)?),
        command::FAULT_WAIT => value(&wait_for_fault(state, parse(arguments)?, client)?),
        command::LEDGER_SET => set_ledger(state, &parse(arguments)?),
        command::QUERY_LEDGER => value(&query::ledger(port(state, arguments)?)),
        command::LEDGER_HISTORY => value(&query::history(state, &parse(arguments)?)?),
        command::LEDGER_BUFFERS => value(&query::buffers(state, &parse(arguments)?)?),
        command::LINK_SET => {
            let LinkSet { port, up } = parse(arguments)?;
            admin::set_link(&state.entry(&port)?.port, up);
            Ok(nothing())
        }
        command::DEVICE_RESET => {
            admin::reset_device(port(state, arguments)?);
            Ok(nothing())
        }
        command::DISCONNECT => {
            let PortName { port } = parse(arguments)?;
            state.entry(&port)?.disconnect();
            Ok(nothing())
        }
        command::CAPTURE_START => {
            let CaptureStart { port, length } = parse(arguments)?;
            let length = length.map_or(usize::MAX, |length| length as usize);
            let port = state.position(&port)?;
            let captures = &state.services().captures;
            captures.start(port, client.outbox, length);
            Ok(nothing())
        }
        command::CAPTURE_STOP => {
            let PortName { port } = parse(arguments)?;
            let position = state.position(&port)?;
            let captures = &state.services().captures;
            if !captures.stop(Some(position), client.outbox) {
                return Err(not_found(format!("No capture of port {port}")));
            }
            Ok(nothing())
        }
        command::SUBSCRIBE => {
            let Subscribe { events } = parse(arguments)?;
            client.outbox.subscribe(events);
            state.services().captures.stop(None, client.outbox);
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

fn port(state: &ServerState, arguments: Option<Value>) -> Result<&Arc<Port>, Failure> {
    let PortName { port } = parse(arguments)?;
    Ok(&state.entry(&port)?.port)
}

fn add_faults(state: &ServerState, add: &FaultAdd) -> Result<FaultIds, Failure> {
    let port = &state.entry(&add.port)?.port;
    let at = |position: usize, error: &dyn std::fmt::Display| match add.rules.len() {
        1 => wrong(error.to_string()),
        _ => wrong(format!("Rule {position}: {error}")),
    };
    let mut rules = Vec::with_capacity(add.rules.len());
    for (position, requested) in add.rules.iter().enumerate() {
        let rule =
            rule_from_protocol(requested, position as u32).map_err(|error| at(position, &error))?;
        rule.check().map_err(|error| at(position, &error))?;
        rules.push(rule);
    }
    let next = || state.next_rule();
    let ids = port
        .faults
        .add(rules, next)
        .map_err(|error| wrong(error.to_string()))?;
    Ok(FaultIds {
        ids: ids.into_iter().map(|RuleId(id)| FaultId(id)).collect(),
    })
}

fn faults(state: &ServerState) -> FaultList {
    let of = |entry: &Arc<Entry>| {
        let rules = entry.port.faults.list().into_iter();
        let listed: Vec<_> = rules.map(|rule| listed(&entry.port, &rule)).collect();
        listed
    };
    FaultList {
        faults: state.entries().iter().flat_map(of).collect(),
    }
}

fn fault(state: &ServerState, id: FaultId) -> Option<FaultStatus> {
    state.entries().iter().find_map(|entry| {
        let port = &entry.port;
        let rule = port.faults.get(RuleId(id.0))?;
        Some(listed(port, &rule))
    })
}

fn remove_faults(state: &ServerState, remove: &FaultRemove) -> Answer {
    match remove {
        FaultRemove {
            id: Some(id),
            port: None,
        } => {
            let removed = state
                .entries()
                .iter()
                .any(|entry| rules::remove(&entry.port, RuleId(id.0)));
            if !removed {
                return Err(not_found(format!("No fault rule {id}")));
            }
        }
        FaultRemove {
            id: None,
            port: Some(port),
        } => rules::clear(&state.entry(port)?.port),
        _ => return Err(wrong("Wrong arguments: give either id or port".into())),
    }
    state.services().events.wake();
    Ok(nothing())
}

fn wait_for_fault(
    state: &ServerState,
    FaultWait { id, hits, timeout }: FaultWait,
    client: &Client<'_>,
) -> Result<FaultStatus, Failure> {
    let deadline = Instant::now()
        .checked_add(Duration::from_nanos(timeout))
        .ok_or_else(|| wrong("Timeout is too long".into()))?;
    let gone = || not_found(format!("No fault rule {id}"));
    let look = || {
        let Some(fault) = fault(state, id) else {
            return Some(Err(gone()));
        };
        if fault.hits >= hits {
            return Some(Ok(fault));
        }
        let pointless = state.is_stopping() || client.gave_up();
        pointless.then(|| Err(wrong("The client no longer waits".into())))
    };
    state
        .services()
        .events
        .wait(deadline, look)
        .unwrap_or_else(|| {
            let hit = fault(state, id).ok_or_else(gone)?.hits;
            Err(Failure {
                class: ErrorClass::Timeout,
                desc: format!("Rule {id} hit {hit} of {hits} times in time"),
            })
        })
}

fn set_features(state: &ServerState, set: &FeaturesSet) -> Answer {
    let port = &state.entry(&set.port)?.port;
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

fn set_ledger(state: &ServerState, set: &LedgerSet) -> Answer {
    let port = &state.entry(&set.port)?.port;
    let mode = match set.mode {
        LedgerMode::Off => ledger::Mode::Off,
        LedgerMode::Counting => ledger::Mode::Counting,
        LedgerMode::Full => ledger::Mode::Full,
    };
    if mode != ledger::Mode::Full && (set.sanitize || set.overdue.is_some()) {
        return Err(wrong("Sanitize and overdue need mode full".into()));
    }
    let settings = ledger::Settings {
        mode,
        sanitize: set.sanitize,
        overdue: set.overdue,
    };
    admin::set_ledger(&port.queues, settings);
    Ok(nothing())
}

fn listed(port: &Port, status: &RuleStatus) -> FaultStatus {
    FaultStatus {
        id: FaultId(status.id.0),
        port: port.context.name().to_owned(),
        seen: status.seen,
        hits: status.hits,
        voids_recovery: status.rule.action.info().voids_recovery,
        rule: OrNewer::Known(rule_to_protocol(&status.rule)),
    }
}
