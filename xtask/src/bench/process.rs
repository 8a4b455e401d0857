//! How what is measured is run: before everything else, if we may.

use std::{fs, process::Command};

use anyhow::{Result, bail};
use zcnic_testbed::step::{output, run};

/// Who goes first when others want the processors too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// What is measured (`SCHED_RR`).
    Realtime,
    /// Nobody.
    Normal,
}

impl Priority {
    /// The best that we may; this process goes before what it measures, or it could not tell that to stop.
    pub(crate) fn probe() -> Self {
        let may = output(Command::new("chrt").args(["-r", "1", "true"]));
        let own = std::process::id().to_string();
        let leads = || run(Command::new("chrt").args(["-a", "-r", "-p", "2", &own]));
        match may {
            Ok(output) if output.status.success() && leads().is_ok() => Self::Realtime,
            _ => Self::Normal,
        }
    }

    /// Lets the first thread of a program among the descendants of process `ancestor` go before its other threads: the
    /// one that takes commands shares a processor with one that never sleeps.
    pub(crate) fn put_first(self, ancestor: u32, program: &str) -> Result<()> {
        if self == Self::Normal {
            return Ok(());
        }
        let mut pending = vec![ancestor];
        while let Some(process) = pending.pop() {
            let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
            if name.trim() == program {
                let mut chrt = Command::new("chrt");
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

    /// For the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Realtime => "SCHED_RR",
            Self::Normal => "SCHED_OTHER",
        }
    }

    /// `command`, run so.
    pub(crate) fn apply(self, command: &Command) -> Command {
        let mut words = std::iter::once(command.get_program()).chain(command.get_args());
        let mut applied = match self {
            Self::Realtime => {
                let mut chrt = Command::new("chrt");
                chrt.args(["-r", "1"]);
                chrt
            }
            Self::Normal => Command::new(words.next().unwrap_or_default()),
        };
        applied.args(words);
        applied
    }
}
