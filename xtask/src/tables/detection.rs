//! The table of seeded bugs and what found them, from the report of `cargo xtask test "detection: "
//! --report FILE`, kept as detection.json.

use anyhow::Result;
use zcnic_results::report::Outcome;

use super::kept::{Tests, section_of, table};

/// What the tests' names begin with.
const PREFIX: &str = "detection: ";

/// Characters of a finder's words.
const WORDS: usize = 140;

pub(super) fn section() -> Result<String> {
    section_of("detection", |tests| Ok(render(tests)))
}

fn render(kept: &Tests) -> String {
    let mut rows = vec![["", "found by", "in its words"].map(str::to_owned).to_vec()];
    for case in &kept.cases {
        let Some(name) = case.name.strip_prefix(PREFIX) else {
            continue;
        };
        let (finder, words) = match (case.outcome, case.detail.split_once(": ")) {
            (Outcome::Pass, Some((finder, words))) => (finder, quoted(words)),
            (Outcome::Pass, None) => ("nobody", String::new()),
            _ => ("**not as it should be**", String::new()),
        };
        rows.push(vec![
            name.to_owned(),
            finder.to_owned(),
            words.replace('|', "\\|"),
        ]);
    }
    format!(
        "{}\nLinux {}, QEMU {}\n",
        table(&rows),
        kept.kernel,
        kept.qemu
    )
}

/// As much of it as tells what was found.
fn quoted(words: &str) -> String {
    match words.char_indices().nth(WORDS) {
        Some((end, _)) => format!("`{} …`", &words[..end]),
        None => format!("`{words}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zcnic_results::report::Case;

    #[test]
    fn a_row_says_who_found_a_bug_and_how() {
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
|  | found by | in its words |
| --- | --- | --- |
| a bug | ledger | `a\\|b: c` |
| no bug | nobody |  |
| another | **not as it should be** |  |

Linux 7.3, QEMU 11.1
"
        );
    }
}
