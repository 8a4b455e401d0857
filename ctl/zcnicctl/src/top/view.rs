//! The content of a frame, from two samples.

use std::time::Duration;

use zcnic_ctl::protocol::{Driver, QueueStats, fault::FaultRule};

use super::sample::Sample;
use crate::rate::per_second;

/// The content of a frame.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct View {
    /// Path of the control socket.
    pub(crate) socket: String,
    /// Version of the backend.
    pub(crate) version: Option<String>,
    /// The reason why what is shown is old.
    pub(crate) gone: Option<String>,
    pub(crate) ports: Vec<PortLine>,
    pub(crate) queues: Vec<QueueLine>,
    pub(crate) faults: Vec<FaultLine>,
}

/// A port.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PortLine {
    pub(crate) name: String,
    pub(crate) driver: &'static str,
    pub(crate) connected: bool,
    pub(crate) link: bool,
    /// Frames that the address filter or a flow rule dropped, per second.
    pub(crate) filtered: Option<f64>,
    /// Frames that were sent without a link, per second.
    pub(crate) no_carrier: Option<f64>,
}

/// A queue pair. Rates are per second.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct QueueLine {
    pub(crate) port: String,
    pub(crate) queue: u16,
    pub(crate) rx_frames: Option<f64>,
    pub(crate) rx_bits: Option<f64>,
    /// Frames that found no buffer, a stopped queue, or a chain that is too short or invalid.
    pub(crate) drops: Option<f64>,
    /// The share of received frames that were split, 0 to 1.
    pub(crate) split: Option<f64>,
    pub(crate) tx_frames: Option<f64>,
    pub(crate) tx_bits: Option<f64>,
    /// Filled buffers that the driver has; `None` without a full ledger.
    pub(crate) out: Option<u64>,
    pub(crate) violations: u64,
}

impl QueueLine {
    /// Whether something happens on it.
    pub(crate) fn is_busy(&self) -> bool {
        let rates = [self.rx_frames, self.drops, self.tx_frames];
        self.violations > 0 || rates.iter().flatten().any(|&rate| rate > 0.0)
    }
}

/// A fault rule.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FaultLine {
    pub(crate) id: u64,
    pub(crate) port: String,
    /// Direction and action.
    pub(crate) rule: String,
    pub(crate) seen: u64,
    pub(crate) hits: u64,
    /// Hits per second.
    pub(crate) rate: Option<f64>,
}

impl View {
    /// The content for `now`, with rates since `before`.
    pub(crate) fn new(socket: String, before: Option<&Sample>, now: &Sample) -> Self {
        let elapsed = before.map(|before| now.at.duration_since(before.at));
        let ports = now.status.ports.iter().map(|port| {
            let count = |sample: &Sample, of: fn(&zcnic_ctl::protocol::PortStats) -> u64| {
                let mut ports = sample.stats.ports.iter();
                ports.find(|stats| stats.name == port.name).map(of)
            };
            let rate = |of| {
                rate(
                    before.and_then(|old| count(old, of)),
                    count(now, of),
                    elapsed,
                )
            };
            PortLine {
                name: port.name.clone(),
                driver: driver(port.driver),
                connected: port.connected,
                link: port.link,
                filtered: rate(|stats| stats.rx_filtered + stats.rx_rule_drop + stats.rx_oversize),
                no_carrier: rate(|stats| stats.tx_no_carrier),
            }
        });
        let faults = now.faults.iter().map(|fault| {
            let mut old = before.into_iter().flat_map(|before| &before.faults);
            let old = old.find(|old| old.id == fault.id);
            FaultLine {
                id: fault.id.0,
                port: fault.port.clone(),
                rule: fault.rule.known().map_or_else(|| "-".to_owned(), rule_text),
                seen: fault.seen,
                hits: fault.hits,
                rate: rate(
                    Some(old.map_or(0, |old| old.hits)),
                    Some(fault.hits),
                    elapsed,
                ),
            }
        });
        Self {
            socket,
            version: now.version.clone(),
            gone: None,
            ports: ports.collect(),
            queues: queues(before, now, elapsed),
            faults: faults.collect(),
        }
    }
}

fn queues(before: Option<&Sample>, now: &Sample, elapsed: Option<Duration>) -> Vec<QueueLine> {
    let mut lines = Vec::new();
    for (port, ledger) in now.stats.ports.iter().zip(&now.ledgers) {
        let before = before
            .into_iter()
            .flat_map(|before| &before.stats.ports)
            .find(|old| old.name == port.name);
        for queue in &port.queues {
            // A queue without traffic so far is missing, but its port was there.
            let old = before.map(|port| {
                let mut queues = port.queues.iter().copied();
                queues
                    .find(|old| old.queue == queue.queue)
                    .unwrap_or_default()
            });
            let rate =
                |of: fn(&QueueStats) -> u64| rate(old.as_ref().map(of), Some(of(queue)), elapsed);
            let frames = rate(|queue| queue.rx_frames);
            let bits = |bytes: Option<f64>| bytes.map(|bytes| 8.0 * bytes);
            let ledger = ledger.queues.iter().find(|own| own.queue == queue.queue);
            lines.push(QueueLine {
                port: port.name.clone(),
                queue: queue.queue,
                rx_frames: frames,
                rx_bits: bits(rate(|queue| queue.rx_bytes)),
                drops: rate(|queue| {
                    queue.rx_no_buffer
                        + queue.rx_stopped
                        + queue.rx_too_long
                        + queue.rx_unsplit_too_long
                        + queue.rx_bad_chain
                }),
                split: rate(|queue| queue.rx_split)
                    .zip(frames.filter(|&frames| frames > 0.0))
                    .map(|(split, frames)| split / frames),
                tx_frames: rate(|queue| queue.tx_frames),
                tx_bits: bits(rate(|queue| queue.tx_bytes)),
                out: ledger.map(|ledger| ledger.out),
                violations: ledger.map_or(0, |ledger| ledger.violations),
            });
        }
    }
    lines
}

fn rate(before: Option<u64>, now: Option<u64>, elapsed: Option<Duration>) -> Option<f64> {
    per_second(before?, now?, elapsed?)
}

fn driver(driver: Driver) -> &'static str {
    match driver {
        Driver::Undecided => "undecided",
        Driver::Plain => "plain",
        Driver::Zcnic => "zcnic",
        Driver::Other => "other",
    }
}

/// Direction and action, as JSON spells them: `rx drop`.
fn rule_text(rule: &FaultRule) -> String {
    let word = |value: serde_json::Value| match value {
        serde_json::Value::String(word) => word,
        serde_json::Value::Object(one) => one.keys().next().cloned().unwrap_or_default(),
        _ => String::new(),
    };
    let direction = serde_json::to_value(rule.direction).map(word);
    let action = serde_json::to_value(rule.action).map(word);
    format!(
        "{} {}",
        direction.unwrap_or_default(),
        action.unwrap_or_default()
    )
}
