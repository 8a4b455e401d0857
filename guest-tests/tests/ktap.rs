//! The KTAP parser against output of the kernel's own `net/lib/py/ksft.py`, `kselftest/runner.sh`
//! and `kselftest.h` (7.3), recorded with tests that do all that tests can do. `ZCNIC_BLESS=1`
//! rewrites the expected files.

use std::{fs, path::PathBuf};

use zcnic_guest::checks::ktap::parse;
use zcnic_guest_protocol::selftest::Outcome;

fn golden(name: &str) {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/ktap");
    let output = fs::read_to_string(dir.join(name).with_extension("ktap")).unwrap();
    let found = serde_json::to_string_pretty(&parse(&output)).unwrap() + "\n";
    let expected = dir.join(name).with_extension("json");
    if std::env::var_os("ZCNIC_BLESS").is_some() {
        fs::write(&expected, &found).unwrap();
    }
    assert_eq!(found, fs::read_to_string(&expected).unwrap(), "{name}");
}

#[test]
fn python_test_run_directly() {
    golden("direct");
}

#[test]
fn python_test_on_a_terminal() {
    golden("color");
}

#[test]
fn killed_python_test() {
    golden("crash");
}

#[test]
fn runner_with_nested_output() {
    golden("runner");
}

#[test]
fn c_harness() {
    golden("c_harness");
}

#[test]
fn a_file_that_skips_is_one_skip() {
    let report = parse("TAP version 13\n1..0 # SKIP no hardware\n");
    assert_eq!(report.problems, [""; 0]);
    assert_eq!(report.count(Outcome::Skip), 1);
    assert_eq!(report.cases[0].detail, "no hardware");
    // The reason may be missing (TAP 13, "Skipping everything").
    let report = parse("TAP version 13\n1..0\n");
    assert_eq!(report.problems, [""; 0]);
    assert_eq!(report.cases[0].outcome, Outcome::Skip);
}

#[test]
fn output_without_results_is_a_problem() {
    for output in ["", "Killed\n"] {
        assert_eq!(parse(output).problems.len(), 1, "{output:?}");
    }
}

#[test]
fn missing_results_and_wrong_totals_are_problems() {
    let missing = parse("TAP version 13\n1..3\nok 1 a\nok 3 c\n");
    assert_eq!(missing.problems.len(), 2, "{missing:?}");
    let totals = "# Totals: pass:2 fail:0 xfail:0 xpass:0 skip:0 error:0";
    let wrong = parse(&format!("TAP version 13\n1..1\nok 1 a\n{totals}\n"));
    assert_eq!(wrong.problems.len(), 1, "{wrong:?}");
    let none = parse("TAP version 13\nok 1 a\n");
    assert_eq!(none.problems, ["no plan"]);
    let bail = parse("TAP version 13\n1..1\nok 1 a\nBail out! no memory\n");
    assert_eq!(bail.problems, ["bail out: no memory"]);
}

#[test]
fn indented_groups_nest() {
    let report = parse(
        "KTAP version 1\n1..2\n  KTAP version 1\n  1..2\n  ok 1 a\n  not ok 2 b\nnot ok 1 suite\n\
         ok 2 - other\n",
    );
    assert_eq!(report.problems, [""; 0]);
    let cases: Vec<_> = report
        .cases
        .iter()
        .map(|case| (case.name.as_str(), case.outcome))
        .collect();
    let expected = [
        ("a", Outcome::Pass),
        ("b", Outcome::Fail),
        ("other", Outcome::Pass),
    ];
    assert_eq!(cases, expected);
}
