//! What the queries return.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use zcnic_ctl::protocol::{
    CableStatus, Driver, Failure, PortStats, PortStatus, QueueStats, Stats, Status,
    ledger::{
        BufferChange, BufferEvent, BufferHistory, Ledger, LedgerHistory, LedgerMode, LedgerSet,
        QueueLedger,
    },
    port::{
        Features, Layout, QueuePair, Queues, Ring, RssContext, RuleField, Steering, SteeringRule,
        address_text,
    },
};
use zcnic_device::{
    abi::{self, Flow, RuleType},
    fault::Lane,
    features::{Feature, FeatureSet},
    ledger::{Mode as KeptMode, What},
    port::Mode,
    receive,
    rules::Action,
};

use super::{Inner, not_found};
use crate::{
    config::{FlowControl, MAX_PAIRS},
    control::admin::stop_report,
    port::{MAX_RINGS, Port},
    ring::transport::Transport,
    sync::lock,
};

impl Inner {
    pub(super) fn status(&self) -> Status {
        let ports = self.entries().iter().map(|entry| {
            let port = &entry.port;
            let (driver, data_pairs) = match port.control().device.mode() {
                Mode::Undecided => (Driver::Undecided, None),
                Mode::Plain => (Driver::Plain, None),
                Mode::Zcnic(session) => (Driver::Zcnic, Some(session.command_pair)),
            };
            let usable = |&ring: &usize| {
                port.set_up(ring, |transport| {
                    transport.is_ready() && transport.is_enabled()
                })
            };
            PortStatus {
                name: port.name.clone(),
                path: entry.socket.path().display().to_string(),
                connected: port.is_connected(),
                link: port.link_up(),
                driver,
                data_pairs,
                rings: (0..MAX_RINGS)
                    .filter(usable)
                    .map(|ring| ring as u16)
                    .collect(),
            }
        });
        let cables = self.shared.cables.iter().map(|cable| CableStatus {
            ports: cable.ends.map(|end| self.entries()[end].port.name.clone()),
            pause: cable.flow_control == FlowControl::Pause,
        });
        Status {
            ports: ports.collect(),
            cables: cables.collect(),
        }
    }

    pub(super) fn stats(&self) -> Stats {
        let ports = self.entries().iter().map(|entry| {
            let port = &entry.port;
            let queues = (0..MAX_PAIRS).map(|pair| {
                let receive = *lock(&port.receive[pair]).queue.counters();
                let transmit = lock(&port.transmit[pair]).counters;
                QueueStats {
                    queue: pair as u16,
                    rx_frames: receive.frames,
                    rx_bytes: receive.bytes,
                    rx_split: receive.split,
                    rx_csum_bad: receive.csum_bad,
                    rx_no_buffer: receive.no_buffer,
                    rx_stopped: receive.stopped,
                    rx_too_long: receive.too_long,
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
                name: port.name.clone(),
                connections: load(&port.counters.connections),
                rx_filtered: load(&port.counters.filtered),
                rx_rule_drop: load(&port.counters.rule_drop),
                rx_pause_timeout: load(&port.counters.pause_timeout),
                tx_no_carrier: load(&port.counters.no_carrier),
                queues: queues.filter(moved).collect(),
            }
        });
        Stats {
            ports: ports.collect(),
        }
    }

    pub(super) fn features(&self, port: &Port) -> Features {
        let control = port.control();
        let configuration = control.device.configuration();
        let negotiated = match control.device.mode() {
            Mode::Zcnic(session) => session.features,
            Mode::Undecided | Mode::Plain => FeatureSet::default(),
        };
        Features {
            virtio: control.features(),
            negotiated: names(negotiated),
            offloads: names(configuration.offloads.and(negotiated)),
            offered: names(control.device.offered()),
            supported: names(FeatureSet::ALL),
        }
    }

    pub(super) fn queues(&self, port: &Port) -> Queues {
        let command_pair = port.active().command_pair;
        let pair = |pair: usize| {
            let (rx, layout) = {
                let side = lock(&port.receive[pair]);
                (ring(&side.transport, &side.lane), side.queue.layout())
            };
            let (tx, transmits) = {
                let side = lock(&port.transmit[pair]);
                (ring(&side.transport, &side.lane), side.running)
            };
            (rx.running || tx.running).then(|| QueuePair {
                queue: pair as u16,
                commands: command_pair == Some(pair),
                layout: layout.map(layout_to_protocol),
                transmits,
                rx,
                tx,
            })
        };
        Queues {
            pairs: (0..MAX_PAIRS).filter_map(pair).collect(),
        }
    }

    pub(super) fn steering(&self, port: &Port) -> Steering {
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
                Action::Drop => ("drop", None, None),
                Action::Queue(queue) => ("queue", Some(queue), None),
                Action::Context { context, offset } => ("context", Some(offset), Some(context)),
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

    pub(super) fn ledger(&self, port: &Port) -> Ledger {
        let settings = lock(&port.receive[0]).ledger_state.ledger.settings();
        let queue = |queue: usize| {
            let mut side = lock(&port.receive[queue]);
            let now = port.hub.now();
            side.look(now);
            side.ledger_state.ledger.check_overdue(now);
            let violations = side.ledger_state.violations();
            let last_stop = side.ledger_state.last_stop.map(stop_report);
            let numbers = *side.ledger_state.ledger.statistics();
            drop(side);
            port.report_violations(queue, violations);
            (numbers.posted > 0).then(|| QueueLedger {
                queue: queue as u16,
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
        Ledger {
            settings: LedgerSet {
                port: port.name.clone(),
                mode: match settings.mode {
                    KeptMode::Off => LedgerMode::Off,
                    KeptMode::Counting => LedgerMode::Counting,
                    KeptMode::Full => LedgerMode::Full,
                },
                sanitize: settings.sanitize,
                overdue: settings.overdue,
            },
            queues: (0..MAX_PAIRS).filter_map(queue).collect(),
        }
    }

    pub(super) fn history(&self, asked: &LedgerHistory) -> Result<BufferHistory, Failure> {
        let LedgerHistory {
            port,
            queue,
            address,
        } = asked;
        let side = self.entry(port)?.port.receive.get(usize::from(*queue));
        let side = side.ok_or_else(|| not_found(format!("No queue {queue}")))?;
        let known = lock(side).ledger_state.ledger.history(*address);
        let (span, events) = known.ok_or_else(|| {
            not_found(format!(
                "No buffer at {address:#x} is known on queue {queue}"
            ))
        })?;
        Ok(BufferHistory {
            address: span.address,
            length: span.length,
            events: events
                .into_iter()
                .map(|event| BufferEvent {
                    time: event.time,
                    head: event.head,
                    what: match event.what {
                        What::Posted => BufferChange::Posted,
                        What::Filled => BufferChange::Filled,
                        What::Unused => BufferChange::Unused,
                    },
                })
                .collect(),
        })
    }
}

pub(super) fn names(features: FeatureSet) -> Vec<String> {
    let all = Feature::ALL.into_iter();
    all.filter(|&feature| features.has(feature))
        .map(|feature| word(&feature))
        .collect()
}

/// The name of an enum's variant as this protocol writes names.
pub(super) fn word(variant: &impl std::fmt::Debug) -> String {
    let mut word = String::new();
    for letter in format!("{variant:?}").chars() {
        if letter.is_uppercase() && !word.is_empty() {
            word.push('-');
        }
        word.extend(letter.to_lowercase());
    }
    word
}

fn field_names(fields: u16) -> Vec<String> {
    let known = [
        (abi::FIELD_IP_SRC, "ip-src"),
        (abi::FIELD_IP_DST, "ip-dst"),
        (abi::FIELD_L4_SRC, "l4-src"),
        (abi::FIELD_L4_DST, "l4-dst"),
        (abi::FIELD_FLOW_LABEL, "flow-label"),
    ];
    let chosen = known.iter().filter(|(bit, _)| fields & bit != 0);
    chosen.map(|(_, name)| (*name).to_owned()).collect()
}

fn octets(mac: &[u8]) -> String {
    let octets: Vec<String> = mac.iter().map(|octet| format!("{octet:02x}")).collect();
    octets.join(":")
}

/// The fields that a rule compares.
fn rule_fields(rule_type: RuleType, value: &Flow, mask: &Flow) -> Vec<RuleField> {
    let v4 = matches!(rule_type, RuleType::Ipv4 | RuleType::Tcp4 | RuleType::Udp4);
    let hex = |number: u16| format!("{number:#06x}");
    type Text<'t> = &'t dyn Fn(&Flow) -> String;
    let all: [(&str, Text<'_>, bool); 10] = [
        (
            "eth-dst",
            &|flow| octets(&flow.eth_dst),
            mask.eth_dst != [0; 6],
        ),
        (
            "eth-src",
            &|flow| octets(&flow.eth_src),
            mask.eth_src != [0; 6],
        ),
        (
            "eth-type",
            &|flow| hex(flow.eth_type.get()),
            mask.eth_type.get() != 0,
        ),
        (
            "vlan-tci",
            &|flow| hex(flow.vlan_tci.get()),
            mask.vlan_tci.get() != 0,
        ),
        (
            "ip-proto",
            &|flow| flow.ip_proto.to_string(),
            mask.ip_proto != 0,
        ),
        (
            "ip-tos",
            &|flow| format!("{:#04x}", flow.ip_tos),
            mask.ip_tos != 0,
        ),
        (
            "ip-src",
            &|flow| address_text(&flow.ip_src, v4),
            mask.ip_src != [0; 16],
        ),
        (
            "ip-dst",
            &|flow| address_text(&flow.ip_dst, v4),
            mask.ip_dst != [0; 16],
        ),
        (
            "l4-src",
            &|flow| flow.l4_src.to_string(),
            mask.l4_src.get() != 0,
        ),
        (
            "l4-dst",
            &|flow| flow.l4_dst.to_string(),
            mask.l4_dst.get() != 0,
        ),
    ];
    all.iter()
        .filter(|(_, _, compared)| *compared)
        .map(|(field, text, _)| RuleField {
            field: (*field).into(),
            value: text(value),
            mask: text(mask),
        })
        .collect()
}

fn layout_to_protocol(layout: receive::Layout) -> Layout {
    match layout {
        receive::Layout::VirtioNet => Layout::VirtioNet,
        receive::Layout::Linear { size } => Layout::Linear { size },
        receive::Layout::Split {
            header_size,
            page_size,
            threshold,
        } => Layout::Split {
            header_size,
            page_size,
            hds_thresh: threshold,
        },
    }
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_protocol() {
        assert_eq!(word(&Feature::RxCsum), "rx-csum");
        assert_eq!(word(&RuleType::Tcp4), "tcp4");
        assert_eq!(names(FeatureSet::ALL).len(), Feature::ALL.len());
    }
}
