//! The backend's control socket, through `zcnicctl`.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

use crate::step;

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

    /// Runs a `zcnicctl` command that must succeed.
    pub fn run(&self, words: &[&str]) -> Result<()> {
        step::run(&mut self.command(words)).map(drop)
    }

    /// Runs a `zcnicctl` command and returns what the caller reads of its answer.
    pub fn ask<T: DeserializeOwned>(&self, words: &[&str]) -> Result<T> {
        let text = step::run(&mut self.command(words))?;
        serde_json::from_str(&text).with_context(|| format!("zcnicctl printed {text:?}"))
    }
}
