//! The numbers of the data path and their plot, from the report of `cargo xtask bench --report FILE`, kept as bench.json.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{kept, table};
use crate::bench::{figure::Figure, plot};

/// What is read of a report.
#[derive(Debug, Deserialize)]
struct Report {
    commit: Option<String>,
    machine: Machine,
    peers: Peers,
    memory_per_port_bytes: u64,
    figures: Vec<Figure>,
}

#[derive(Debug, Deserialize)]
struct Machine {
    kernel: String,
    #[serde(rename = "virtual")]
    is_virtual: bool,
    processor: String,
    processors: usize,
    caches: Vec<String>,
    scheduling: String,
    rustc: String,
}

#[derive(Debug, Deserialize)]
struct Peers {
    dpdk: Option<String>,
    passt: Option<String>,
}

/// Ratios that are to be reached.
const GOALS: [(&str, f64); 7] = [
    ("dpdk_loop_64", 0.80),
    ("dpdk_loop_1500", 1.20),
    ("memcpy_split_4k", 0.70),
    ("memcpy_gso_64k", 0.85),
    ("rules_10000_over_1", 0.90),
    ("faults_unarmed", 0.98),
    ("ledger_counting", 0.95),
];

pub(super) fn section() -> Result<String> {
    render(&report()?)
}

/// The scaling curves.
pub(super) fn plot() -> Result<String> {
    Ok(plot::svg(&report()?.figures))
}

fn report() -> Result<Report> {
    kept("bench")?.context("no report is kept")
}

fn render(report: &Report) -> Result<String> {
    let facts = facts(report);
    let lines: String = report
        .figures
        .iter()
        .map(|figure| format!("    {}\n", figure.line()))
        .collect();
    let memory = report.memory_per_port_bytes / 1024;
    let heading = ["ratio", "goal", "measured", "a differs from itself by"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for (name, goal) in GOALS {
        let figure = report.figures.iter().find(|figure| figure.name == name);
        let figure = figure.with_context(|| format!("{name} was not measured"))?;
        let [least, greatest] = figure.spread();
        rows.push(vec![
            format!("`{name}`"),
            format!("{goal:.2}"),
            format!("{:.2}", figure.ratio()),
            format!("{least:.2} to {greatest:.2}"),
        ]);
    }
    let table = table(&rows);
    Ok(format!(
        "{facts}\n\n{lines}    memory of a port that nobody uses: {memory} KiB\n\n{table}"
    ))
}

fn facts(report: &Report) -> String {
    let machine = &report.machine;
    let kind = if machine.is_virtual {
        "virtual"
    } else {
        "real"
    };
    let mut facts = vec![
        format!(
            "Linux {} on a {kind} machine with {} processors ({}; {})",
            machine.kernel,
            machine.processors,
            machine.processor,
            machine.caches.join(", "),
        ),
        machine.rustc.clone(),
        machine.scheduling.clone(),
    ];
    let peers = [("DPDK", &report.peers.dpdk), ("passt", &report.peers.passt)];
    for (name, version) in peers {
        facts.extend(version.as_ref().map(|version| format!("{name} {version}")));
    }
    facts.extend(
        report
            .commit
            .iter()
            .map(|commit| format!("commit {commit}")),
    );
    facts.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_report() {
        let figure = |name: &str| json!({ "name": name, "unit": "frames/s", "a": [2e6], "b": [4e6], "again": [1e6] });
        let report = |names: &[(&str, f64)]| {
            let figures: Vec<_> = names.iter().map(|(name, _)| figure(name)).collect();
            let report = json!({
                "commit": "0123456789abcdef-dirty",
                "machine": {
                    "kernel": "6.1", "virtual": true, "processor": "Z80", "processors": 2,
                    "caches": ["L1 Data 1K"], "scheduling": "SCHED_RR", "rustc": "rustc 1.0",
                },
                "peers": { "dpdk": "24.11", "passt": null },
                "memory_per_port_bytes": 4096,
                "figures": figures,
            });
            serde_json::from_value::<Report>(report).unwrap()
        };
        let text = render(&report(&GOALS)).unwrap();
        let facts = "Linux 6.1 on a virtual machine with 2 processors (Z80; L1 Data 1K), rustc 1.0, SCHED_RR, DPDK 24.11, commit 0123456789abcdef-dirty\n";
        assert!(text.starts_with(facts), "{text}");
        assert!(text.contains("    memory of a port that nobody uses: 4 KiB\n"));
        assert!(
            text.contains("    dpdk_loop_64                      1.500 Mframes/s   ratio 0.375")
        );
        assert!(text.ends_with("| `ledger_counting` | 0.95 | 0.38 | 0.50 to 0.50 |\n"));
        assert!(render(&report(&GOALS[1..])).is_err());
    }
}
