//! Results as JUnit's XML, which CI systems show: one testsuite per program.

use std::time::Duration;

use anyhow::{Context, Result};
use quick_junit::{NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestSuite};

use crate::{
    program::ProgramRun,
    report::{Case, Outcome},
};

/// Returns the XML. `command` is the name of the whole, `about` has facts about it as names and
/// values, `seconds` is its duration.
pub fn write(
    command: &str,
    runs: &[ProgramRun],
    about: &[(String, String)],
    seconds: f64,
) -> Result<String> {
    let mut report = Report::new(command);
    report.set_time(time(seconds));
    for run in runs {
        let mut test_suite = TestSuite::new(run.title());
        test_suite.set_time(time(run.seconds));
        for (name, value) in about {
            test_suite.add_property(Property::new(name, value));
        }
        test_suite.add_test_cases(run.cases.iter().map(|case| test_case(run, case)));
        report.add_test_suite(test_suite);
    }
    report.to_string().context("cannot write JUnit's XML")
}

/// A number from a guest may be no valid duration.
fn time(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

fn test_case(run: &ProgramRun, case: &Case) -> TestCase {
    let mut status = match case.outcome {
        Outcome::Pass => TestCaseStatus::success(),
        Outcome::Fail => TestCaseStatus::non_success(NonSuccessKind::Failure),
        // JUnit has no outcome for an expected failure.
        Outcome::Skip | Outcome::Xfail => TestCaseStatus::skipped(),
    };
    match case.outcome {
        Outcome::Pass => {}
        Outcome::Fail => {
            status.set_message(case.detail.lines().next_back().unwrap_or_default());
            status.set_description(&case.detail);
        }
        Outcome::Skip => {
            status.set_message(&case.detail);
        }
        Outcome::Xfail => {
            status.set_message(format!("failed as expected: {}", case.detail));
        }
    }
    let mut test_case = TestCase::new(&case.name, status);
    test_case
        .set_classname(run.title())
        .set_time(time(case.seconds));
    test_case
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::tests::program_run;

    #[test]
    fn the_xml_can_be_read_back() {
        let about = [("kernel".to_owned(), "7.3.4".to_owned())];
        let text = write("kselftest", &[program_run()], &about, 9.0).unwrap();
        let report = Report::deserialize_from_str(&text).unwrap();
        assert_eq!(
            (report.tests, report.failures, report.errors),
            (5, 2, 0),
            "{text}"
        );
        let run = &report.test_suites[0];
        assert_eq!(run.skipped, 2, "{text}");
        assert_eq!(run.properties[0].value.as_str(), "7.3.4");
        let TestCaseStatus::NonSuccess { description, .. } = &run.test_cases[1].status else {
            panic!("{text}");
        };
        // XML can't contain the escape sequence.
        let description = description.as_ref().unwrap().as_str();
        assert_eq!(description, "# Check failed 1 != 2\nSubtest: none <&");
    }
}
