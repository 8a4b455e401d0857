//! Programs in the guest that have cases of their own, and print a line of JSON at the end of each.

use std::time::Duration;

use anyhow::{Result, bail};
use serde::Deserialize;
use zcnic_results::report::{Case, Outcome};
use zcnic_testbed::{
    agent::{Event, Exec},
    guest::Guest,
};

/// All cases, on a host that is busy otherwise.
const PATIENCE: Duration = Duration::from_secs(1800);

/// A line of such a program.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Told {
    /// For people, of the case that runs.
    Line { text: String },
    /// The end of a case.
    Result {
        case: String,
        error: Option<String>,
        seconds: f64,
    },
}

/// What such a program tells while it runs.
pub(crate) enum News {
    /// A line for people.
    Line(String),
    /// A case has ended: the lines before are its detail if it passed.
    Ended(Case),
}

/// Runs all cases that `zcnic-guest` has under these words.
pub(super) fn all(guest: &mut Guest, words: &[&str], each: &mut dyn FnMut(Case)) -> Result<()> {
    let list = guest.check(&Exec::new([&["zcnic-guest"], words, &["--list"]].concat()))?;
    let wanted: Vec<_> = list.lines().collect();
    if wanted.is_empty() {
        bail!("there are no cases of {words:?}");
    }
    run(guest, words, &wanted, &mut |news| {
        if let News::Ended(case) = news {
            each(case);
        }
    })
}

/// Runs `zcnic-guest` with these words; its cases are to be `wanted`, and get names that begin with that of
/// the program.
pub(crate) fn run(
    guest: &mut Guest,
    words: &[&str],
    wanted: &[&str],
    each: &mut dyn FnMut(News),
) -> Result<()> {
    let program = words.first().copied().unwrap_or_default();
    let mut missing = wanted.to_vec();
    let mut failed = 0;
    let (mut unread, mut errors, mut lines) = (String::new(), String::new(), String::new());
    let exec = Exec::new([&["zcnic-guest"], words].concat()).timeout(PATIENCE);
    guest.stream(&exec, |event| {
        match event {
            Event::Stdout(text) => unread.push_str(&text),
            Event::Stderr(text) => errors.push_str(&text),
            Event::Ended(_) => {}
        }
        while let Some(end) = unread.find('\n') {
            let line: String = unread.drain(..=end).collect();
            match serde_json::from_str(&line)? {
                Told::Line { text } => {
                    lines.push_str(&text);
                    lines.push('\n');
                    each(News::Line(text));
                }
                Told::Result {
                    case,
                    error,
                    seconds,
                } => {
                    missing.retain(|name| *name != case);
                    failed += usize::from(error.is_some());
                    let outcome = match error {
                        None => Outcome::Pass,
                        Some(_) => Outcome::Fail,
                    };
                    let told = std::mem::take(&mut lines);
                    each(News::Ended(Case {
                        name: format!("{program}: {case}"),
                        outcome,
                        seconds,
                        detail: error
                            .map_or_else(|| told.clone(), |error| format!("{told}{error}")),
                    }));
                }
            }
        }
        Ok(())
    })?;
    if failed > 0 || !missing.is_empty() {
        let missing = missing.len();
        bail!("{failed} cases failed and {missing} did not run\n{errors}");
    }
    Ok(())
}
