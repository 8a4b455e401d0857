//! `zcnic-guest features`: the kernel's receive-path features, each exercised end to end. A case
//! shows one state or mode of a feature, verifies every byte, and reports the figures that its
//! authors care about.

mod case;
mod devmem;
mod hardware;
mod page_pool;
mod provided;
mod tcp_zerocopy;
mod unreadable;
mod xdp;
mod zcrx;
mod zerocopy_send;

use std::process::ExitCode;

use anyhow::Result;

use self::case::FeatureCase;
use crate::fixture::{cases::Selection, lab::Lab, transcript::Transcript};

/// Exercises the kernel's receive-path features, and prints a JSON object for each case
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
}

/// All cases, by feature.
fn all() -> impl Iterator<Item = &'static FeatureCase> {
    [
        devmem::CASES,
        hardware::CASES,
        page_pool::CASES,
        provided::CASES,
        tcp_zerocopy::CASES,
        unreadable::CASES,
        xdp::CASES,
        zcrx::CASES,
    ]
    .into_iter()
    .flatten()
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<ExitCode> {
    let transcript = Transcript::new(true);
    let run_case =
        |lab: &mut Lab, case: &&FeatureCase| lab.watched(|lab| (case.run)(lab, &transcript));
    args.selection.run(all(), |case| case.name, run_case)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_cases_have_the_same_name() {
        let names: BTreeSet<_> = all().map(|case| case.name).collect();
        assert_eq!(names.len(), all().count());
    }
}
