//! The transcripts of the scenarios, from the report of `cargo xtask scenario --report FILE`, kept as scenarios.json.

use anyhow::{Result, bail};

use super::kept::{Tests, section_of};
use zcnic_results::report::Outcome;

/// The prefix of the cases' names.
const PREFIX: &str = "scenarios: ";

pub(super) fn section() -> Result<String> {
    section_of("scenarios", render)
}

fn render(kept: &Tests) -> Result<String> {
    let mut text = format!("Linux {}, QEMU {}\n", kept.kernel, kept.qemu);
    for case in &kept.cases {
        let Some(name) = case.name.strip_prefix(PREFIX) else {
            continue;
        };
        if case.outcome != Outcome::Pass {
            bail!("{name} did not pass");
        }
        let mut lines = case.detail.lines();
        let title = lines.next().unwrap_or_default();
        text.push_str(&format!("\n## {name}\n\n{title}\n\n"));
        lines.for_each(|line| text.push_str(&format!("    {line}\n")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zcnic_results::report::Case;

    #[test]
    fn a_scenario_is_a_section_with_its_transcript() {
        let case = |outcome, detail: &str| Case {
            outcome,
            ..Case::failed("scenarios: a-b", detail.to_owned())
        };
        let kept = |case| Tests {
            kernel: "7.3".to_owned(),
            qemu: "11.1".to_owned(),
            cases: vec![case],
        };
        let passed = render(&kept(case(Outcome::Pass, "A title\n* done\n    seen: 1\n")));
        assert_eq!(
            passed.unwrap(),
            "Linux 7.3, QEMU 11.1\n\n## a-b\n\nA title\n\n    * done\n        seen: 1\n"
        );
        assert!(render(&kept(case(Outcome::Fail, ""))).is_err());
    }
}
