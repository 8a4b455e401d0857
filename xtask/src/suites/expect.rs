//! Expected outcomes of cases, and which results are unexpected.

use std::str::FromStr;

use zcnic_results::report::{Case, Outcome};

use crate::suites::case::RequiredCase;

/// An outcome other than a pass that the user expects of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expectation {
    name: String,
    outcome: Outcome,
}

impl FromStr for Expectation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = "CASE=skip, CASE=xfail or CASE=fail is wanted";
        let (name, outcome) = text.rsplit_once('=').ok_or(wanted)?;
        let outcome = match outcome {
            "skip" => Outcome::Skip,
            "xfail" => Outcome::Xfail,
            "fail" => Outcome::Fail,
            _ => return Err(wanted.to_owned()),
        };
        Ok(Self {
            name: name.to_owned(),
            outcome,
        })
    }
}

impl Expectation {
    fn meets(&self, case: &Case) -> bool {
        let named = match self.name.strip_suffix('*') {
            Some(beginning) => case.name.starts_with(beginning),
            None => case.name == self.name,
        };
        named && case.outcome == self.outcome
    }
}

/// Returns those of `cases` that end neither with a pass nor as expected. `required` cases may end
/// as they allow.
pub(crate) fn unforgiven<'a>(
    expected: &[Expectation],
    required: &[RequiredCase],
    cases: &'a [Case],
) -> Vec<&'a Case> {
    let forgiven = |case: &Case| {
        expected.iter().any(|expectation| expectation.meets(case))
            || required
                .iter()
                .any(|required| required.name == case.name && required.allows(case.outcome))
    };
    cases
        .iter()
        .filter(|case| case.outcome != Outcome::Pass && !forgiven(case))
        .collect()
}

/// Returns a line for each of the [`unforgiven`] cases, and for each expectation that no case met.
pub(crate) fn unexpected(
    expected: &[Expectation],
    required: &[RequiredCase],
    cases: &[Case],
) -> Vec<String> {
    let unexpected = unforgiven(expected, required, cases).into_iter();
    let unexpected =
        unexpected.map(|case| format!("unexpected: {} {}", case.outcome.word(), case.name));
    let unmet = expected
        .iter()
        .filter(|expectation| !cases.iter().any(|case| expectation.meets(case)))
        .map(|Expectation { name, outcome }| {
            format!("expected, but no case ended so: {} {name}", outcome.word())
        });
    unexpected.chain(unmet).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str, outcome: Outcome) -> Case {
        Case {
            outcome,
            ..Case::failed(name, String::new())
        }
    }

    #[test]
    fn only_what_is_expected_by_name_is_forgiven() {
        use Outcome::{Fail, Pass, Skip, Xfail};
        let cases = [
            case("a.py:one", Pass),
            case("a.py:two", Skip),
            case("gro.py:lro_x", Xfail),
            case("gro.py:lro_y", Xfail),
        ];
        let expect = |texts: &[&str]| -> Vec<Expectation> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        assert_eq!(unexpected(&[], &[], &cases).len(), 3);
        assert_eq!(
            unexpected(
                &expect(&["a.py:two=skip", "gro.py:lro_*=xfail"]),
                &[],
                &cases
            ),
            [""; 0]
        );
        // The wrong outcome, another name, a pass.
        for wrong in ["a.py:two=xfail", "a.py:tw=skip", "a.py:one=fail"] {
            let problems = unexpected(&expect(&[wrong, "gro.py:*=xfail"]), &[], &cases);
            assert_eq!(problems.len(), 2, "{problems:?}");
        }
        assert_eq!(
            unexpected(&expect(&["b=fail"]), &[], &[case("b", Fail)]),
            [""; 0]
        );
    }

    #[test]
    fn what_the_kernel_lacks_may_be_skipped_but_need_not() {
        let required = [RequiredCase {
            name: "a.py:one".to_owned(),
            lacking: Some("Linux 7.3".to_owned()),
            otherwise: Outcome::Skip,
        }];
        for outcome in [Outcome::Pass, Outcome::Skip] {
            assert_eq!(
                unexpected(&[], &required, &[case("a.py:one", outcome)]),
                [""; 0]
            );
        }
        assert_eq!(
            unexpected(&[], &required, &[case("a.py:one", Outcome::Fail)]).len(),
            1
        );
        assert_eq!(
            unexpected(&[], &required, &[case("a.py:two", Outcome::Skip)]).len(),
            1
        );
    }

    #[test]
    fn an_expectation_names_an_outcome() {
        for wrong in ["a.py", "a.py:b=pass", "a.py:b="] {
            assert!(wrong.parse::<Expectation>().is_err(), "{wrong}");
        }
    }
}
