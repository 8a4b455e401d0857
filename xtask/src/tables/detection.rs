//! The table of seeded bugs and the check that found each, from the report of `cargo xtask test "detection: "
//! --report FILE`, kept as detection.json.

use anyhow::Result;

use super::kept::{Tests, section_of, table};
use zcnic_results::report::Outcome;

/// The prefix of the tests' names.
const PREFIX: &str = "detection: ";

/// Characters of a finding that the table shows.
const FINDING: usize = 140;

pub(super) fn section() -> Result<String> {
    section_of("detection", |tests| Ok(render(tests)))
}

fn render(kept: &Tests) -> String {
    let mut rows = vec![["case", "found by", "finding"].map(str::to_owned).to_vec()];
    for case in &kept.cases {
        let Some(name) = case.name.strip_prefix(PREFIX) else {
            continue;
        };
        let (finder, finding) = match (case.outcome, case.detail.split_once(": ")) {
            (Outcome::Pass, Some((finder, finding))) => (finder, quoted(finding)),
            (Outcome::Pass, None) => ("–", String::new()),
            _ => ("**failed**", String::new()),
        };
        rows.push(vec![
            name.to_owned(),
            finder.to_owned(),
            finding.replace('|', "\\|"),
        ]);
    }
    format!(
        "{}\nLinux {}, QEMU {}\n",
        table(&rows),
        kept.kernel,
        kept.qemu
    )
}

/// The beginning of a finding, as code.
fn quoted(finding: &str) -> String {
    match finding.char_indices().nth(FINDING) {
        Some((end, _)) => format!("`{} …`", &finding[..end]),
        None => format!("`{finding}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zcnic_results::report::Case;

    #[test]
    fn a_row_is_a_bug_its_finder_and_the_finding() {
        let case = |name: &str, outcome, detail: &str| Case {
            outcome,
            ..Case::failed(name, detail.to_owned())
        };
        let text = render(&Tests {
            kernel: "7.3".to_owned(),
            qemu: "11.1".to_owned(),
            cases: vec![
                case("detection: a bug", Outcome::Pass, "ledger: a|b: c"),
                case("detection: no bug", Outcome::Pass, ""),
                case("detection: another", Outcome::Fail, "x: y"),
                case("a unit test", Outcome::Pass, ""),
            ],
        });
        assert_eq!(
            text,
            "\
| case | found by | finding |
| --- | --- | --- |
| a bug | ledger | `a\\|b: c` |
| no bug | – |  |
| another | **failed** |  |

Linux 7.3, QEMU 11.1
"
        );
    }
}
