//! The cases of the kernel's receive-path features and the figures that they saw, from the report of
//! `cargo xtask test features --report FILE`, kept as test-features.json.

use anyhow::{Context, Result, bail, ensure};

use super::kept::{Tests, filled, section_of, table};
use zcnic_results::report::{Case, Outcome};

/// The prefix of the cases' names.
const PREFIX: &str = "features: ";

/// The features: the name that their cases begin with, and a title.
const FEATURES: [(&str, &str); 9] = [
    ("zcrx", "zero-copy receive of io_uring"),
    ("devmem", "devmem TCP"),
    ("unreadable", "payload that the CPU can't read"),
    ("page pool", "page pools of ordinary receive"),
    ("tcp zero copy", "TCP without copies, both directions"),
    ("provided buffers", "provided buffers of io_uring"),
    ("xdp", "XDP programs"),
    ("af_xdp", "AF_XDP sockets"),
    (
        "hardware",
        "timestamps, VLAN tags, interrupt moderation, NAPI",
    ),
];

/// A feature's name and its cases: the rest of the name, and the transcript.
type Feature<'a> = (&'a str, Vec<(&'a str, &'a str)>);

/// The table of features, with links to their pages.
pub(super) fn overview() -> Result<String> {
    section_of("test-features", render_overview)
}

/// The cases of one feature.
pub(super) fn page(name: &str) -> Result<String> {
    section_of("test-features", |kept| render_page(kept, name))
}

fn render_overview(kept: &Tests) -> Result<String> {
    let features = features(&kept.cases)?;
    let mut rows = vec![["feature", "", "cases"].map(str::to_owned).to_vec()];
    for (name, title) in FEATURES {
        let count = features
            .iter()
            .find_map(|(known, cases)| (*known == name).then_some(cases.len()));
        rows.push(vec![
            format!("[{name}](features/{}.md)", name.replace([' ', '_'], "-")),
            title.to_owned(),
            count.unwrap_or_default().to_string(),
        ]);
    }
    for (name, _) in &features {
        ensure!(
            FEATURES.iter().any(|(known, _)| known == name),
            "the feature {name} has no page"
        );
    }
    Ok(format!("{}\n{}", environment(kept), table(&rows)))
}

fn render_page(kept: &Tests, wanted: &str) -> Result<String> {
    let features = features(&kept.cases)?;
    let mut features = features.iter();
    let feature = features.find(|(name, _)| *name == wanted);
    let (_, cases) = feature.with_context(|| format!("the report has no case of {wanted}"))?;
    let mut text = environment(kept);
    let (silent, with_figures): (Vec<_>, Vec<_>) = cases
        .iter()
        .partition(|(_, transcript)| transcript.trim().is_empty());
    if !silent.is_empty() {
        text.push_str("\nVerified, without figures to report:\n\n");
    }
    for (case, _) in silent {
        text.push_str(&filled("* ", case));
    }
    for (case, transcript) in with_figures {
        text.push_str(&format!("\n## {case}\n{}", markdown(transcript)));
    }
    Ok(text)
}

/// The kernel and the QEMU that the cases ran on.
fn environment(kept: &Tests) -> String {
    format!("Linux {}, QEMU {}\n", kept.kernel, kept.qemu)
}

/// The cases by feature. Cases of a feature as a whole are left out, as their parts have all figures.
fn features(cases: &[Case]) -> Result<Vec<Feature<'_>>> {
    let mut features: Vec<Feature<'_>> = Vec::new();
    for case in cases {
        let name = case.name.strip_prefix(PREFIX);
        let Some((feature, rest)) = name.and_then(|name| name.split_once(": ")) else {
            continue;
        };
        if case.outcome != Outcome::Pass {
            bail!("{} did not pass", case.name);
        }
        let case = (rest, case.detail.as_str());
        match features.iter_mut().find(|(known, _)| *known == feature) {
            Some((_, cases)) => cases.push(case),
            None => features.push((feature, vec![case])),
        }
    }
    Ok(features)
}

/// The kind of a line of a transcript.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    /// A step of the case.
    Step,
    /// A value that the case saw and checked.
    Figure,
    /// Part of an explanation of the kernel's behaviour, which takes several lines.
    Reason,
}

impl Line {
    fn parse(line: &str) -> (Self, &str) {
        match line.strip_prefix("* ") {
            Some(step) => (Self::Step, step),
            None if line.starts_with("    ") => (Self::Figure, line.trim()),
            None => (Self::Reason, line.trim()),
        }
    }
}

/// A transcript as Markdown: steps are a list, their figures lists in it, reasons paragraphs.
fn markdown(transcript: &str) -> String {
    let lines = transcript.lines().filter(|line| !line.trim().is_empty());
    let lines: Vec<_> = lines.map(Line::parse).collect();
    let (mut text, mut reason) = (String::new(), Vec::new());
    let mut bullet = "* ";
    for (index, (kind, words)) in lines.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| lines[before].0);
        let begins_list = matches!(before, None | Some(Line::Reason));
        match kind {
            Line::Step | Line::Figure => {
                if begins_list {
                    text.push('\n');
                    bullet = "* ";
                }
                if *kind == Line::Step {
                    text.push_str(&filled("* ", words));
                    bullet = "  * ";
                } else {
                    text.push_str(&filled(bullet, words));
                }
            }
            Line::Reason => {
                reason.push(*words);
                if lines.get(index + 1).map(|(next, _)| *next) != Some(Line::Reason) {
                    text.push_str(&format!("\n{}", filled("", &reason.join(" "))));
                    reason.clear();
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str, outcome: Outcome, detail: &str) -> Case {
        Case {
            outcome,
            ..Case::failed(name, detail.to_owned())
        }
    }

    fn kept(cases: Vec<Case>) -> Tests {
        Tests {
            kernel: "7.3".to_owned(),
            qemu: "11.1".to_owned(),
            cases,
        }
    }

    #[test]
    fn a_feature_is_a_row_and_its_cases_a_page() {
        let transcript = "      before: 1\n* It does so\n      seen: 1\n      also: 2\n  The kernel\n  wants it.\n* And ends\n";
        let kept = kept(vec![
            case("features: page pool: it is so", Outcome::Pass, transcript),
            case("features: page pool: a thing", Outcome::Pass, "\n"),
            case("features: page pools, as a whole", Outcome::Pass, ""),
            case("another: case", Outcome::Fail, ""),
        ]);
        let row = "| [page pool](features/page-pool.md) | page pools of ordinary receive | 2 |\n";
        assert!(render_overview(&kept).unwrap().contains(row));
        assert_eq!(
            render_page(&kept, "page pool").unwrap(),
            "\
Linux 7.3, QEMU 11.1

Verified, without figures to report:

* a thing

## it is so

* before: 1
* It does so
  * seen: 1
  * also: 2

The kernel wants it.

* And ends
"
        );
        assert!(render_page(&kept, "zcrx").is_err());
    }

    #[test]
    fn a_case_that_did_not_pass_or_has_no_page_is_refused() {
        let failed = case("features: zcrx: it is so", Outcome::Fail, "");
        assert!(render_page(&kept(vec![failed]), "zcrx").is_err());
        let unknown = case("features: another: it is so", Outcome::Pass, "");
        assert!(render_overview(&kept(vec![unknown])).is_err());
    }
}
