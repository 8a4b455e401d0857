//! The commands that query something.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use zcnic_ctl::protocol::{
    Driver, Failure, OrNewer, PortStats, PortStatus, QueueStats, Stats, Status as PortList,
    buffers::{BufferHistories, LedgerBuffers},
    ledger::{
        BufferHistory, Ledger as LedgerReport, LedgerHistory, LedgerMode, LedgerSet, QueueLedger,
    },
    port::{Features, QueuePair, Queues as QueueList, Ring, RssContext, Steering, SteeringRule},
};
use zcnic_device::{
    fault::Lane, features::FeatureSet, ledger, port::DriverMode, rules::FlowAction as RuleAction,
};

use super::{arguments::not_found, links, state::ServerState};
use crate::{
    index::{PairIndex, RingIndex},
    port::Port,
    protocol::{
        buffer_to_protocol, field_names, layout_to_protocol, names, octets, rule_fields,
        stop_report_to_protocol, word,
    },
    ring::{ledger::violation_to_protocol, transport::Transport},
};

/// Ports and cables (`query-status`).
pub(super) fn status(state: &ServerState) -> PortList {
    let ports = state.entries().iter().map(|entry| {
        let port = &entry.port;
        let (driver, data_pairs) = match port.control().device.mode() {
            DriverMode::Undecided => (Driver::Undecided, None),
            DriverMode::Plain => (Driver::Plain, None),
            DriverMode::Zcnic(session) => (Driver::Zcnic, Some(session.command_pair)),
        };
        let usable = |ring: &RingIndex| {
            port.queues.with_transport(*ring, |transport| {
                transport.is_ready() && transport.is_enabled()
            })
        };
        PortStatus {
            name: port.context.name().to_owned(),
            path: entry.socket.path().display().to_string(),
            connected: port.is_connected(),
            link: port.link_up(),
            driver,
            data_pairs,
            rings: RingIndex::all()
                .filter(usable)
                .map(RingIndex::number)
                .collect(),
        }
    });
    let (cables, wires, switches) = links::status(state);
    PortList {
        ports: ports.collect(),
        cables,
        wires,
        switches,
    }
}

/// Counters of all ports (`query-stats`).
pub(super) fn stats(state: &ServerState) -> Stats {
    let ports = state.entries().iter().map(|entry| {
        let port = &entry.port;
        let queues = PairIndex::all().map(|pair| {
            let receive = *port.queues.rx(pair).device.counters();
            let transmit = port.queues.tx(pair).counters;
            QueueStats {
                queue: pair.queue(),
                rx_frames: receive.frames,
                rx_bytes: receive.bytes,
                rx_split: receive.split,
                rx_unsplit: receive.unsplit,
                rx_long_headers: receive.long_headers,
                rx_csum_bad: receive.csum_bad,
                rx_no_buffer: receive.no_buffer,
                rx_stopped: receive.stopped,
                rx_too_long: receive.too_long,
                rx_unsplit_too_long: receive.unsplit_too_long,
                rx_bad_chain: receive.bad_chain,
                rx_gro_frames: receive.gro_frames,
                rx_gro_bytes: receive.gro_bytes,
                rx_gro_wire_frames: receive.gro_wire_frames,
                rx_gro_wire_bytes: receive.gro_wire_bytes,
                rx_hashed: receive.hashed,
                tx_frames: transmit.frames,
                tx_bytes: transmit.bytes,
                tx_errors: transmit.errors,
            }
        });
        let moved = |stats: &QueueStats| {
            *stats
                != QueueStats {
                    queue: stats.queue,
                    ..QueueStats::default()
                }
        };
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PortStats {
            name: port.context.name().to_owned(),
            connections: load(&port.counters.connections),
            rx_filtered: load(&port.counters.filtered),
            rx_rule_drop: load(&port.counters.rule_drop),
            rx_oversize: load(&port.counters.oversize),
            rx_pause_timeout: load(&port.counters.pause_timeout),
            tx_no_carrier: load(&port.counters.no_carrier),
            queues: queues.filter(moved).collect(),
        }
    });
    Stats {
        ports: ports.collect(),
    }
}

/// The features of a port (`query-features`).
pub(super) fn features(port: &Port) -> Features {
    let control = port.control();
    let configuration = control.device.configuration();
    let negotiated = match control.device.mode() {
        DriverMode::Zcnic(session) => session.features,
        DriverMode::Undecided | DriverMode::Plain => FeatureSet::default(),
    };
    Features {
        virtio: control.features,
        negotiated: names(negotiated),
        offloads: names(configuration.offloads.and(negotiated)),
        offered: names(control.device.offered()),
        supported: names(FeatureSet::ALL),
    }
}

/// The running queues of a port (`query-queues`).
pub(super) fn queues(port: &Port) -> QueueList {
    let command_pair = port.active().command_pair;
    let pair = |pair: PairIndex| {
        let (rx, layout) = {
            let queue = port.queues.rx(pair);
            (ring(&queue.transport, &queue.lane), queue.device.layout())
        };
        let (tx, transmits) = {
            let queue = port.queues.tx(pair);
            (ring(&queue.transport, &queue.lane), queue.running)
        };
        (rx.running || tx.running).then(|| QueuePair {
            queue: pair.queue(),
            commands: command_pair == Some(pair),
            layout: layout.map(layout_to_protocol),
            transmits,
            rx,
            tx,
        })
    };
    QueueList {
        pairs: PairIndex::all().filter_map(pair).collect(),
    }
}

/// The steering of a port (`query-steering`).
pub(super) fn steering(port: &Port) -> Steering {
    let steering = Arc::clone(&port.active().configuration.steering);
    let filter = steering.filter();
    let contexts = steering.contexts().map(|(number, context)| RssContext {
        context: number,
        fields: context
            .fields()
            .map(|(flow, fields)| (word(&flow), field_names(fields)))
            .collect(),
        symmetric: word(&context.symmetric()),
        table: context.table().to_vec(),
    });
    let rules = steering.rules().map(|rule| {
        let (action, queue, context) = match rule.action {
            RuleAction::Drop => ("drop", None, None),
            RuleAction::Queue(queue) => ("queue", Some(queue), None),
            RuleAction::Context { context, offset } => ("context", Some(offset), Some(context)),
        };
        SteeringRule {
            location: rule.location,
            rule_type: word(&rule.rule_type),
            action: action.into(),
            queue,
            context,
            fields: rule_fields(rule.rule_type, &rule.value, &rule.mask),
        }
    });
    Steering {
        promisc: filter.promisc(),
        allmulti: filter.allmulti(),
        addresses: filter.addresses().iter().map(|mac| octets(mac)).collect(),
        contexts: contexts.collect(),
        rules: rules.collect(),
    }
}

/// The ledgers of a port's receive queues (`query-ledger`).
pub(super) fn ledger(port: &Port) -> LedgerReport {
    let settings = port.queues.rx(PairIndex::FIRST).ledger_state.settings();
    let queue = |pair: PairIndex| {
        let mut queue = port.queues.rx(pair);
        let now = port.context.now();
        queue.record_posted(now);
        let numbers = *queue.ledger_state.checked(now).statistics();
        let violations = queue.ledger_state.violations(|| now);
        let last_stop = queue.ledger_state.last_stop().map(stop_report_to_protocol);
        drop(queue);
        port.context.report_violations(pair, violations);
        (numbers.posted > 0).then(|| QueueLedger {
            queue: pair.queue(),
            posted: numbers.posted,
            filled: numbers.filled,
            unused: numbers.unused,
            with_device: numbers.with_device,
            with_device_most: numbers.with_device_most,
            out: numbers.out,
            out_most: numbers.out_most,
            forgotten: numbers.forgotten,
            violations: numbers.violations,
            held: numbers.held.iter().collect(),
            distance: numbers.distance.iter().collect(),
            last_stop,
        })
    };
    let queues = PairIndex::all().filter_map(queue).collect();
    LedgerReport {
        settings: OrNewer::Known(LedgerSet {
            port: port.context.name().to_owned(),
            mode: match settings.mode {
                ledger::Mode::Off => LedgerMode::Off,
                ledger::Mode::Counting => LedgerMode::Counting,
                ledger::Mode::Full => LedgerMode::Full,
            },
            sanitize: settings.sanitize,
            overdue: settings.overdue,
        }),
        queues,
    }
}

/// The history of one buffer (`ledger-history`).
///
/// # Errors
///
/// The queue does not exist, or its ledger does not know the buffer.
pub(super) fn history(
    state: &ServerState,
    asked: &LedgerHistory,
) -> Result<BufferHistory, Failure> {
    let LedgerHistory {
        port,
        queue,
        address,
    } = asked;
    let port = &state.entry(port)?.port;
    let pair = PairIndex::from_queue(*queue);
    let pair = pair.ok_or_else(|| not_found(format!("No queue {queue}")))?;
    let known = port.queues.rx(pair).ledger_state.ledger().history(*address);
    let (span, events) = known.ok_or_else(|| {
        not_found(format!(
            "No buffer at {address:#x} is known on queue {queue}"
        ))
    })?;
    Ok(buffer_to_protocol(span, events))
}

/// The buffers that a queue's ledger knows (`ledger-buffers`), a page of them.
///
/// # Errors
///
/// The queue does not exist.
pub(super) fn buffers(
    state: &ServerState,
    asked: &LedgerBuffers,
) -> Result<BufferHistories, Failure> {
    /// Buffers per answer, so that it is far shorter than the longest line.
    const PAGE: usize = 512;
    let LedgerBuffers { port, queue, from } = asked;
    let port = &state.entry(port)?.port;
    let pair = PairIndex::from_queue(*queue);
    let pair = pair.ok_or_else(|| not_found(format!("No queue {queue}")))?;
    let now = port.context.now();
    let guard = port.queues.rx(pair);
    let ledger = guard.ledger_state.ledger();
    let mut known = ledger.buffers(*from);
    let buffers = known.by_ref().take(PAGE);
    let buffers = buffers
        .map(|(range, events)| buffer_to_protocol(range, events))
        .collect();
    let found = guard.ledger_state.recent();
    let name = port.context.name();
    Ok(BufferHistories {
        time: now,
        buffers,
        next: known.next().map(|(range, _)| range.address),
        violations: found
            .map(|found| violation_to_protocol(name, *queue, found))
            .collect(),
    })
}

fn ring(transport: &Transport, lane: &Lane) -> Ring {
    Ring {
        size: transport.size(),
        running: transport.is_ready(),
        enabled: transport.is_enabled(),
        next_available: transport.indices.next_available,
        next_used: transport.indices.next_used,
        held_frames: lane.held() as u64,
        held_chains: lane.withheld() as u64,
        fault_drops: lane.dropped(),
        fault_limit_drops: lane.limit_dropped(),
    }
}
