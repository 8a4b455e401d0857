//! The cases, by the place of the fault.

mod commands;
mod completions;
mod frames;
mod placement;
mod port;

use super::case::FaultCase;

/// All of them.
pub(super) fn all() -> impl Iterator<Item = &'static FaultCase> {
    [
        frames::CASES,
        placement::CASES,
        completions::CASES,
        commands::CASES,
        port::CASES,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;
    use zcnic_ctl::protocol::fault::FaultRule;
    use zcnic_device::fault::ACTIONS;

    use super::*;

    /// Name of its action, and direction.
    fn action_and_direction(rule: &Value) -> (String, String) {
        let action = match &rule["action"] {
            Value::Object(action) => action.keys().next().cloned(),
            name => name.as_str().map(str::to_owned),
        };
        let direction = rule["direction"].as_str().map(str::to_owned);
        (action.unwrap_or_default(), direction.unwrap_or_default())
    }

    #[test]
    fn every_action_is_tried_in_every_direction() {
        let tried: BTreeSet<_> = all()
            .map(|case| action_and_direction(&case.rule()))
            .collect();
        let wanted = ACTIONS.iter().flat_map(|action| {
            let directions = action.directions.iter();
            directions.map(|direction| (action.name.to_owned(), direction.name().to_owned()))
        });
        let wanted: BTreeSet<_> = wanted.collect();
        assert_eq!(tried, wanted);
    }

    #[test]
    fn rules_are_valid_and_names_are_unique() {
        let mut names = BTreeSet::new();
        for case in all() {
            let rule = serde_json::from_value::<FaultRule>(case.rule());
            assert!(rule.is_ok(), "{}: {rule:?}", case.name);
            assert!(names.insert(case.name), "{} is there twice", case.name);
            let (action, direction) = action_and_direction(&case.rule());
            let matches = case.name.starts_with(&format!("{action}, {direction}: "));
            assert!(matches, "{} is about {action}, {direction}", case.name);
        }
    }
}
