//! The cases of the kernel's receive-path features and the figures that they saw, from the report of
//! `cargo xtask test features --report FILE`, kept as test-features.json.

use anyhow::{Result, bail};

use super::kept::{Tests, filled, section_of, table};
use crate::report::{Case, Outcome};

/// The prefix of the cases' names.
const PREFIX: &str = "features: ";

/// Titles of the features, by the names that cases begin with.
const TITLES: [(&str, &str); 9] = [
    ("xdp", "XDP programs"),
    ("af_xdp", "AF_XDP sockets"),
    ("zcrx", "zero-copy receive of io_uring"),
    ("devmem", "devmem TCP"),
    ("unreadable", "payload that the CPU can't read"),
    ("page pool", "page pools of ordinary receive"),
    ("tcp zero copy", "TCP without copies, both directions"),
    ("provided buffers", "provided buffers of io_uring"),
    (
        "hardware",
        "timestamps, VLAN tags, interrupt moderation, NAPI",
    ),
];

/// A feature's name and its cases: the rest of the name, and the transcript.
type Feature<'a> = (&'a str, Vec<(&'a str, &'a str)>);

pub(super) fn section() -> Result<String> {
    section_of("test-features", render)
}

fn render(kept: &Tests) -> Result<String> {
    let features = features(&kept.cases)?;
    let mut rows = vec![["feature", "", "cases"].map(str::to_owned).to_vec()];
    for (name, cases) in &features {
        let title = TITLES.iter().find(|(known, _)| known == name);
        rows.push(vec![
            format!("[{name}](#{})", name.replace(' ', "-")),
            title.map_or_else(String::new, |(_, title)| (*title).to_owned()),
            cases.len().to_string(),
        ]);
    }
    let mut text = format!(
        "Linux {}, QEMU {}\n\n{}",
        kept.kernel,
        kept.qemu,
        table(&rows)
    );
    for (name, cases) in &features {
        text.push_str(&format!("\n## {name}\n"));
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
            text.push_str(&format!("\n### {case}\n{}", markdown(transcript)));
        }
    }
    Ok(text)
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
    fn a_feature_is_a_section_and_a_case_a_section_of_it() {
        let transcript = "      before: 1\n* It does so\n      seen: 1\n      also: 2\n  The kernel\n  wants it.\n* And ends\n";
        let cases = vec![
            case("features: zcrx: it is so", Outcome::Pass, transcript),
            case("features: page pool: a thing", Outcome::Pass, "\n"),
            case("features: zcrx, as a whole", Outcome::Pass, ""),
            case("another: case", Outcome::Fail, ""),
        ];
        assert_eq!(
            render(&kept(cases)).unwrap(),
            "\
Linux 7.3, QEMU 11.1

| feature |  | cases |
| --- | --- | --- |
| [zcrx](#zcrx) | zero-copy receive of io_uring | 1 |
| [page pool](#page-pool) | page pools of ordinary receive | 1 |

## zcrx

### it is so

* before: 1
* It does so
  * seen: 1
  * also: 2

The kernel wants it.

* And ends

## page pool

Verified, without figures to report:

* a thing
"
        );
    }

    #[test]
    fn a_case_that_did_not_pass_is_not_shown() {
        let failed = case("features: zcrx: it is so", Outcome::Fail, "");
        assert!(render(&kept(vec![failed])).is_err());
    }
}
