//! The README's table of the kernel's selftests, from the reports of full runs: `cargo xtask kselftest
//! --suite memory-providers --report FILE` on Debian's kernel, the debug kernel and the one with KASAN, kept as
//! stock.json, debug.json and kasan.json.

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::kept::{committed, filled, table};
use crate::ci;
use zcnic_results::program::{Score, file_name};

/// A kernel with a column in the table: the report's name, the column's heading, and the options that the
/// kernel must have and must not have.
struct Column {
    report: &'static str,
    heading: &'static str,
    with: &'static [&'static str],
    without: &'static [&'static str],
}

const COLUMNS: [Column; 3] = [
    Column {
        report: "stock",
        heading: "Debian's kernel",
        with: &[],
        without: &["PROVE_LOCKING", "KASAN"],
    },
    Column {
        report: "debug",
        heading: "debug kernel",
        with: &["PROVE_LOCKING", "DMA_API_DEBUG", "KFENCE"],
        without: &["KASAN"],
    },
    Column {
        report: "kasan",
        heading: "KASAN",
        with: &["KASAN"],
        without: &[],
    },
];

/// The parts of a report that the table shows.
#[derive(Debug, Deserialize)]
struct Kept {
    commit: Option<String>,
    kernel: String,
    debug: Vec<String>,
    wire: String,
    qemu: String,
    acceleration: String,
    seconds: f64,
    programs: Vec<Score>,
}

/// The table and, below it, a line on the kernel, commit and machine of each column.
pub(super) fn section() -> Result<String> {
    let mut kept = Vec::new();
    for column in &COLUMNS {
        let Some(report) = super::kept::kept::<Kept>(column.report)? else {
            continue;
        };
        check(column, &report).with_context(|| format!("the report {}", column.report))?;
        kept.push((column, report));
    }
    Ok(render(&kept))
}

/// Fails unless a report is of a kernel of this column and of a clean commit.
fn check(column: &Column, report: &Kept) -> Result<()> {
    let has = |option: &&&str| report.debug.iter().any(|other| other == **option);
    if let Some(option) = column.with.iter().find(|option| !has(option)) {
        bail!("the report is of a kernel without {option}");
    }
    if let Some(option) = column.without.iter().find(has) {
        bail!("the report is of a kernel with {option}");
    }
    committed(report.commit.as_deref())
}

fn render(kept: &[(&Column, Kept)]) -> String {
    if kept.is_empty() {
        return "No report of a full run is kept.".to_owned();
    }
    let mut rows = vec![vec!["selftest".to_owned()]];
    for (column, _) in kept {
        let in_ci = if column.report == ci::SELFTESTS_REPORT {
            " (in CI)"
        } else {
            ""
        };
        rows[0].push(format!("{}{in_ci}", column.heading));
    }
    let mut programs: Vec<&str> = Vec::new();
    for score in kept.iter().flat_map(|(_, report)| &report.programs) {
        if !programs.contains(&score.name.as_str()) {
            programs.push(&score.name);
        }
    }
    for program in programs {
        let of_program = |report: &Kept| -> Option<Score> { Some(find(report, program)?.clone()) };
        let cells = kept
            .iter()
            .map(|(_, report)| of_program(report).map_or_else(String::new, |score| cell(&score)));
        rows.push(
            [format!("`{}`", file_name(program))]
                .into_iter()
                .chain(cells)
                .collect(),
        );
    }
    let all = kept
        .iter()
        .map(|(_, report)| cell(&Score::sum("all", &report.programs)));
    rows.push(["all".to_owned()].into_iter().chain(all).collect());

    let mut text = table(&rows);
    text.push('\n');
    for (column, report) in kept {
        text.push_str(&about(column, report));
    }
    text
}

fn find<'a>(report: &'a Kept, program: &str) -> Option<&'a Score> {
    report.programs.iter().find(|score| score.name == program)
}

/// "13 of 13", and how many of the others failed or skipped.
fn cell(score: &Score) -> String {
    let mut text = format!("{} of {}", score.pass, score.total());
    for (count, word) in [
        (score.fail, "failed"),
        (score.skip, "skipped"),
        (score.xfail, "failed as expected"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {word}"));
        }
    }
    text
}

fn about(column: &Column, report: &Kept) -> String {
    let commit = report.commit.as_deref().unwrap_or_default();
    let commit = commit.get(..12).unwrap_or(commit);
    let acceleration = report.acceleration.split(' ').next().unwrap_or_default();
    let qemu = report.qemu.split(' ').next().unwrap_or_default();
    let debug = match (column.with, &report.debug[..]) {
        ([], _) | (_, []) => String::new(),
        (_, options) => format!(" with {}", options.join(", ")),
    };
    let text = format!(
        "{}: Linux {}{debug}; commit {commit}, {}, QEMU {qemu}, {acceleration}, {:.0} minutes",
        column.heading,
        report.kernel,
        report.wire,
        (report.seconds / 60.0).ceil()
    );
    filled("* ", &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        let score = |name: &str, pass, skip| Score {
            name: name.to_owned(),
            pass,
            skip,
            ..Score::default()
        };
        Kept {
            commit: Some("0123456789abcdef0123".to_owned()),
            kernel: "7.3.4".to_owned(),
            debug: vec!["KFENCE".to_owned()],
            wire: "cable, pause".to_owned(),
            qemu: "11.1.3 (Debian)".to_owned(),
            acceleration: "TCG (no usable KVM here)".to_owned(),
            seconds: 601.0,
            programs: vec![score("drivers/net/a.py", 3, 0), score("b.py", 0, 1)],
        }
    }

    #[test]
    fn a_column_per_report_and_a_row_per_program() {
        let mut other = kept();
        other.debug = vec!["PROVE_LOCKING".to_owned(), "KFENCE".to_owned()];
        other.programs.truncate(1);
        let text = render(&[(&COLUMNS[0], kept()), (&COLUMNS[1], other)]);
        assert_eq!(
            text,
            "\
| selftest | Debian's kernel (in CI) | debug kernel |
| --- | --- | --- |
| `a.py` | 3 of 3 | 3 of 3 |
| `b.py` | 0 of 1, 1 skipped |  |
| all | 3 of 4, 1 skipped | 3 of 3 |

* Debian's kernel: Linux 7.3.4; commit 0123456789ab, cable, pause, QEMU 11.1.3, TCG, 11 minutes
* debug kernel: Linux 7.3.4 with PROVE_LOCKING, KFENCE; commit 0123456789ab, cable, pause, QEMU
  11.1.3, TCG, 11 minutes
"
        );
    }

    #[test]
    fn a_report_of_another_kernel_or_of_no_commit_is_refused() {
        assert!(check(&COLUMNS[0], &kept()).is_ok());
        assert!(check(&COLUMNS[1], &kept()).is_err());
        let mut kasan = kept();
        kasan.debug.push("KASAN".to_owned());
        assert!(check(&COLUMNS[0], &kasan).is_err());
        for commit in [None, Some("0123-dirty".to_owned())] {
            let mut dirty = kept();
            dirty.commit = commit;
            assert!(check(&COLUMNS[0], &dirty).is_err());
        }
    }
}
