//! Runs measured processes with real-time priority, if we may.

use std::{fs, process::Command};

use anyhow::{Result, bail};
use zcnic_testbed::{
    provision::host,
    step::{output, run},
};

/// The scheduling policy of measured processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// Before all others (`SCHED_RR`).
    Realtime,
    /// As all others.
    Normal,
}

impl Priority {
    /// Chooses the best that we may. This process gets a higher priority than the measured ones, to
    /// be able to stop them.
    pub(crate) fn probe() -> Self {
        let may = output(host::command("chrt").args(["-r", "1", "true"]));
        let own = std::process::id().to_string();
        let leads = || run(host::command("chrt").args(["-a", "-r", "-p", "2", &own]));
        match may {
            Ok(output) if output.status.success() && leads().is_ok() => Self::Realtime,
            _ => Self::Normal,
        }
    }

    /// Gives the first thread of `program`, a descendant of process `ancestor`, priority over its
    /// other threads: it takes commands, and shares a processor with a thread that never sleeps.
    pub(crate) fn put_first(self, ancestor: u32, program: &str) -> Result<()> {
        if self == Self::Normal {
            return Ok(());
        }
        let mut pending = vec![ancestor];
        while let Some(process) = pending.pop() {
            let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
            if name.trim() == program {
                let mut chrt = host::command("chrt");
                run(chrt.args(["-r", "-p", "2", &process.to_string()]))?;
                return Ok(());
            }
            let children = format!("/proc/{process}/task/{process}/children");
            let children = fs::read_to_string(children).unwrap_or_default();
            pending.extend(
                children
                    .split_whitespace()
                    .filter_map(|child| child.parse::<u32>().ok()),
            );
        }
        bail!("{program} is not running")
    }

    /// Returns its name for the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Realtime => "SCHED_RR",
            Self::Normal => "SCHED_OTHER",
        }
    }

    /// Returns `command` with this policy.
    pub(crate) fn apply(self, command: &Command) -> Command {
        let mut words = std::iter::once(command.get_program()).chain(command.get_args());
        let mut applied = match self {
            Self::Realtime => {
                let mut chrt = host::command("chrt");
                chrt.args(["-r", "1"]);
                chrt
            }
            Self::Normal => Command::new(words.next().unwrap_or_default()),
        };
        applied.args(words);
        applied
    }
}
