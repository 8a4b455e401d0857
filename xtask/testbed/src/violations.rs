//! Follows the violations that the device's ledger finds in the driver of the first port.

use std::{fmt, fs};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tempfile::NamedTempFile;

use crate::{control::Control, process::Running};

/// A violation, as `zcnicctl events` prints it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Violation {
    queue: u64,
    kind: String,
    desc: String,
    /// Further members: its time, and the lives of the buffers that it names.
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            queue, kind, desc, ..
        } = self;
        write!(f, "{kind}, receive queue {queue}: {desc}")
    }
}

/// The violations of a case that a report has: a bug may cause one per frame.
const REPORTED: usize = 16;

/// Returns the first violations that were found during `case`, for its report.
pub fn for_report(violations: &[Violation], case: &str) -> Result<Vec<Value>> {
    let one = |violation| {
        let mut value = serde_json::to_value(violation)?;
        value["case"] = case.into();
        Ok(value)
    };
    violations.iter().take(REPORTED).map(one).collect()
}

/// A ledger under observation.
pub struct Watch {
    output: NamedTempFile,
    _zcnicctl: Running,
    /// Number of violations that were returned so far.
    returned: usize,
}

impl Watch {
    /// Starts a full ledger with poisoned buffers, with these options of `zcnicctl ledger set`
    /// besides.
    pub fn start(control: &Control, options: &[&str]) -> Result<Self> {
        let set = ["--port=0", "ledger", "set", "full", "--sanitize"];
        control.run(&[&set[..], options].concat())?;
        let output = NamedTempFile::new()?;
        let mut command = control.command(&["events", "violation"]);
        command.stdout(output.reopen()?);
        Ok(Self {
            output,
            _zcnicctl: Running::start("zcnicctl", &mut command)?,
            returned: 0,
        })
    }

    /// Returns the violations since the last call.
    pub fn new_violations(&mut self) -> Result<Vec<Violation>> {
        let text = fs::read_to_string(self.output.path())?;
        // The last line may still be incomplete.
        let lines = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        let new: Vec<_> = lines
            .skip(self.returned)
            .map(parse)
            .collect::<Result<_>>()?;
        self.returned += new.len();
        Ok(new)
    }
}

/// An event, as `zcnicctl events` prints it.
#[derive(Deserialize)]
struct Event {
    data: Violation,
}

fn parse(line: &str) -> Result<Violation> {
    let event: Event =
        serde_json::from_str(line).with_context(|| format!("no violation: {line:?}"))?;
    Ok(event.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_are_read_as_the_protocol_has_them() {
        let line = r#"{"event":"violation","data":{"port":"0","queue":3,"kind":"written","desc":"byte 0 of …"}}"#;
        assert_eq!(
            parse(line).unwrap().to_string(),
            "written, receive queue 3: byte 0 of …"
        );
        assert!(parse(r#"{"event":"violation","data":{"queue":3}}"#).is_err());
        // A report keeps the members that only it shows.
        let line = r#"{"event":"violation","data":{"queue":3,"kind":"k","desc":"d","time":7,"buffers":[]}}"#;
        let violations = vec![parse(line).unwrap(); 20];
        let reported = for_report(&violations, "a case").unwrap();
        let expected = serde_json::json!({"queue": 3, "kind": "k", "desc": "d", "time": 7,
            "buffers": [], "case": "a case"});
        assert_eq!(reported, vec![expected; 16]);
    }
}
