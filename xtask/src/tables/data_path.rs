//! The numbers of the data path and their plot, from the report of `cargo xtask bench --report FILE`, kept as bench.json;
//! and its goals on other processors as well, from the reports in `OTHERS`.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::kept::{kept, table};
use crate::bench::{figure::Figure, plot};

/// What is read of a report.
#[derive(Debug, Deserialize)]
struct DataPathReport {
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
    family_model_stepping: [Option<String>; 3],
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

/// All numbers are of this report.
const MAIN: &str = "bench";
/// Of these only what the goals are about.
const OTHERS: [&str; 3] = ["bench-zen5", "bench-zen4", "bench-zen3"];

pub(super) fn section() -> Result<String> {
    let others = OTHERS.map(report).into_iter().collect::<Result<Vec<_>>>()?;
    render(&report(MAIN)?, &others)
}

/// The scaling curves.
pub(super) fn plot() -> Result<String> {
    Ok(plot::svg(&report(MAIN)?.figures))
}

fn report(name: &str) -> Result<DataPathReport> {
    kept(name)?.with_context(|| format!("no report is kept as {name}.json"))
}

fn render(main: &DataPathReport, others: &[DataPathReport]) -> Result<String> {
    let reports = || std::iter::once(main).chain(others);
    let lines: String = main
        .figures
        .iter()
        .map(|figure| format!("    {}\n", figure.line()))
        .collect();
    let memory = main.memory_per_port_bytes / 1024;
    let mut heading = vec!["ratio".to_owned(), "goal".to_owned()];
    for report in reports() {
        heading.push(report.machine.name());
        heading.push("a differs from itself by".to_owned());
    }
    let mut rows = vec![heading];
    for (name, goal) in GOALS {
        let mut row = vec![format!("`{name}`"), format!("{goal:.2}")];
        for report in reports() {
            let figure = report.figures.iter().find(|figure| figure.name == name);
            let figure = figure.with_context(|| format!("{name} was not measured"))?;
            let [least, greatest] = figure.spread();
            row.push(format!("{:.2}", figure.ratio()));
            row.push(format!("{least:.2} to {greatest:.2}"));
        }
        rows.push(row);
    }
    let (first, table) = (facts(main), table(&rows));
    let others: Vec<String> = others.iter().map(facts).collect();
    let others = others.join("; ");
    Ok(format!(
        "{first}\n\n{lines}    memory of a port that nobody uses: {memory} KiB\n\n{table}\nThe other processors: {others}"
    ))
}

impl Machine {
    /// What tells its processor from others of that brand.
    fn name(&self) -> String {
        let [family, model, _] = &self.family_model_stepping;
        match (family, model) {
            (Some(family), Some(model)) => {
                format!("{}, family {family} model {model}", self.processor)
            }
            _ => self.processor.clone(),
        }
    }
}

fn facts(report: &DataPathReport) -> String {
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
            machine.name(),
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
        let report = |family: &str, names: &[(&str, f64)]| {
            let figures: Vec<_> = names.iter().map(|(name, _)| figure(name)).collect();
            let report = json!({
                "commit": "0123456789abcdef-dirty",
                "machine": {
                    "kernel": "6.1", "virtual": true, "processor": "Z80", "processors": 2,
                    "family_model_stepping": [family, "4", null],
                    "caches": ["L1 Data 1K"], "scheduling": "SCHED_RR", "rustc": "rustc 1.0",
                },
                "peers": { "dpdk": "24.11", "passt": null },
                "memory_per_port_bytes": 4096,
                "figures": figures,
            });
            serde_json::from_value::<DataPathReport>(report).unwrap()
        };
        let [main, second, third] = ["8", "9", "10"].map(|family| report(family, &GOALS));
        let text = render(&main, &[second, third]).unwrap();
        let facts = |family| {
            format!(
                "Linux 6.1 on a virtual machine with 2 processors (Z80, family {family} model 4; L1 Data 1K), \
                 rustc 1.0, SCHED_RR, DPDK 24.11, commit 0123456789abcdef-dirty"
            )
        };
        assert!(text.starts_with(&format!("{}\n\n", facts(8))), "{text}");
        let end = format!("\n\nThe other processors: {}; {}", facts(9), facts(10));
        assert!(text.ends_with(&end), "{text}");
        assert!(text.contains("    memory of a port that nobody uses: 4 KiB\n"));
        assert!(
            text.contains("    dpdk_loop_64                      1.500 Mframes/s   ratio 0.375")
        );
        assert!(text.contains(
            "| ratio | goal | Z80, family 8 model 4 | a differs from itself by | Z80, family 9 model 4 | a differs from itself by \
             | Z80, family 10 model 4 | a differs from itself by |\n"
        ));
        let last = "| `ledger_counting` | 0.95 | 0.38 | 0.50 to 0.50 | 0.38 | 0.50 to 0.50 | 0.38 | 0.50 to 0.50 |\n";
        assert!(text.contains(last), "{text}");
        assert!(render(&main, &[report("9", &GOALS[1..])]).is_err());
    }
}
