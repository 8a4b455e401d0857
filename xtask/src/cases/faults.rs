//! The driver under fire: `zcnic-guest faults`, each of its cases a case of ours. They share a driver, too:
//! each leaves everything as it was.

use std::time::Duration;

use anyhow::{Result, bail};
use serde::Deserialize;

use super::{Kind::Zcnic, Run::Program, Test};
use crate::{
    agent::{Event, Exec},
    guest::Guest as Machine,
    report::{Case, Outcome},
};

pub(super) const TESTS: &[Test] = &[Test {
    name: "faults: the driver under fire, as a whole",
    run: Program(Zcnic, under_fire),
}];

/// All cases, on a host that is busy otherwise.
const PATIENCE: Duration = Duration::from_secs(1800);

/// What is printed at the end of a case.
#[derive(Deserialize)]
struct Ended {
    case: String,
    error: Option<String>,
    seconds: f64,
}

fn under_fire(guest: &mut Machine, each: &mut dyn FnMut(Case)) -> Result<()> {
    let list = guest.check(&Exec::new(["zcnic-guest", "faults", "--list"]))?;
    let mut missing: Vec<_> = list.lines().collect();
    let mut failed = 0;
    let mut unread = String::new();
    let mut errors = String::new();
    let exec = Exec::new(["zcnic-guest", "faults"]).timeout(PATIENCE);
    guest.stream(&exec, |event| {
        match event {
            Event::Stdout(text) => unread.push_str(&text),
            Event::Stderr(text) => errors.push_str(&text),
            Event::Ended(_) => {}
        }
        while let Some(end) = unread.find('\n') {
            let line: String = unread.drain(..=end).collect();
            let Ended {
                case,
                error,
                seconds,
            } = serde_json::from_str(&line)?;
            missing.retain(|name| *name != case);
            failed += usize::from(error.is_some());
            each(Case {
                name: format!("faults: {case}"),
                outcome: if error.is_none() {
                    Outcome::Pass
                } else {
                    Outcome::Fail
                },
                seconds,
                detail: error.unwrap_or_default(),
            });
        }
        Ok(())
    })?;
    if failed > 0 || !missing.is_empty() {
        let missing = missing.len();
        bail!("{failed} cases failed and {missing} did not run\n{errors}");
    }
    Ok(())
}
