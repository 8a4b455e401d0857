//! The actions of fault rules on the command line (docs/faults.md).

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde_json::{Map, Value, json};
use zcnic_ctl::{Action, Direction};

use Direction::{Command, Rx, Tx};

/// An action.
pub(crate) struct ActionInfo {
    pub(crate) name: &'static str,
    /// Directions of rules that may have it.
    pub(crate) directions: &'static [Direction],
    /// Members of its parameters that must be given.
    pub(crate) required: &'static [&'static str],
    /// Members that have a default.
    pub(crate) optional: &'static [&'static str],
    pub(crate) help: &'static str,
}

/// Members of parameters and the options for them.
pub(crate) const OPTIONS: [(&str, &str); 15] = [
    ("nanoseconds", "--time"),
    ("copies", "--copies"),
    ("by", "--by"),
    ("bit", "--bit"),
    ("length", "--length"),
    ("bytes", "--bytes"),
    ("at", "--at"),
    ("queue", "--to-queue"),
    ("value", "--value"),
    ("verdict", "--verdict"),
    ("beyond", "--beyond"),
    ("frames", "--frames"),
    ("status", "--status"),
    ("detail", "--detail"),
    ("executed", "--executed"),
];

const FRAMES: &[Direction] = &[Rx, Tx];
const ALL: &[Direction] = &[Rx, Tx, Command];

macro_rules! action {
    ($name:literal, $directions:expr, [$($required:literal),*], [$($optional:literal),*], $help:literal) => {
        ActionInfo {
            name: $name,
            directions: $directions,
            required: &[$($required),*],
            optional: &[$($optional),*],
            help: $help,
        }
    };
}

/// All of them, in the order of docs/faults.md.
#[rustfmt::skip]
pub(crate) const ACTIONS: &[ActionInfo] = &[
    action!("drop", FRAMES, [], [], "The frame is lost and uses no buffer"),
    action!("duplicate", FRAMES, [], ["copies"], "Further copies arrive"),
    action!("delay", FRAMES, ["nanoseconds"], [], "The frame arrives later; others do not wait"),
    action!("reorder", FRAMES, [], ["by"], "The frame arrives behind frames that follow it"),
    action!("corrupt", FRAMES, [], ["bit"], "One bit is flipped"),
    action!("truncate", FRAMES, ["length"], [], "The frame is shortened"),
    action!("short-buffer", &[Rx], ["bytes"], [], "The used length is less than the header implies"),
    action!("split-missed", &[Rx], [], [], "The whole frame is in payload buffers, not split"),
    action!("split-wrong", &[Rx], ["at"], [], "The split is at this offset"),
    action!("payload-in-header", &[Rx], [], [], "Payload fills the header fragment"),
    action!("wrong-queue", &[Rx], ["queue"], [], "The frame goes to this queue"),
    action!("wrong-hash", &[Rx], [], ["value"], "The hash is replaced"),
    action!("wrong-checksum", &[Rx], [], ["verdict"], "The checksum's verdict is replaced"),
    action!("descriptor-error", FRAMES, [], [], "A chain is returned with length 0"),
    action!("bad-used-id", FRAMES, [], ["beyond"], "The used ring names a descriptor beyond the ring"),
    action!("duplicate-completion", FRAMES, [], [], "The last chain is returned twice"),
    action!("withhold-completion", FRAMES, [], ["frames"], "Chains are returned behind later ones"),
    action!("stall", FRAMES, [], ["nanoseconds"], "The queue stalls"),
    action!("lost-interrupt", FRAMES, [], [], "The batch's interrupt is not raised"),
    action!("spurious-interrupt", FRAMES, [], [], "An interrupt is raised behind the batch"),
    action!("command-error", &[Command], [], ["status", "detail"], "The command is refused"),
    action!("command-timeout", &[Command], [], ["executed", "nanoseconds"], "The answer comes late"),
    action!("link-flap", ALL, ["nanoseconds"], [], "The carrier is off for a time"),
    action!("device-reset", ALL, [], [], "The device ends its session, without configuration"),
    action!("disconnect", ALL, [], [], "The connection to the virtual machine monitor breaks"),
];

impl ActionInfo {
    /// Where it may be used, as `rx, tx`.
    fn places(&self) -> String {
        let names: Vec<String> = self.directions.iter().map(word).collect();
        names.join(", ")
    }

    /// Its options, as `--status, --detail`; empty if it has none.
    fn options(&self) -> String {
        let members = self.required.iter().chain(self.optional);
        let options: Vec<&str> = members.map(|member| option(member)).collect();
        options.join(", ")
    }
}

/// The option for a member of the parameters.
fn option(member: &str) -> &'static str {
    let mut options = OPTIONS.iter();
    options
        .find(|(name, _)| *name == member)
        .map_or("", |(_, option)| option)
}

fn word(direction: &Direction) -> String {
    let word = serde_json::to_value(direction).unwrap_or_default();
    word.as_str().unwrap_or_default().to_owned()
}

/// A parser of names of actions. Help and completions have a line for each.
pub(crate) fn parser() -> impl TypedValueParser<Value = String> {
    PossibleValuesParser::new(ACTIONS.iter().map(|action| {
        let options = match action.options() {
            none if none.is_empty() => none,
            options => format!("; {options}"),
        };
        let help = format!("{} ({}{options})", action.help, action.places());
        PossibleValue::new(action.name).help(help)
    }))
}

/// The action `name` of a rule for `direction`, with these members of its parameters.
///
/// # Errors
///
/// It is for other directions, an option is missing, or there is one too many.
pub(crate) fn action(
    name: &str,
    direction: Direction,
    members: &Map<String, Value>,
) -> Result<Action, String> {
    let known = ACTIONS.iter().find(|action| action.name == name);
    let info = known.ok_or_else(|| format!("no action {name}"))?;
    if !info.directions.contains(&direction) {
        let (places, direction) = (info.places(), word(&direction));
        return Err(format!("{name} is for {places}, not for {direction}"));
    }
    if let Some(missing) = info
        .required
        .iter()
        .find(|member| !members.contains_key(**member))
    {
        return Err(format!("{name} needs {}", option(missing)));
    }
    let takes = |member: &str| info.required.contains(&member) || info.optional.contains(&member);
    if let Some(extra) = members.keys().find(|member| !takes(member)) {
        let options = match info.options() {
            none if none.is_empty() => "it has no options".to_owned(),
            options => format!("its options are {options}"),
        };
        return Err(format!("{name} takes no {}; {options}", option(extra)));
    }
    // Actions without parameters are plain strings.
    let spelled = match info.required.len() + info.optional.len() {
        0 => json!(name),
        _ => json!({ name: members }),
    };
    serde_json::from_value(spelled).map_err(|error| format!("{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::words;

    const FAULTS: &str = include_str!("../../../docs/faults.md");

    #[test]
    fn actions_are_those_of_the_protocol() {
        let names: Vec<&str> = ACTIONS.iter().map(|action| action.name).collect();
        assert_eq!(names, words::<Action>());
    }

    #[test]
    fn directions_and_options_are_those_of_the_document() {
        let table = FAULTS.split("\n## Actions").nth(1).expect("a section");
        let rows = table.lines().filter(|line| line.starts_with("| `"));
        let rows: Vec<Vec<&str>> = rows.map(|line| line.split('|').collect()).collect();
        for (action, row) in ACTIONS.iter().zip(&rows) {
            assert_eq!(row[1].trim().trim_matches('`'), action.name);
            assert_eq!(row[2].trim(), action.places(), "{}", action.name);
            for member in action.required.iter().chain(action.optional) {
                assert!(
                    row[3].contains(&format!("`{member}`")),
                    "{}: {member}",
                    action.name
                );
                assert!(option(member).starts_with("--"), "{member}");
            }
        }
    }

    #[test]
    fn what_an_action_needs_is_what_the_protocol_needs() {
        for info in ACTIONS {
            let direction = info.directions[0];
            let all: Map<String, Value> = info
                .required
                .iter()
                .map(|&member| (member.to_owned(), json!(14)))
                .collect();
            let parsed = action(info.name, direction, &all);
            assert!(parsed.is_ok(), "{}: {parsed:?}", info.name);
            // Without one of them JSON is refused, too.
            for missing in info.required {
                let mut members = all.clone();
                members.remove(*missing);
                let parsed = serde_json::from_value::<Action>(json!({ info.name: members }));
                assert!(parsed.is_err(), "{} without {missing}", info.name);
            }
        }
    }
}
