//! The violations of a ledger, and the life of each buffer that they name as a timeline.

use std::fmt::Write;

use serde::Deserialize;
use serde_json::Value;

use super::{duration, escaped};

/// A violation, as the control protocol has it.
#[derive(Deserialize)]
struct Violation {
    /// The case during which it was found.
    #[serde(default)]
    case: String,
    queue: u64,
    kind: String,
    desc: String,
    /// Nanoseconds since the backend started.
    #[serde(default)]
    time: u64,
    #[serde(default)]
    buffers: Vec<Buffer>,
}

/// A receive buffer with its last transfers, oldest first.
#[derive(Deserialize)]
struct Buffer {
    address: u64,
    length: u64,
    events: Vec<Transfer>,
}

#[derive(Deserialize)]
struct Transfer {
    time: u64,
    head: u64,
    what: String,
}

/// Width of a timeline, in units of the drawing.
const WIDTH: f64 = 1000.0;

/// The section of the violations; nothing without any. Entries that are none are shown as text.
pub(super) fn violations(list: Option<&Value>) -> String {
    let Some(list) = list
        .and_then(Value::as_array)
        .filter(|list| !list.is_empty())
    else {
        return String::new();
    };
    let mut text = "<h2>Violations of buffer ownership</h2>\n\
        <p class=\"legend\"><span><i class=\"device\"></i>the device owns the buffer</span>\
        <span><i class=\"data\"></i>the driver has it, with data</span>\
        <span><i class=\"idle\"></i>the driver has it, unused</span>\
        <span><i class=\"mark\"></i>the violation</span></p>\n"
        .to_owned();
    for value in list {
        match Violation::deserialize(value) {
            Ok(violation) => text.push_str(&section(&violation)),
            Err(_) => {
                let _ = writeln!(text, "<pre>{}</pre>", escaped(&value.to_string()));
            }
        }
    }
    text
}

fn section(violation: &Violation) -> String {
    let Violation {
        case,
        queue,
        kind,
        desc,
        time,
        buffers,
    } = violation;
    let (case, kind, desc) = (escaped(case), escaped(kind), escaped(desc));
    let of = if case.is_empty() {
        String::new()
    } else {
        format!(" ({case})")
    };
    let mut text = format!("<h3>{kind}, receive queue {queue}{of}</h3>\n<p>{desc}</p>\n");
    for buffer in buffers {
        text.push_str(&timeline(buffer, *time));
    }
    text
}

/// One buffer: a bar of its owners over time, and a table of its transfers.
fn timeline(buffer: &Buffer, end: u64) -> String {
    let Buffer {
        address,
        length,
        events,
    } = buffer;
    let Some(first) = events.first() else {
        return String::new();
    };
    let last = events.last().map_or(end, |event| event.time.max(end));
    let whole = last.saturating_sub(first.time).max(1) as f64;
    let x = |time: u64| WIDTH * time.saturating_sub(first.time) as f64 / whole;
    let mut bars = String::new();
    let mut rows = String::new();
    for (number, event) in events.iter().enumerate() {
        let until = events.get(number + 1).map_or(last, |next| next.time);
        let (class, owner) = match &*event.what {
            "posted" => ("device", "to the device"),
            "filled" => ("data", "to the driver, with data"),
            _ => ("idle", "to the driver, unused"),
        };
        let (from, to) = (x(event.time), x(until));
        let width = (to - from).max(2.0);
        let _ = write!(
            bars,
            "<rect class=\"{class}\" x=\"{from:.1}\" y=\"8\" width=\"{width:.1}\" height=\"24\"/>"
        );
        let before = duration(last.saturating_sub(event.time));
        let (what, head) = (escaped(&event.what), event.head);
        let _ = writeln!(
            rows,
            "<tr><td class=\"number\">{before} before</td><td>{what} ({owner})</td>\
             <td class=\"number\">{head}</td></tr>"
        );
    }
    let mark = x(end).clamp(1.5, WIDTH - 1.5);
    let label = format!(
        "The last {} of {length} bytes at {address:#x}",
        duration(last.saturating_sub(first.time))
    );
    format!(
        "<figure>\n<figcaption>{label}</figcaption>\n\
         <svg class=\"life\" viewBox=\"0 0 {WIDTH} 40\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"{label}\">{bars}\
         <path class=\"violation\" d=\"M{mark:.1} 0V40\"/></svg>\n\
         <details><summary>Transfers</summary>\n<div class=\"scroll\"><table>\n\
         <thead><tr><th scope=\"col\" class=\"number\">Time</th><th scope=\"col\">Transfer</th>\
         <th scope=\"col\" class=\"number\">Chain</th></tr></thead>\n<tbody>\n{rows}</tbody>\n\
         </table></div></details>\n</figure>\n"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_buffer_has_a_bar_per_owner_and_the_violation_at_its_end() {
        let event = |time: u64, what: &str| json!({"time": time, "head": 7, "what": what});
        let list = json!([{"port": "0", "queue": 3, "kind": "posted-twice", "desc": "why",
            "time": 2000, "case": "a test", "buffers": [{"address": 0x1000, "length": 4096,
            "events": [event(1000, "posted"), event(1250, "filled"), event(1750, "posted")]}]}]);
        let text = violations(Some(&list));
        for part in [
            "<h3>posted-twice, receive queue 3 (a test)</h3>",
            "class=\"device\" x=\"0.0\" y=\"8\" width=\"250.0\"",
            "class=\"data\" x=\"250.0\" y=\"8\" width=\"500.0\"",
            "class=\"device\" x=\"750.0\" y=\"8\" width=\"250.0\"",
            "The last 1.0 µs of 4096 bytes at 0x1000",
            "<td class=\"number\">750 ns before</td><td>filled (to the driver, with data)</td>",
            "d=\"M998.5 0V40\"",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(violations(Some(&json!([]))), "");
        assert_eq!(violations(None), "");
    }
}
