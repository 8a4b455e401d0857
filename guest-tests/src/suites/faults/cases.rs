//! The cases: on which frame or command what goes wrong, what arrives all the same, what the driver counts.

/// A rule for frame number `$nth` of a stream that is received by zero copy, on the side that receives or on the one
/// that sends.
macro_rules! nth {
    ($nth:literal, $direction:literal, $action:literal) => {
        concat!(
            r#"{"direction":""#,
            $direction,
            r#"","match":{"protocol":"tcp","destination-port":4433},"nth":"#,
            $nth,
            r#","action":"#,
            $action,
            "}"
        )
    };
}

mod commands;
mod completions;
mod frames;
mod placement;
mod port;

use anyhow::Result;
use serde_json::Value;

use crate::fixture::{lab::Lab, traffic::How};

/// One way in which the device misbehaves.
pub(super) struct Case {
    /// What is shown.
    pub(super) name: &'static str,
    /// The port whose device misbehaves: eth0, which receives, is 0, and eth1 1.
    pub(super) port: &'static str,
    /// The rule, in JSON.
    rule: &'static str,
    pub(super) check: Check,
    /// What that port's driver counts.
    pub(super) counted: &'static [Counted],
}

/// What happens meanwhile, and how it must go.
pub(super) enum Check {
    /// Of ten datagrams these arrive, in this order.
    Datagrams(&'static [u8]),
    /// A stream arrives, every byte of it.
    Stream(How),
    /// The same, received by zero copy, and the kernel copied some of it.
    Copied,
    /// Something else, told the rule's number.
    Script(fn(&mut Lab, u64) -> Result<()>),
}

/// A counter of `ethtool -S`, and by how much it goes up at least and at most.
pub(super) struct Counted(pub(super) &'static str, pub(super) u64, pub(super) u64);

/// Whatever the count.
const ANY: u64 = u64::MAX;

impl Case {
    const fn new(name: &'static str, port: &'static str, rule: &'static str, check: Check) -> Self {
        Self {
            name,
            port,
            rule,
            check,
            counted: &[],
        }
    }

    const fn counts(self, counted: &'static [Counted]) -> Self {
        Self { counted, ..self }
    }

    pub(super) fn rule(&self) -> Value {
        // A wrong one is refused.
        serde_json::from_str(self.rule).unwrap_or_else(|_| self.rule.into())
    }
}

/// All of them.
pub(super) fn all() -> impl Iterator<Item = &'static Case> {
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

    use zcnic_ctl::protocol::fault::FaultRule;
    use zcnic_device::fault::ACTIONS;

    use super::*;

    /// Name of its action, and direction.
    fn what(rule: &Value) -> (String, String) {
        let action = match &rule["action"] {
            Value::Object(action) => action.keys().next().cloned(),
            name => name.as_str().map(str::to_owned),
        };
        let direction = rule["direction"].as_str().map(str::to_owned);
        (action.unwrap_or_default(), direction.unwrap_or_default())
    }

    #[test]
    fn every_action_is_tried_in_every_direction() {
        let tried: BTreeSet<_> = all().map(|case| what(&case.rule())).collect();
        let wanted = ACTIONS.iter().flat_map(|action| {
            let directions = action.directions.iter();
            directions.map(|direction| (action.name.to_owned(), direction.name().to_owned()))
        });
        let wanted: BTreeSet<_> = wanted.collect();
        assert_eq!(tried, wanted);
    }

    #[test]
    fn rules_are_rules_and_names_are_names() {
        let mut names = BTreeSet::new();
        for case in all() {
            let rule = serde_json::from_value::<FaultRule>(case.rule());
            assert!(rule.is_ok(), "{}: {rule:?}", case.name);
            assert!(names.insert(case.name), "{} is there twice", case.name);
            let (action, direction) = what(&case.rule());
            let says = case.name.starts_with(&format!("{action}, {direction}: "));
            assert!(says, "{} is about {action}, {direction}", case.name);
        }
    }
}
