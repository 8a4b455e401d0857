//! The backend's control socket, through `zcnicctl`.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::step::run;

/// Name of the control socket in the sandbox.
pub const SOCKET: &str = "control.sock";

/// A way to ask a backend.
#[derive(Clone, Debug)]
pub struct Control {
    pub zcnicctl: PathBuf,
    pub socket: PathBuf,
}

impl Control {
    /// A `zcnicctl` command.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.zcnicctl);
        command.arg("--json").arg("--socket").arg(&self.socket);
        command.args(words);
        command
    }

    /// Runs a `zcnicctl` command and returns what it printed.
    pub fn ask(&self, words: &[&str]) -> Result<Value> {
        let text = run(&mut self.command(words))?;
        serde_json::from_str(&text).with_context(|| format!("zcnicctl printed {text:?}"))
    }
}
