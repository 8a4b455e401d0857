//! Scenario files (docs/faults.md).

use serde::{Deserialize, Serialize};

use super::fault::{FaultAdd, FaultRule};

/// A scenario file: rules for several ports at once.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The purpose of the scenario.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The seed of rules without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Rules of ports.
    #[serde(rename = "port")]
    pub ports: Vec<ScenarioPort>,
}

/// The rules of one port in a scenario.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ScenarioPort {
    /// The port's name.
    pub name: String,
    /// Its rules.
    #[serde(rename = "rule")]
    pub rules: Vec<FaultRule>,
}

impl Scenario {
    /// The requests to send, one `fault-add` for each port.
    #[must_use]
    pub fn requests(self) -> Vec<FaultAdd> {
        let Self { seed, ports, .. } = self;
        let fill = |mut rule: FaultRule| {
            rule.seed = rule.seed.or(seed);
            rule
        };
        ports
            .into_iter()
            .map(|port| FaultAdd {
                port: port.name,
                rules: port.rules.into_iter().map(fill).collect(),
            })
            .collect()
    }
}
