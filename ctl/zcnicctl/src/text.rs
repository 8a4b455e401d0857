//! Answers as text for people.

use serde_json::Value;

use crate::table::{brief, objects, table};

pub(crate) const QUEUE_COLUMNS: [&str; 10] = [
    "queue",
    "commands",
    "layout",
    "transmits",
    "rx.size",
    "rx.next-available",
    "rx.held-chains",
    "rx.fault-drops",
    "tx.next-available",
    "tx.held-chains",
];

pub(crate) const FAULT_COLUMNS: [&str; 10] = [
    "id",
    "port",
    "rule.direction",
    "rule.queue",
    "rule.action",
    "rule.nth",
    "rule.every",
    "rule.probability",
    "seen",
    "hits",
];

pub(crate) const LEDGER_COLUMNS: [&str; 9] = [
    "queue",
    "posted",
    "filled",
    "unused",
    "with-device",
    "out",
    "out-most",
    "violations",
    "last-stop.clean",
];

/// The numbers of added rules, one per line.
pub(crate) fn ids(ids: &Value) -> String {
    let ids = ids["ids"].as_array().into_iter().flatten();
    ids.map(|id| format!("{id}\n")).collect()
}

pub(crate) fn status(status: &Value) -> String {
    let columns = ["name", "driver", "connected", "link", "data-pairs", "path"];
    let mut text = objects(&status["ports"], &columns);
    for cable in status["cables"].as_array().into_iter().flatten() {
        let pause = if cable["pause"] == true {
            " (pause)"
        } else {
            ""
        };
        text += &format!("cable {}{pause}\n", brief(&cable["ports"]));
    }
    text
}

pub(crate) fn stats(stats: &Value) -> String {
    let mut text = String::new();
    for port in stats["ports"].as_array().into_iter().flatten() {
        let counters = port.as_object().into_iter().flatten();
        let words = counters
            .filter(|(name, value)| {
                *name != "name" && value.as_u64().is_some_and(|count| count > 0)
            })
            .map(|(name, value)| format!(" {name} {value}"));
        text += &format!(
            "port {}:{}\n",
            brief(&port["name"]),
            words.collect::<String>()
        );
        let columns = [
            "queue",
            "rx-frames",
            "rx-bytes",
            "rx-split",
            "rx-csum-bad",
            "rx-no-buffer",
            "rx-stopped",
            "rx-bad-chain",
            "tx-frames",
            "tx-bytes",
            "tx-errors",
        ];
        text += &objects(&port["queues"], &columns);
    }
    text
}

pub(crate) fn members(value: &Value) -> String {
    let members = value.as_object().into_iter().flatten();
    let rows: Vec<_> = members
        .map(|(name, value)| vec![name.clone(), brief(value)])
        .collect();
    table(&["", ""], &rows).trim_start().to_owned()
}

pub(crate) fn steering(steering: &Value) -> String {
    format!(
        "addresses: {} promisc: {} allmulti: {}\n{}{}",
        brief(&steering["addresses"]),
        brief(&steering["promisc"]),
        brief(&steering["allmulti"]),
        objects(&steering["contexts"], &["context", "symmetric", "table"]),
        objects(
            &steering["rules"],
            &[
                "location",
                "rule-type",
                "action",
                "queue",
                "context",
                "fields"
            ]
        ),
    )
}

pub(crate) fn flow(counts: &Value) -> String {
    let queues = counts["queues"].as_object().into_iter().flatten();
    let rows: Vec<_> = queues
        .map(|(queue, counts)| {
            let names = ["delivered", "split", "unsplit", "dropped"];
            let counts = names.map(|name| brief(&counts[name]));
            [vec![queue.clone()], counts.to_vec()].concat()
        })
        .collect();
    table(
        &["queue", "delivered", "split", "unsplit", "dropped"],
        &rows,
    )
}
