//! Arguments, results and failures of commands.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use zcnic_ctl::protocol::{ErrorClass, Failure};

/// The arguments of a command.
///
/// # Errors
///
/// They are not of the type that the command takes.
pub(super) fn parse<T: DeserializeOwned>(arguments: Option<Value>) -> Result<T, Failure> {
    let arguments = arguments.unwrap_or(Value::Object(serde_json::Map::new()));
    serde_json::from_value(arguments).map_err(|error| wrong(format!("Wrong arguments: {error}")))
}

/// Checks that a command without arguments got none.
pub(super) fn none(arguments: Option<Value>) -> Result<(), Failure> {
    match arguments {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Object(members)) if members.is_empty() => Ok(()),
        Some(_) => Err(wrong("Wrong arguments: this command takes none".into())),
    }
}

/// The result of a command.
pub(super) fn value(result: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(result).map_err(|error| wrong(format!("Result can't be written: {error}")))
}

/// The result of a command that returns nothing.
pub(super) fn nothing() -> Value {
    Value::Object(serde_json::Map::new())
}

/// A failure with a description only.
pub(super) fn wrong(desc: String) -> Failure {
    Failure {
        class: ErrorClass::GenericError,
        desc,
    }
}

/// A failure because something does not exist.
pub(super) fn not_found(desc: String) -> Failure {
    Failure {
        class: ErrorClass::NotFound,
        desc,
    }
}
