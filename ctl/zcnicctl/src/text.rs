//! Answers as text for people.

use std::time::Duration;

use serde_json::Value;

use crate::{
    rate,
    table::{brief, objects, table},
};

pub(crate) const QUEUE_COLUMNS: [&str; 11] = [
    "queue",
    "commands",
    "layout",
    "transmits",
    "rx.size",
    "rx.next-available",
    "rx.held-chains",
    "rx.fault-drops",
    "rx.fault-limit-drops",
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
    let list = |name: &str| status[name].as_array().into_iter().flatten();
    let mut text = objects(&status["ports"], &columns);
    for cable in list("cables") {
        let pause = if cable["pause"] == true {
            " (pause)"
        } else {
            ""
        };
        let shape = members_line(&cable["shape"]);
        text += &format!("cable {}{pause}{shape}\n", brief(&cable["ports"]));
        let lines = cable["lines"].as_array().into_iter().flatten();
        for (line, arrow) in lines.zip(["->", "<-"]) {
            text += &format!("  {arrow}{}\n", members_line(line));
        }
    }
    for wire in list("wires") {
        let end = wire["end"]
            .as_str()
            .map_or(String::new(), |end| format!(" {end}"));
        let (port, kind) = (brief(&wire["port"]), brief(&wire["kind"]));
        let line = members_line(&wire["line"]);
        text += &format!("wire {port} {kind}{end}{line}\n");
    }
    for switch in list("switches") {
        text += &format!("switch{}\n", members_line(switch));
    }
    text
}

/// The members of an object as ` name value`, without those that are zero.
fn members_line(object: &Value) -> String {
    let members = object.as_object().into_iter().flatten();
    let members = members.filter(|(_, value)| value.as_u64() != Some(0));
    members
        .map(|(name, value)| format!(" {name} {}", brief(value)))
        .collect()
}

/// Counters that are shown with their rates.
const RATED: [&str; 5] = [
    "rx-frames",
    "rx-bytes",
    "rx-no-buffer",
    "tx-frames",
    "tx-bytes",
];

/// Counters, and with an earlier answer and the time since then rates per second.
pub(crate) fn stats(stats: &Value, before: Option<(&Value, Duration)>) -> String {
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
        let old = before.and_then(|(stats, elapsed)| {
            let old = find(&stats["ports"], "name", &port["name"])?;
            Some((&old["queues"], elapsed))
        });
        text += &queue_counters(&port["queues"], old);
    }
    text
}

fn queue_counters(queues: &Value, before: Option<(&Value, Duration)>) -> String {
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
    let Some((before, elapsed)) = before else {
        return objects(queues, &columns);
    };
    let is_rated = |column: &str| RATED.contains(&column);
    let header: Vec<&str> = columns
        .iter()
        .flat_map(|&column| [Some(column), is_rated(column).then_some("/s")])
        .flatten()
        .collect();
    let cells = |queue: &Value| -> Vec<String> {
        // A queue appears with its first frame.
        let old = find(before, "queue", &queue["queue"]);
        let cells = columns.iter().flat_map(|&column| {
            let now = &queue[column];
            let rate = is_rated(column).then(|| {
                let old = old.map_or(Some(0), |old| old[column].as_u64());
                let rate = old.zip(now.as_u64());
                let rate = rate.and_then(|(old, now)| rate::per_second(old, now, elapsed));
                rate.map_or_else(|| "-".to_owned(), rate::brief)
            });
            [Some(brief(now)), rate].into_iter().flatten()
        });
        cells.collect()
    };
    let rows: Vec<_> = queues.as_array().into_iter().flatten().map(cells).collect();
    table(&header, &rows)
}

/// The object with this member.
fn find<'a>(objects: &'a Value, name: &str, value: &Value) -> Option<&'a Value> {
    let mut objects = objects.as_array().into_iter().flatten();
    objects.find(|object| object[name] == *value)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rates_stand_beside_totals() {
        let stats = |frames: u64| {
            json!({"ports": [{"name": "0", "rx-filtered": 3, "queues": [
                {"queue": 2, "rx-frames": frames, "rx-bytes": 1000 * frames}]}]})
        };
        let two_seconds = Duration::from_secs(2);
        let shown = super::stats(&stats(5000), Some((&stats(1000), two_seconds)));
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "port 0: rx-filtered 3");
        assert!(
            lines[1].starts_with("queue  rx-frames  /s     rx-bytes  /s     rx-split"),
            "{shown}"
        );
        assert!(
            lines[2].starts_with("    2       5000  2.00k   5000000  2.00M  -"),
            "{shown}"
        );
        // Another backend counts from zero.
        let shown = super::stats(&stats(1), Some((&stats(1000), two_seconds)));
        assert!(
            shown.contains("    2          1  -       1000  -"),
            "{shown}"
        );
    }
}
