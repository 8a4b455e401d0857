//! QEMU's monitor protocol (QMP), as far as tests need it.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// QEMU answers at once, or hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to the monitor, in command mode.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
}

impl Qmp {
    /// Negotiates on the connection that QEMU opened.
    ///
    /// # Errors
    ///
    /// If the other end does not greet as QMP.
    pub fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut qmp = Self {
            reader: BufReader::new(stream),
        };
        let greeting = qmp.line()?;
        if greeting.get("QMP").is_none() {
            bail!("not a QMP greeting: {greeting}");
        }
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Executes `command` and returns its value; events that come before the reply are dropped.
    ///
    /// # Errors
    ///
    /// If QEMU refuses the command, or does not reply within 30 seconds.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({"execute": command, "arguments": arguments});
        writeln!(self.reader.get_mut(), "{request}").context("QMP")?;
        loop {
            let mut reply = self.line().with_context(|| format!("QMP {command}"))?;
            if let Some(value) = reply.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = reply.get("error") {
                bail!(
                    "QMP {command}: {}",
                    error["desc"].as_str().unwrap_or("failed")
                );
            }
            // Anything else is an event.
        }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        let length = self.reader.read_line(&mut line);
        if length.context("QEMU's monitor does not answer")? == 0 {
            bail!("QEMU closed the connection");
        }
        serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
    }
}
