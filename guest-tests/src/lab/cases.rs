//! Running cases one after the other, with a line of JSON at the end of each for who started us.

use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use serde::Serialize;

use crate::progress::say_result;

/// The end of a case.
#[derive(Serialize)]
struct Ended<'a> {
    case: &'a str,
    error: Option<String>,
    seconds: f64,
}

/// Has `judge` run each case and say its name; fails if one failed.
pub(crate) fn each<'a, C>(
    cases: impl IntoIterator<Item = C>,
    mut judge: impl FnMut(C) -> (&'a str, Result<()>),
) -> ExitCode {
    let mut end = ExitCode::SUCCESS;
    for case in cases {
        let started = Instant::now();
        let (name, result) = judge(case);
        if result.is_err() {
            end = ExitCode::FAILURE;
        }
        say_result(&Ended {
            case: name,
            error: result.err().map(|error| format!("{error:#}")),
            seconds: started.elapsed().as_secs_f64(),
        });
    }
    end
}
