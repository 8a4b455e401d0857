//! Running cases one after the other, with a line of JSON at the end of each for who started us.

use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use zcnic_guest_protocol::event::CaseEnd;

use super::Lab;
use crate::progress::report_result;

/// Which cases of many
#[derive(Debug, clap::Args)]
pub(crate) struct Selection {
    /// Only cases whose name contains this
    filter: Option<String>,
    /// Print the names of all cases
    #[arg(long)]
    list: bool,
}

impl Selection {
    /// Has `judge` run those of `all` that are wanted, in one lab, or lists them.
    pub(crate) fn run<C>(
        &self,
        all: impl Iterator<Item = C>,
        name: impl Fn(&C) -> &'static str,
        judge: impl Fn(&mut Lab, &C) -> Result<()>,
    ) -> Result<ExitCode> {
        let filter = self.filter.as_deref();
        let selected = all.filter(|case| filter.is_none_or(|filter| name(case).contains(filter)));
        if self.list {
            selected.for_each(|case| println!("{}", name(&case)));
            return Ok(ExitCode::SUCCESS);
        }
        let mut lab = Lab::new()?;
        Ok(each(selected, |case| (name(&case), judge(&mut lab, &case))))
    }
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
        report_result(CaseEnd {
            case: name.to_owned(),
            error: result.err().map(|error| format!("{error:#}")),
            seconds: started.elapsed().as_secs_f64(),
        });
    }
    end
}
