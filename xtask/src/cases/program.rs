//! Runs programs in the guest that have cases of their own, and print a line of JSON at the end of
//! each.

use std::time::Duration;

use anyhow::{Result, bail};
use zcnic_guest_protocol::event::{CaseEnd, Event};
use zcnic_results::report::{Case, Outcome};
use zcnic_testbed::{
    agent::{Exec, Lines, Output},
    guest::Guest,
};

/// Time limit of all cases, on a busy host.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Progress of such a program.
pub(crate) enum CaseProgress {
    /// A line for people.
    Line(String),
    /// The end of a case, whose detail has the lines before.
    Ended(Case),
}

/// Runs all cases that `zcnic-guest` has under these words.
pub(super) fn all(guest: &mut Guest, words: &[&str], each: &mut dyn FnMut(Case)) -> Result<()> {
    let list = guest.check(&Exec::new([&["zcnic-guest"], words, &["--list"]].concat()))?;
    let wanted: Vec<_> = list.lines().collect();
    if wanted.is_empty() {
        bail!("there are no cases of {words:?}");
    }
    run(guest, words, &wanted, &mut |progress| {
        if let CaseProgress::Ended(case) = progress {
            each(case);
        }
    })
}

/// Runs `zcnic-guest` with these words. Fails if a case fails, or one of `wanted` does not run.
/// Names of cases begin with that of the program.
pub(crate) fn run(
    guest: &mut Guest,
    words: &[&str],
    wanted: &[&str],
    each: &mut dyn FnMut(CaseProgress),
) -> Result<()> {
    let program = words.first().copied().unwrap_or_default();
    let mut missing = wanted.to_vec();
    let mut failed = 0;
    let (mut unread, mut errors, mut lines) = (Lines::default(), Vec::new(), String::new());
    let exec = Exec::new([&["zcnic-guest"], words].concat()).timeout(PATIENCE);
    guest.stream(&exec, |event| {
        match event {
            Output::Stdout(bytes) => unread.push(&bytes),
            Output::Stderr(bytes) => errors.extend(bytes),
            Output::Ended(_) => {}
        }
        for line in unread.by_ref() {
            let end = match serde_json::from_str(&line)? {
                Event::Line { text } => {
                    lines.push_str(&text);
                    lines.push('\n');
                    each(CaseProgress::Line(text));
                    continue;
                }
                Event::Result(end) => end,
                other => bail!("a case of {program} printed {other:?}"),
            };
            let CaseEnd {
                case,
                error,
                seconds,
            } = end;
            missing.retain(|name| *name != case);
            failed += usize::from(error.is_some());
            let outcome = match error {
                None => Outcome::Pass,
                Some(_) => Outcome::Fail,
            };
            let detail = std::mem::take(&mut lines) + &error.unwrap_or_default();
            each(CaseProgress::Ended(Case {
                name: format!("{program}: {case}"),
                outcome,
                seconds,
                detail,
            }));
        }
        Ok(())
    })?;
    if failed > 0 || !missing.is_empty() {
        let missing = missing.len();
        let errors = String::from_utf8_lossy(&errors);
        bail!("{failed} cases failed and {missing} did not run\n{errors}");
    }
    Ok(())
}
