//! A JSON schema of the protocol, made from its types (docs/control-protocol.schema.json).

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::protocol::{
    Failure, FlowCounterAdd, FlowCounterAdded, FlowCounterId, FlowCounts, Greeting, Stats, Status,
    buffers::{BufferHistories, LedgerBuffers},
    command,
    event::{Event, Subscribe},
    fault::{FaultAdd, FaultIds, FaultRemove, FaultStatus, FaultWait, Faults},
    ledger::{BufferHistory, Ledger, LedgerHistory, LedgerSet},
    port::{CaptureStart, Features, FeaturesSet, LinkSet, PortName, Queues, Steering},
};

/// The empty object: no arguments, or no result.
#[derive(JsonSchema)]
struct Empty {}

/// A reference to the schema of a type, which the generator keeps.
type Reference = fn(&mut SchemaGenerator) -> Value;

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

/// The commands with the types of their arguments and results.
const COMMANDS: &[(&str, Reference, Reference)] = &[
    (command::QUERY_STATUS, of::<Empty>, of::<Status>),
    (command::QUERY_STATS, of::<Empty>, of::<Stats>),
    (command::QUERY_FEATURES, of::<PortName>, of::<Features>),
    (command::FEATURES_SET, of::<FeaturesSet>, of::<Empty>),
    (command::QUERY_QUEUES, of::<PortName>, of::<Queues>),
    (command::QUERY_STEERING, of::<PortName>, of::<Steering>),
    (
        command::FLOW_COUNTER_ADD,
        of::<FlowCounterAdd>,
        of::<FlowCounterAdded>,
    ),
    (
        command::FLOW_COUNTER_QUERY,
        of::<FlowCounterId>,
        of::<FlowCounts>,
    ),
    (
        command::FLOW_COUNTER_REMOVE,
        of::<FlowCounterId>,
        of::<Empty>,
    ),
    (command::FAULT_ADD, of::<FaultAdd>, of::<FaultIds>),
    (command::FAULT_LIST, of::<Empty>, of::<Faults>),
    (command::FAULT_REMOVE, of::<FaultRemove>, of::<Empty>),
    (command::FAULT_WAIT, of::<FaultWait>, of::<FaultStatus>),
    (command::LEDGER_SET, of::<LedgerSet>, of::<Empty>),
    (command::QUERY_LEDGER, of::<PortName>, of::<Ledger>),
    (
        command::LEDGER_HISTORY,
        of::<LedgerHistory>,
        of::<BufferHistory>,
    ),
    (
        command::LEDGER_BUFFERS,
        of::<LedgerBuffers>,
        of::<BufferHistories>,
    ),
    (command::LINK_SET, of::<LinkSet>, of::<Empty>),
    (command::DEVICE_RESET, of::<PortName>, of::<Empty>),
    (command::DISCONNECT, of::<PortName>, of::<Empty>),
    (command::CAPTURE_START, of::<CaptureStart>, of::<Empty>),
    (command::CAPTURE_STOP, of::<PortName>, of::<Empty>),
    (command::SUBSCRIBE, of::<Subscribe>, of::<Empty>),
];

/// The schema of a line of either side. Its definitions have the result of each command as
/// `result-of-` and the command's name.
#[must_use]
pub fn schema() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let greeting = of::<Greeting>(&mut generator);
    let event = of::<Event>(&mut generator);
    let failure = of::<Failure>(&mut generator);
    let mut requests = Vec::new();
    let mut results = Map::new();
    for &(name, arguments, result) in COMMANDS {
        requests.push(json!({
            "type": "object",
            "properties": {
                "execute": {"const": name},
                "arguments": arguments(&mut generator),
                "id": true,
            },
            "required": ["execute"],
            "additionalProperties": false,
        }));
        results.insert(format!("result-of-{name}"), result(&mut generator));
    }
    let answer = |member: &str, value: &Value| json!({"type": "object", "properties": {member: value, "id": true}, "required": [member]});
    let mut definitions = generator.take_definitions(true);
    definitions.extend(results);
    definitions.insert("request".into(), json!({ "oneOf": requests }));
    definitions.insert(
        "result".into(),
        answer("return", &json!({"type": "object"})),
    );
    definitions.insert("failure".into(), answer("error", &failure));
    definitions.insert("event".into(), event);
    definitions.insert("greeting".into(), greeting);
    let lines = ["greeting", "request", "result", "failure", "event"];
    let lines = lines.map(|name| json!({"$ref": format!("#/$defs/{name}")}));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Control protocol of zcnic",
        "description": "A line of the control socket, see docs/control-protocol.md",
        "anyOf": lines,
        "$defs": definitions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_in_it() {
        let names: Vec<&str> = COMMANDS.iter().map(|&(name, ..)| name).collect();
        assert_eq!(names, command::ALL);
    }
}
