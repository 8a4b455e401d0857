//! What the cases of the receive-side systems show, from the report of `cargo xtask test systems --report FILE`, kept as
//! test-systems.json.

use anyhow::{Result, bail};
use zcnic_results::report::Outcome;

use super::kept::{Tests, section_of, table};

/// What the cases' names begin with.
const PREFIX: &str = "features: ";

pub(super) fn section() -> Result<String> {
    section_of("test-features", render)
}

fn render(kept: &Tests) -> Result<String> {
    let mut systems: Vec<(&str, Vec<Vec<String>>)> = Vec::new();
    for case in &kept.cases {
        // Others are of a system as a whole.
        let Some((system, shown)) = case
            .name
            .strip_prefix(PREFIX)
            .and_then(|name| name.split_once(": "))
        else {
            continue;
        };
        if case.outcome != Outcome::Pass {
            bail!("{} did not pass", case.name);
        }
        let seen: Vec<_> = case.detail.lines().map(str::trim).collect();
        let row = vec![shown.to_owned(), seen.join("; ").replace('|', "\\|")];
        match systems.iter_mut().find(|(known, _)| *known == system) {
            Some((_, rows)) => rows.push(row),
            None => systems.push((system, vec![vec![String::new(), "seen".to_owned()], row])),
        }
    }
    let mut text = format!("Linux {}, QEMU {}\n", kept.kernel, kept.qemu);
    for (system, rows) in systems {
        text.push_str(&format!("\n## {system}\n\n{}", table(&rows)));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zcnic_results::report::Case;

    #[test]
    fn a_system_is_a_table_of_cases_and_what_they_saw() {
        let case = |name: &str, outcome, detail: &str| Case {
            outcome,
            ..Case::failed(name, detail.to_owned())
        };
        let kept = |outcome| Tests {
            kernel: "7.3".to_owned(),
            qemu: "11.1".to_owned(),
            cases: vec![
                case(
                    "features: a: it is so",
                    outcome,
                    "    seen: 1\n    also: 2\n",
                ),
                case("features: a, as a whole", Outcome::Pass, ""),
                case("features: b: a thing", Outcome::Pass, ""),
            ],
        };
        assert_eq!(
            render(&kept(Outcome::Pass)).unwrap(),
            "Linux 7.3, QEMU 11.1\n\n## a\n\n|  | seen |\n| --- | --- |\n| it is so | seen: 1; also: 2 |\n\
             \n## b\n\n|  | seen |\n| --- | --- |\n| a thing |  |\n"
        );
        assert!(render(&kept(Outcome::Fail)).is_err());
    }
}
