//! A client of the backend's control socket, by the program `zcnicctl`.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

use crate::step;

/// Name of the control socket in the sandbox.
pub const SOCKET: &str = "control.sock";

/// The control socket of one backend.
#[derive(Clone, Debug)]
pub struct Control {
    /// The program.
    pub zcnicctl: PathBuf,
    /// The socket.
    pub socket: PathBuf,
}

impl Control {
    /// Returns a `zcnicctl` command that prints JSON; the caller runs it.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.zcnicctl);
        command.arg("--json").arg("--socket").arg(&self.socket);
        command.args(words);
        command
    }

    /// Runs a `zcnicctl` command and drops its answer.
    ///
    /// # Errors
    ///
    /// If it fails, with what it printed.
    pub fn run(&self, words: &[&str]) -> Result<()> {
        step::run(&mut self.command(words)).map(drop)
    }

    /// Runs a `zcnicctl` command and returns the keys of its answer that `T` has.
    ///
    /// # Errors
    ///
    /// If it fails, or its answer lacks a key.
    pub fn ask<T: DeserializeOwned>(&self, words: &[&str]) -> Result<T> {
        let text = step::run(&mut self.command(words))?;
        serde_json::from_str(&text).with_context(|| format!("zcnicctl printed {text:?}"))
    }
}
