//! What remains of a guest: its logs, kept if it failed or in `--artifacts DIR` always, and its
//! kernel's report.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicUsize, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use chrono::DateTime;

use crate::{kernel_report::KernelReport, paths, sandbox::Sandbox, symbols::Symbols};

/// Number of commands whose logs are kept.
const KEPT: usize = 20;
/// Guests of one command whose logs are kept.
const KEPT_GUESTS: usize = 40;
/// The file of a report of the kernel.
const REPORT: &str = "kernel-report.txt";

/// The place for the logs of a command's guests, each of which has a directory with a number.
#[derive(Debug, Default)]
pub struct Artifacts {
    /// `--artifacts`.
    directory: Option<PathBuf>,
    guests: AtomicUsize,
}

/// Checks and makes the directory of `--artifacts`.
///
/// # Errors
///
/// If no file can be made in it.
pub fn artifacts_directory(path: &str) -> Result<PathBuf> {
    fs::create_dir_all(path)?;
    tempfile::NamedTempFile::new_in(path)?;
    Ok(fs::canonicalize(path)?)
}

impl Artifacts {
    /// Those of `--artifacts`, if given.
    pub fn new(directory: Option<PathBuf>) -> Self {
        Self {
            directory,
            guests: AtomicUsize::new(0),
        }
    }

    /// Returns the places of the next guest's logs.
    pub fn next(&self, symbols: Option<Symbols>) -> Diagnosis {
        let number = 1 + self.guests.fetch_add(1, Ordering::Relaxed);
        Diagnosis {
            name: format!("guest-{number}"),
            number,
            artifacts: self.directory.clone(),
            symbols,
        }
    }
}

/// Diagnoses one guest.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    name: String,
    number: usize,
    artifacts: Option<PathBuf>,
    symbols: Option<Symbols>,
}

impl Diagnosis {
    /// Returns the directory of the guest's logs if they are kept whatever happens.
    pub fn artifacts(&self) -> Option<PathBuf> {
        Some(self.artifacts.as_ref()?.join(&self.name))
    }

    /// Returns the first report of the kernel in a console's text, with source lines where the
    /// kernel's tree is known.
    pub fn report(&self, console: &str) -> Option<String> {
        let mut report = KernelReport::find(console)?;
        if let Some(symbols) = &self.symbols {
            report.text = symbols.decode(&report.text);
        }
        Some(report.to_string())
    }

    /// Copies the guest's logs to `--artifacts DIR`, if that was given.
    ///
    /// # Errors
    ///
    /// If they can't be written.
    pub fn save(&self, sandbox: &Sandbox) -> Result<()> {
        match self.artifacts() {
            Some(directory) => self.write(sandbox, &directory),
            None => Ok(()),
        }
    }

    /// Keeps the logs of a guest that failed, and returns a line with their directory.
    pub fn keep(&self, sandbox: &Sandbox) -> String {
        let kept = match self.artifacts() {
            Some(directory) => Ok(directory),
            None => self.place_below(&runs()),
        };
        let kept = kept.and_then(|directory| {
            self.write(sandbox, &directory)?;
            Ok(directory)
        });
        match kept {
            Ok(directory) => {
                let files = sandbox.saved().join(", ");
                format!("logs of this guest: {} ({files})", directory.display())
            }
            Err(error) => format!("the guest's logs could not be kept: {error:#}"),
        }
    }

    fn write(&self, sandbox: &Sandbox, directory: &Path) -> Result<()> {
        sandbox.save(directory)?;
        let report = directory.join(REPORT);
        match self.report(&sandbox.log("console")) {
            Some(text) => fs::write(&report, format!("{text}\n")),
            // One that an earlier command left.
            None if report.exists() => fs::remove_file(&report),
            None => Ok(()),
        }
        .with_context(|| report.display().to_string())
    }

    /// Makes room for this guest's logs below `runs`, in a directory of this process.
    fn place_below(&self, runs: &Path) -> Result<PathBuf> {
        let own = runs.join(run_name());
        if !own.exists() {
            fs::create_dir_all(&own).with_context(|| own.display().to_string())?;
            prune(runs, KEPT)?;
        }
        let guest = own.join(&self.name);
        if self.number > KEPT_GUESTS {
            let oldest = own.join(format!("guest-{}", self.number - KEPT_GUESTS));
            let _ = fs::remove_dir_all(oldest);
        }
        Ok(guest)
    }
}

/// Returns the directory below which logs of failed guests are kept.
fn runs() -> PathBuf {
    let state = paths::base_directory("XDG_STATE_HOME", ".local/state");
    let state = state.unwrap_or_else(env::temp_dir);
    state.join("zcnic/runs")
}

/// Returns this process's name there, by which runs sort in order of time: `20261130-225301-1234`.
fn run_name() -> String {
    static START: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let name = || {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let now = DateTime::from_timestamp(now.as_secs().cast_signed(), 0).unwrap_or_default();
        format!("{}-{}", now.format("%Y%m%d-%H%M%S"), process::id())
    };
    START.get_or_init(name).clone()
}

/// Removes all but the last `kept` directories in `runs`.
fn prune(runs: &Path, kept: usize) -> Result<()> {
    let mut names = Vec::new();
    for item in fs::read_dir(runs)? {
        names.push(item?.path());
    }
    names.sort();
    for old in &names[..names.len().saturating_sub(kept)] {
        // Another process may remove it, too.
        let _ = fs::remove_dir_all(old);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_runs_are_kept() {
        let runs = tempfile::tempdir().unwrap();
        for second in 10..35 {
            fs::create_dir_all(runs.path().join(format!("20261130-2253{second}-7/guest-1")))
                .unwrap();
        }
        prune(runs.path(), KEPT).unwrap();
        let mut left: Vec<_> = fs::read_dir(runs.path())
            .unwrap()
            .map(|item| item.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left.len(), KEPT);
        assert_eq!(left[0], "20261130-225315-7");
    }

    #[test]
    fn logs_and_the_report_of_a_guest_get_a_directory_with_its_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new").display().to_string();
        let artifacts = Artifacts::new(Some(artifacts_directory(&path).unwrap()));
        let sandbox = Sandbox::new().unwrap();
        let console = "[    1.0] hello\r\n[    2.0] BUG: kernel NULL pointer dereference\r\n";
        fs::write(sandbox.path("console.log"), console).unwrap();
        let _ = artifacts.next(None);
        let second = artifacts.next(None);
        let message = second.keep(&sandbox);
        let place = fs::canonicalize(&path).unwrap().join("guest-2");
        assert_eq!(
            message,
            format!("logs of this guest: {} (console.log)", place.display())
        );
        assert_eq!(
            fs::read_to_string(place.join("console.log")).unwrap(),
            console
        );
        let report = fs::read_to_string(place.join(REPORT)).unwrap();
        assert!(report.contains("BUG: kernel NULL pointer"), "{report}");

        // A later run without a report replaces it.
        fs::write(sandbox.path("console.log"), "fine").unwrap();
        second.save(&sandbox).unwrap();
        assert!(!place.join(REPORT).exists());
    }

    #[test]
    fn a_directory_for_artifacts_that_cannot_be_made_is_refused() {
        let error = artifacts_directory("/proc/nowhere/x").unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error:#}");
    }
}
