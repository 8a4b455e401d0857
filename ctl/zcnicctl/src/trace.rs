//! Writes the ledgers' records as a trace that Perfetto opens: JSON trace events.
//!
//! A port is a process. Each receive queue has a group of tracks with a slice per buffer, and in it
//! a slice per owner. Violations and hits of fault rules are instants on a track of the queue.

use std::{collections::BTreeMap, fs::File, io::BufWriter, path::Path};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use zcnic_ctl::{
    client::Client,
    protocol::{
        event::{FaultHit, Violation},
        fault::Direction,
        ledger::{BufferChange, BufferHistory},
    },
};

/// The most hits of fault rules in a trace.
pub(crate) const MAX_HITS: usize = 100_000;

/// The records of one receive queue.
#[derive(Default)]
struct QueueRecords {
    buffers: Vec<BufferHistory>,
    violations: Vec<Violation>,
    /// When the records were read, in nanoseconds.
    time: u64,
}

/// Writes the records of `ports`, with the hits that happened meanwhile, to `file`. Returns the
/// number of buffers.
pub(crate) fn write(
    client: &mut Client,
    ports: &[String],
    hits: &[FaultHit],
    file: &Path,
) -> Result<usize> {
    let mut events = Vec::new();
    let mut buffers = 0;
    for (port, number) in ports.iter().zip(1..) {
        let mut queues = BTreeMap::new();
        let ledger = client.ledger(port)?;
        for queue in ledger.queues.iter().map(|queue| queue.queue) {
            queues.insert(queue, records(client, port, queue)?);
        }
        buffers += queues
            .values()
            .map(|queue| queue.buffers.len())
            .sum::<usize>();
        let hits = hits.iter().filter(|hit| hit.port == *port);
        events.extend(port_events(port, number, &queues, hits));
    }
    let trace = json!({ "traceEvents": events, "displayTimeUnit": "ns" });
    let name = || file.display().to_string();
    let output = BufWriter::new(File::create(file).with_context(name)?);
    serde_json::to_writer(output, &trace).with_context(name)?;
    Ok(buffers)
}

/// Reads a queue's records page by page.
fn records(client: &mut Client, port: &str, queue: u16) -> Result<QueueRecords> {
    let mut records = QueueRecords::default();
    let mut next = Some(0);
    while let Some(from) = next {
        let page = client.ledger_buffers(port, queue, from)?;
        // A backend that repeats itself does not end this.
        next = page.next.filter(|next| *next > from);
        records.buffers.extend(page.buffers);
        (records.violations, records.time) = (page.violations, page.time);
    }
    Ok(records)
}

/// The events of one port, which is process `number`.
fn port_events<'a>(
    port: &str,
    number: u32,
    queues: &BTreeMap<u16, QueueRecords>,
    hits: impl Iterator<Item = &'a FaultHit>,
) -> Vec<Value> {
    let mut events = vec![json!({
        "ph": "M", "pid": number, "tid": 0, "name": "process_name",
        "args": { "name": format!("zcnic port {port}") },
    })];
    let instants = |queue: u16| Instants {
        process: number,
        thread: u32::from(queue) + 1,
    };
    for (&queue, records) in queues {
        events.push(instants(queue).name(&format!("rx queue {queue} events")));
        for buffer in &records.buffers {
            events.extend(life(number, queue, buffer, records.time));
        }
        for violation in &records.violations {
            let args = json!({ "desc": violation.desc });
            events.push(instants(queue).instant(&violation.kind, violation.time, &args));
        }
    }
    for hit in hits {
        let args = json!({ "rule": hit.id, "count": hit.count, "hit": hit.hit });
        let direction = match hit.direction {
            Direction::Rx => "",
            Direction::Tx => "tx ",
            Direction::Command => "command ",
        };
        let name = format!("{direction}fault {}", hit.action);
        if !queues.contains_key(&hit.queue) {
            events.push(instants(hit.queue).name(&format!("queue {} events", hit.queue)));
        }
        events.push(instants(hit.queue).instant(&name, hit.time, &args));
    }
    events
}

/// A track of instants.
#[derive(Clone, Copy)]
struct Instants {
    process: u32,
    thread: u32,
}

impl Instants {
    fn name(self, name: &str) -> Value {
        json!({
            "ph": "M", "pid": self.process, "tid": self.thread, "name": "thread_name",
            "args": { "name": name },
        })
    }

    fn instant(self, name: &str, time: u64, args: &Value) -> Value {
        json!({
            "ph": "i", "s": "t", "pid": self.process, "tid": self.thread, "name": name,
            "ts": microseconds(time), "args": args,
        })
    }
}

/// The slices of a buffer: one for all that is known, and in it one per owner. The last one ends
/// with the records.
fn life(process: u32, queue: u16, buffer: &BufferHistory, end: u64) -> Vec<Value> {
    let (Some(first), Some(last)) = (buffer.events.first(), buffer.events.last()) else {
        return Vec::new();
    };
    let end = end.max(last.time);
    let group = format!("rx queue {queue}");
    let event = |phase: &str, name: &str, time: u64, args: Value| {
        json!({
            "ph": phase, "pid": process, "tid": u32::from(queue) + 1, "cat": group,
            "id": format!("{:#x}", buffer.address), "name": name, "ts": microseconds(time),
            "args": args,
        })
    };
    let args = json!({ "address": format!("{:#x}", buffer.address), "length": buffer.length });
    let mut events = vec![event("b", &group, first.time, args)];
    for (number, transfer) in buffer.events.iter().enumerate() {
        let until = buffer.events.get(number + 1).map_or(end, |next| next.time);
        let name = match transfer.change {
            BufferChange::Posted => "device",
            BufferChange::Filled => "driver, with data",
            BufferChange::Unused => "driver, unused",
            BufferChange::Other => "unknown",
        };
        let chain = json!({ "chain": transfer.head });
        events.push(event("b", name, transfer.time, chain));
        events.push(event("e", name, until.max(transfer.time), json!({})));
    }
    events.push(event("e", &group, end, json!({})));
    events
}

/// The unit of trace events.
fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use zcnic_ctl::protocol::ledger::BufferEvent;

    use super::*;

    fn events() -> Vec<Value> {
        let event = |time, head, change| BufferEvent { time, head, change };
        let buffer = |address, events| BufferHistory {
            address,
            length: 4096,
            events,
        };
        let records = QueueRecords {
            buffers: vec![
                buffer(
                    0x1000,
                    vec![
                        event(1000, 7, BufferChange::Posted),
                        event(2500, 7, BufferChange::Filled),
                        event(4000, 9, BufferChange::Posted),
                    ],
                ),
                buffer(0x2000, vec![event(1500, 8, BufferChange::Posted)]),
            ],
            violations: vec![
                serde_json::from_value(json!({"port": "0", "queue": 3, "time": 5000,
                "kind": "posted-twice", "desc": "why"}))
                .expect("a violation"),
            ],
            time: 6000,
        };
        let hit = |direction: &str, queue: u16| -> FaultHit {
            serde_json::from_value(json!({"port": "0", "id": 2, "action": "drop", "count": 1,
                "direction": direction, "queue": queue, "hit": 1, "time": 5500}))
            .expect("a hit")
        };
        let hits = [hit("rx", 3), hit("tx", 1)];
        port_events("0", 1, &BTreeMap::from([(3, records)]), hits.iter())
    }

    /// The format of trace events: required members by phase, and slices that nest.
    #[test]
    fn the_trace_has_the_format_of_trace_events() {
        let mut open: BTreeMap<(String, String), Vec<(String, f64)>> = BTreeMap::new();
        let mut named = Vec::new();
        for event in events() {
            let text = |name: &str| event[name].as_str().map(str::to_owned).expect(name);
            let track =
                [&event["pid"], &event["tid"]].map(|number| number.as_u64().expect("a number"));
            assert!(event["args"].is_object());
            match &*text("ph") {
                "M" => {
                    assert!(["process_name", "thread_name"].contains(&&*text("name")));
                    assert!(event["args"]["name"].is_string());
                    named.push(track);
                }
                "i" => {
                    assert_eq!(event["s"], "t");
                    assert!(event["ts"].is_f64() && named.contains(&track), "{event}");
                }
                phase @ ("b" | "e") => {
                    let time = event["ts"].as_f64().expect("a time");
                    let slices = open.entry((text("cat"), text("id"))).or_default();
                    if phase == "b" {
                        assert!(slices.last().is_none_or(|(_, begin)| *begin <= time));
                        slices.push((text("name"), time));
                    } else {
                        let (name, begin) = slices.pop().expect("a begun slice");
                        assert!(name == text("name") && begin <= time, "{event}");
                    }
                }
                other => panic!("{other}"),
            }
        }
        assert!(open.values().all(Vec::is_empty), "{open:?}");
        assert_eq!(open.len(), 2, "a buffer each");
    }

    #[test]
    fn owners_follow_each_other_and_instants_are_at_their_time() {
        let events = events();
        let slice = |name: &str, id: &str| -> Vec<(f64, f64)> {
            let at = |phase: &str| -> Vec<f64> {
                let one = |event: &&Value| {
                    event["ph"] == phase && event["name"] == name && event["id"] == id
                };
                let times = events.iter().filter(one);
                times.filter_map(|event| event["ts"].as_f64()).collect()
            };
            at("b").into_iter().zip(at("e")).collect()
        };
        assert_eq!(slice("rx queue 3", "0x1000"), [(1.0, 6.0)]);
        assert_eq!(slice("device", "0x1000"), [(1.0, 2.5), (4.0, 6.0)]);
        assert_eq!(slice("driver, with data", "0x1000"), [(2.5, 4.0)]);
        assert_eq!(slice("device", "0x2000"), [(1.5, 6.0)]);
        let instants: Vec<_> = events
            .iter()
            .filter(|event| event["ph"] == "i")
            .map(|event| {
                (
                    event["name"].as_str(),
                    event["tid"].as_u64(),
                    event["ts"].as_f64(),
                )
            })
            .collect();
        assert_eq!(
            instants,
            [
                (Some("posted-twice"), Some(4), Some(5.0)),
                (Some("fault drop"), Some(4), Some(5.5)),
                (Some("tx fault drop"), Some(2), Some(5.5)),
            ]
        );
    }
}
