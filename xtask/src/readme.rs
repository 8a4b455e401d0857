//! `cargo xtask readme`: the README's table of the kernel's selftests, from the reports of full runs.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{ci, paths, rings::file_name, suite::Score};

/// Where the reports are, in the workspace.
const REPORTS: &str = "docs/reports";

/// The lines around what is written.
const BEGIN: &str = "<!-- begin: cargo xtask readme -->";
const END: &str = "<!-- end -->";

/// A kernel that reports may be of: the report's name, the table's heading, and the options that the
/// kernel must have and must not have. In the table's order.
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

/// Write the README's table of selftests from the reports in docs/reports
///
/// `cargo xtask kselftest --ring 1 --report FILE` makes them; those of Debian's kernel, of our debug
/// kernel and of the one with KASAN are kept as stock.json, debug.json and kasan.json.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

/// What is read of a report.
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

pub(crate) fn run(_: &Args) -> Result<ExitCode> {
    let path = readme();
    let before = read(&path)?;
    let after = replace(&before, &section()?)?;
    if before != after {
        fs::write(&path, after).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn readme() -> PathBuf {
    paths::workspace().join("README.md")
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// `text` with `section` between the markers.
fn replace(text: &str, section: &str) -> Result<String> {
    let parts = text.split_once(BEGIN);
    let parts = parts.and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let Some((before, after)) = parts else {
        bail!("the README has no lines {BEGIN} and {END}");
    };
    let section = section.trim_end();
    Ok(format!("{before}{BEGIN}\n\n{section}\n\n{END}{after}"))
}

/// The section from the reports that there are.
fn section() -> Result<String> {
    let mut kept = Vec::new();
    for column in &COLUMNS {
        let path = paths::workspace()
            .join(REPORTS)
            .join(format!("{}.json", column.report));
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.with_context(|| path.display().to_string())?,
        };
        let report: Kept =
            serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        check(column, &report).with_context(|| path.display().to_string())?;
        kept.push((column, report));
    }
    Ok(render(&kept))
}

/// Fails if a report is not one that may be shown.
fn check(column: &Column, report: &Kept) -> Result<()> {
    let has = |option: &&&str| report.debug.iter().any(|other| other == **option);
    if let Some(option) = column.with.iter().find(|option| !has(option)) {
        bail!("the report is of a kernel without {option}");
    }
    if let Some(option) = column.without.iter().find(has) {
        bail!("the report is of a kernel with {option}");
    }
    match &report.commit {
        Some(commit) if !commit.ends_with("-dirty") => Ok(()),
        _ => bail!("the report is of something that is no commit"),
    }
}

fn render(kept: &[(&Column, Kept)]) -> String {
    if kept.is_empty() {
        return "No report of a full run is kept.".to_owned();
    }
    let mut rows = vec![vec!["selftest".to_owned()], vec!["---".to_owned()]];
    for (column, _) in kept {
        let in_ci = if column.report == ci::SELFTESTS_REPORT {
            " (in CI)"
        } else {
            ""
        };
        rows[0].push(format!("{}{in_ci}", column.heading));
        rows[1].push("---".to_owned());
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

    let mut text = String::new();
    for row in rows {
        text.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    text.push('\n');
    for (column, report) in kept {
        text.push_str(&about(column, report));
    }
    text
}

fn find<'a>(report: &'a Kept, program: &str) -> Option<&'a Score> {
    report.programs.iter().find(|score| score.name == program)
}

/// "13 of 13", and what became of the others.
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
    format!(
        "* {}: Linux {}{debug}; commit {commit}, {}, QEMU {qemu}, {acceleration}, {:.0} minutes\n",
        column.heading,
        report.kernel,
        report.wire,
        (report.seconds / 60.0).ceil()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_says_what_the_reports_say() {
        let text = read(&readme()).unwrap();
        let section = section().unwrap();
        assert!(
            replace(&text, &section).unwrap() == text,
            "README.md differs from {REPORTS}: run `cargo xtask readme`"
        );
    }

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
* debug kernel: Linux 7.3.4 with PROVE_LOCKING, KFENCE; commit 0123456789ab, cable, pause, QEMU 11.1.3, TCG, 11 minutes
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

    #[test]
    fn what_is_outside_the_markers_stays() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let new = replace(&text, "new\n").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\n\nnew\n\n{END}\nb\n"));
        assert_eq!(replace(&new, "new\n").unwrap(), new);
        assert!(replace("a", "b").is_err());
    }
}
