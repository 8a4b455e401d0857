//! The numbers of the data path and their plot, from the report of `cargo xtask bench --report FILE`, kept as bench.json,
//! and its goals on several processors, from that report and those in `OTHERS`.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::kept::{filled, kept, table};
use crate::bench::{figure::Figure, plot};

/// The parts of a report that the documents show.
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

/// A ratio with a goal: the figure's name, its description, and the least ratio that meets the goal.
type Goal = (&'static str, &'static str, f64);

const GOALS: [Goal; 7] = [
    (
        "dpdk_loop_64",
        "loop of 64-byte frames, over DPDK's vhost",
        0.80,
    ),
    (
        "dpdk_loop_1500",
        "loop of 1500-byte frames, over DPDK's vhost",
        1.20,
    ),
    (
        "memcpy_split_4k",
        "split frames of 4 KiB, over memcpy",
        0.70,
    ),
    ("memcpy_gso_64k", "trains of 60 KiB, over memcpy", 0.85),
    (
        "rules_10000_over_1",
        "10 000 flow rules, over one rule",
        0.90,
    ),
    (
        "faults_unarmed",
        "no fault rule, over a build without faults",
        0.98,
    ),
    ("ledger_counting", "counting ledger, over no ledger", 0.95),
];

/// The report whose figures are all in the documents.
const MAIN: &str = "bench";
/// The reports of other processors, of which only the goals are in the documents.
const OTHERS: [&str; 3] = ["bench-zen5", "bench-zen4", "bench-zen3"];

/// The goals and the ratios that were measured on each processor.
pub(super) fn goals() -> Result<String> {
    let reports = std::iter::once(MAIN).chain(OTHERS).map(report);
    render_goals(&reports.collect::<Result<Vec<_>>>()?)
}

/// Every figure of the main report, and its machine and versions.
pub(super) fn figures() -> Result<String> {
    Ok(render_figures(&report(MAIN)?))
}

/// The scaling curves.
pub(super) fn plot() -> Result<String> {
    Ok(plot::svg(&report(MAIN)?.figures))
}

fn report(name: &str) -> Result<DataPathReport> {
    kept(name)?.with_context(|| format!("no report is kept as {name}.json"))
}

fn render_figures(report: &DataPathReport) -> String {
    let mut text = format!("{}\n", filled("", &setup(report)));
    for figure in &report.figures {
        text.push_str(&format!("    {}\n", figure.line()));
    }
    let memory = report.memory_per_port_bytes / 1024;
    text.push_str(&format!("    memory of an unused port: {memory} KiB\n"));
    text
}

fn render_goals(reports: &[DataPathReport]) -> Result<String> {
    let mut heading = ["", "figure", "goal"].map(str::to_owned).to_vec();
    heading.extend(reports.iter().map(|report| report.machine.name()));
    let mut rows = vec![heading];
    for (name, description, goal) in GOALS {
        let mut row = vec![
            description.to_owned(),
            format!("`{name}`"),
            format!("{goal:.2}"),
        ];
        for report in reports {
            let figure = report.figures.iter().find(|figure| figure.name == name);
            let figure = figure.with_context(|| format!("{name} was not measured"))?;
            row.push(cell(figure, goal));
        }
        rows.push(row);
    }
    let mut text = table(&rows) + "\n";
    for report in reports {
        text.push_str(&filled("* ", &setup(report)));
    }
    Ok(text)
}

/// A ratio and its spread; bold if it is below its goal.
fn cell(figure: &Figure, goal: f64) -> String {
    let [least, greatest] = figure.spread();
    let bold = if figure.ratio() < goal { "**" } else { "" };
    format!(
        "{bold}{:.2}{bold} ({least:.2} to {greatest:.2})",
        figure.ratio()
    )
}

impl Machine {
    /// The processor's name, with family and model, as names are shared by several processors.
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

/// The machine and the versions that a report was made with.
fn setup(report: &DataPathReport) -> String {
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

    fn report(family: &str, goals: &[Goal]) -> DataPathReport {
        let figure = |name: &str| json!({ "name": name, "unit": "frames/s", "a": [2e6], "b": [4e6], "again": [1e6] });
        let figures: Vec<_> = goals.iter().map(|(name, ..)| figure(name)).collect();
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
        serde_json::from_value(report).unwrap()
    }

    #[test]
    fn figures_are_those_of_the_report() {
        assert_eq!(
            render_figures(&report("8", &GOALS[6..])),
            "\
Linux 6.1 on a virtual machine with 2 processors (Z80, family 8 model 4; L1 Data 1K), rustc 1.0,
SCHED_RR, DPDK 24.11, commit 0123456789abcdef-dirty

    ledger_counting                   1.500 Mframes/s   ratio 0.375   a/a 0.500 to 0.500   +416.7 ns each
    memory of an unused port: 4 KiB
"
        );
    }

    #[test]
    fn goals_have_a_column_for_each_processor() {
        let text = render_goals(&["8", "9"].map(|family| report(family, &GOALS))).unwrap();
        assert!(
            text.starts_with(
                "|  | figure | goal | Z80, family 8 model 4 | Z80, family 9 model 4 |\n"
            )
        );
        let row = "| counting ledger, over no ledger | `ledger_counting` | 0.95 \
                   | **0.38** (0.50 to 0.50) | **0.38** (0.50 to 0.50) |\n\n* Linux 6.1 on";
        assert!(text.contains(row), "{text}");
        assert!(render_goals(&[report("9", &GOALS[1..])]).is_err());
    }

    #[test]
    fn a_ratio_that_meets_its_goal_is_not_bold() {
        let report = report("8", &GOALS[..1]);
        assert_eq!(cell(&report.figures[0], 0.3), "0.38 (0.50 to 0.50)");
    }
}
