//! Results as KTAP, version 1 (`Documentation/dev-tools/ktap.rst`): one test per program with its
//! cases as subtests. A diagnostic before each result has the time that it took.

use crate::{
    program::ProgramRun,
    report::{Case, Outcome},
};

/// Returns the text. `about` has facts about the whole run, a diagnostic line each.
pub fn write(runs: &[ProgramRun], about: &[String]) -> String {
    let mut text = format!("KTAP version 1\n1..{}\n", runs.len());
    for line in about {
        text.push_str(&format!("# {}\n", plain(line)));
    }
    for (run, number) in runs.iter().zip(1..) {
        let count = run.cases.len();
        text.push_str(&format!("  KTAP version 1\n  1..{count}\n"));
        for (case, number) in run.cases.iter().zip(1..) {
            text.push_str(&result(run, case, number));
        }
        text.push_str(&format!("# took {:.1} s\n", run.seconds));
        // A failed subtest fails its test.
        let (ok, directive) = if run.count(Outcome::Fail) > 0 {
            ("not ok", "")
        } else if count > 0 && run.count(Outcome::Skip) == count {
            ("ok", " # SKIP all of it")
        } else {
            ("ok", "")
        };
        text.push_str(&format!(
            "{ok} {number} {}{directive}\n",
            description(&run.title())
        ));
    }
    text
}

fn result(run: &ProgramRun, case: &Case, number: usize) -> String {
    let file = run.name.rsplit('/').next().unwrap_or(&run.name);
    let name = case.name.strip_prefix(file).unwrap_or(&case.name);
    let name = match name.trim_start_matches([':', ' ']) {
        // A case of the program as a whole.
        "" => file,
        name => name,
    };
    let mut text = format!("  # took {:.1} s\n", case.seconds);
    let mut detail = case.detail.lines().map(plain);
    let (ok, directive) = match case.outcome {
        Outcome::Pass => ("ok", String::new()),
        Outcome::Fail => {
            // The bar keeps a parser from taking the line for a result or directive.
            detail.for_each(|line| text.push_str(&format!("  # | {line}\n")));
            ("not ok", String::new())
        }
        Outcome::Skip | Outcome::Xfail => {
            let reason = detail.next().unwrap_or_default();
            detail.for_each(|line| text.push_str(&format!("  # | {line}\n")));
            ("ok", format!(" # {} {reason}", case.outcome.word()))
        }
    };
    let name = description(name);
    text.push_str(&format!("  {ok} {number} {name}{}\n", directive.trim_end()));
    text
}

/// "Any string of characters other than # or a newline".
fn description(name: &str) -> String {
    plain(name).replace('#', "_")
}

/// Replaces control characters: some parsers end a line at them.
fn plain(line: &str) -> String {
    line.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::tests::program_run;

    #[test]
    fn programs_are_tests_and_cases_their_subtests() {
        let mut good = program_run();
        good.cases.truncate(1);
        let mut skipped = program_run();
        skipped.cases = vec![skipped.cases[2].clone()];
        let text = write(
            &[program_run(), good, skipped],
            &["kernel: 7.3.4".to_owned()],
        );
        assert_eq!(
            text,
            "\
KTAP version 1
1..3
# kernel: 7.3.4
  KTAP version 1
  1..5
  # took 1.5 s
  ok 1 good.tcp4
  # took 1.5 s
  # | # Check failed 1 != 2
  # | Subtest: none <& [31m
  not ok 2 bad
  # took 1.5 s
  # | feature
  ok 3 absent # SKIP no # such
  # took 1.5 s
  ok 4 known # XFAIL capacity
  # took 1.5 s
  # | exit status: 2
  not ok 5 a.py
# took 7.2 s
not ok 1 drivers/net/a.py
  KTAP version 1
  1..1
  # took 1.5 s
  ok 1 good.tcp4
# took 7.2 s
ok 2 drivers/net/a.py
  KTAP version 1
  1..1
  # took 1.5 s
  # | feature
  ok 1 absent # SKIP no # such
# took 7.2 s
ok 3 drivers/net/a.py # SKIP all of it
"
        );
    }

    #[test]
    fn a_name_can_not_end_its_line_or_begin_a_directive() {
        let mut odd = program_run();
        odd.cases.truncate(1);
        odd.cases[0].name = "a.py:x # SKIP\nok 2 y".to_owned();
        assert!(write(&[odd], &[]).contains("  ok 1 x _ SKIP ok 2 y\n"));
    }
}
