//! The tables of the cost of receiving in a guest, from the report of `cargo xtask bench receive --report FILE`, kept as
//! receive.json, beside published numbers of other machines.

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::kept::{kept, table};
use crate::bench::figure::Figure;

#[derive(Debug, Deserialize)]
struct ReceiveReport {
    setup: Value,
    figures: Vec<Figure>,
}

/// A row: the figure's name, its description, and published numbers to compare with.
type Row = (&'static str, &'static str, &'static str);

/// Interfaces to receive by, each compared with `recv()` in a loop; the last one is `recv()` itself, compared with
/// `recv()` without recycling.
const INTERFACES: [Row; 5] = [
    ("guest_epoll", "`recv()` behind `epoll_wait()`", ""),
    ("guest_tcp_zerocopy_receive", "`TCP_ZEROCOPY_RECEIVE`", ""),
    (
        "guest_zcrx",
        "io_uring zero-copy receive",
        "1.41 times epoll's bytes, on another core than the interrupts; 1.29 on the same (1)",
    ),
    (
        "guest_zcrx_32k_gro",
        "the same, pages of 32 KiB, hardware GRO",
        "up to 30 % less processor than with 4 KiB (2)",
    ),
    (
        "guest_recycling",
        "`recv()`, over `recv()` without recycling of pages",
        "1.92 for frames that mvpp2 drops (3), 1.06 for virtio_net (4)",
    ),
];

/// Requests that take provided buffers, compared with requests that name their memory.
const BUFFERS: [Row; 5] = [
    (
        "guest_buffers_classic_32",
        "classic buffers, replenished 32 at a time",
        "0.53, +29 ns (5)",
    ),
    (
        "guest_buffers_classic_1",
        "classic buffers, replenished one at a time",
        "0.33, +67 ns (5)",
    ),
    (
        "guest_buffers_ring_32",
        "a ring of buffers, replenished 32 at a time",
        "0.90, +4 ns (5)",
    ),
    (
        "guest_buffers_ring_1",
        "a ring of buffers, replenished one at a time",
        "0.90, +4 ns (5)",
    ),
    ("guest_nop", "a NOP, for comparison", ""),
];

pub(super) fn section() -> Result<String> {
    let report: Option<ReceiveReport> = kept("receive")?;
    report.map_or_else(
        || Ok("No report is kept.".to_owned()),
        |report| render(&report),
    )
}

fn render(report: &ReceiveReport) -> Result<String> {
    let interfaces = rows(
        report,
        &INTERFACES,
        [
            "bytes per second of processor",
            "over `recv()`",
            "bytes copied",
        ],
        |figure| (format!("{:.0} MB", figure.median() / 1e6), copied(figure)),
    );
    let buffers = rows(
        report,
        &BUFFERS,
        ["requests per second", "over no buffers", "longer each"],
        |figure| {
            let cost = figure.cost().unwrap_or_default();
            let rate = format!("{:.0} thousand", figure.median() / 1e3);
            (rate, format!("{cost:+.0} ns"))
        },
    );
    let fact = |name: &str| {
        report.setup[name]
            .as_str()
            .context("a report without its setup")
    };
    let setup = format!("Linux {}, QEMU {}\n", fact("kernel")?, fact("qemu")?);
    let parts = [interfaces, buffers, setup].into_iter();
    let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
    Ok(parts.join("\n"))
}

/// The table of those figures that the report has, if it has any. The columns are the two that `values` gives and, between
/// them, the ratio and its spread.
fn rows(
    report: &ReceiveReport,
    wanted: &[Row],
    [value, ratio, more]: [&str; 3],
    values: impl Fn(&Figure) -> (String, String),
) -> String {
    let heading = ["", value, ratio, "spread", more, "published"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for (name, description, published) in wanted {
        let mut figures = report.figures.iter();
        let Some(figure) = figures.find(|figure| figure.name == *name) else {
            continue;
        };
        let (value, more) = values(figure);
        let [least, greatest] = figure.spread();
        rows.push(vec![
            (*description).to_owned(),
            value,
            format!("{:.2}", figure.ratio()),
            format!("{least:.2} to {greatest:.2}"),
            more,
            (*published).to_owned(),
        ]);
    }
    if rows.len() > 1 {
        table(&rows)
    } else {
        String::new()
    }
}

/// The share of the bytes that the kernel copied, if that was counted.
fn copied(figure: &Figure) -> String {
    let of = |name: &str| figure.counter(name).map(|count| count as f64);
    let share = of("copied").zip(of("bytes"));
    let percent = share.map(|(copied, bytes)| 100.0 * copied / bytes);
    match percent {
        None => String::new(),
        Some(0.0) => "none".to_owned(),
        Some(100.0) => "all".to_owned(),
        Some(percent) => format!("{percent:.2} %"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_has_the_figure_and_published_numbers() {
        let figure = |name, unit, counters| {
            json!({
                "name": name, "unit": unit, "counters": counters,
                "a": [2e6, 2e6], "b": [4e6, 4e6], "again": [1.8e6, 2.2e6],
            })
        };
        let report = json!({
            "setup": {"kernel": "7.3", "qemu": "11.1"},
            "figures": [
                figure("guest_epoll", "bytes/s", json!({"bytes": 1000, "copied": 5})),
                figure("guest_buffers_ring_1", "requests/s", json!({"requests": 1})),
            ],
        });
        let text = render(&serde_json::from_value(report).unwrap()).unwrap();
        assert_eq!(
            text,
            "\
|  | bytes per second of processor | over `recv()` | spread | bytes copied | published |
| --- | --- | --- | --- | --- | --- |
| `recv()` behind `epoll_wait()` | 2 MB | 0.50 | 0.90 to 1.10 | 0.50 % |  |

|  | requests per second | over no buffers | spread | longer each | published |
| --- | --- | --- | --- | --- | --- |
| a ring of buffers, replenished one at a time | 2000 thousand | 0.50 | 0.90 to 1.10 | +250 ns | 0.90, +4 ns (5) |

Linux 7.3, QEMU 11.1
"
        );
    }
}
