//! Runs one case: the device misbehaves, the driver reacts as it should, and nothing is left.

use anyhow::{Context, Result, ensure};

use super::case::{Check, Counted, FaultCase};
use crate::fixture::{
    lab::{Counters, Lab, MUCH, RECOVERY, eventually},
    traffic::{self, How, QUIET, Stream},
};

/// Runs a case, and checks that nothing is left of its fault.
pub(super) fn verify(lab: &mut Lab, case: &FaultCase) -> Result<()> {
    let result = misbehave(lab, case);
    lab.disarm()?;
    let result = result.and_then(|()| lab.as_before());
    lab.next_case()?;
    result
}

fn misbehave(lab: &mut Lab, case: &FaultCase) -> Result<()> {
    let before = lab.counters(case.port)?;
    let id = lab.arm(case.port, &case.rule())?;
    match case.check {
        Check::Datagrams(expected) => {
            let arrived = traffic::datagrams(10, QUIET)?;
            ensure!(arrived == expected, "these datagrams arrived: {arrived:?}");
        }
        Check::Stream(how) => {
            Stream::start(how, MUCH)?.finish()?;
        }
        Check::Copied => {
            let result = Stream::start(How::ZeroCopy, MUCH)?.finish()?;
            ensure!(
                result.bytes_copied != Some(0),
                "nothing was copied: {result:?}"
            );
        }
        Check::Script(run) => run(lab, id)?,
    }
    // A script that removes the rule has waited for its hits.
    if lab.hits(id)?.is_some() {
        lab.wait_for_hits(id, 1)
            .context("the fault did not happen")?;
    }
    counted(lab, case.port, &before, case.counted)
}

/// Waits until the driver has counted the fault as it should.
fn counted(lab: &Lab, port: &str, before: &Counters, wanted: &[Counted]) -> Result<()> {
    eventually(RECOVERY, || {
        let now = lab.counters(port)?;
        for &Counted(name, least, most) in wanted {
            let count = |counters: &Counters| {
                let known = counters.get(name).copied();
                known.with_context(|| format!("ethtool -S has no {name}"))
            };
            let by = count(&now)? - count(before)?;
            ensure!(
                (least..=most).contains(&by),
                "{name} went up by {by}, not by {least} to {most}"
            );
        }
        Ok(())
    })
}
