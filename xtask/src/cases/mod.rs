//! The tests that run a guest, and those that run whole programs. Each has a name in prose, and after
//! each that used a guest the kernel's log and page pools are gone through: a test that passes while
//! the kernel complains has failed.
//!
//! Tests of one machine share a guest, with the driver loaded anew for each; one that fails takes its
//! guest with it.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use zcnic_results::report::{Case, Outcome, Report};
use zcnic_testbed::{
    backend::Cable,
    guest::Guest,
    setup::{GuestArgs, Setup},
};

use self::test::{Kind, Run, Test};

mod bug;
pub(crate) mod cargo_tests;
mod demo;
mod detection;
mod ethtool;
mod faults;
mod features;
mod gate;
mod gro;
mod input;
mod plain;
pub(crate) mod program;
mod rebind;
mod recovery;
mod scenarios;
mod selftests;
mod test;
mod traffic;
mod xdp;

/// All tests, those that can share a guest next to each other.
fn all() -> impl Iterator<Item = &'static Test> {
    [
        input::TESTS,
        plain::TESTS,
        gate::TESTS,
        gro::TESTS,
        rebind::TESTS,
        xdp::TESTS,
        selftests::TESTS,
        recovery::TESTS,
        faults::TESTS,
        scenarios::TESTS,
        features::TESTS,
        demo::TESTS,
        detection::TESTS,
    ]
    .into_iter()
    .flatten()
}

/// Runs all tests whose name contains `filter` and adds their cases to `report`.
pub(crate) fn run(args: &GuestArgs, filter: Option<&str>, report: &mut Report) -> Result<()> {
    // The name that these tests had before.
    let filter = filter.map(|filter| filter.replace("systems", "features"));
    let selected: Vec<_> = all()
        .filter(|test| {
            let filter = filter.as_deref();
            filter.is_none_or(|filter| test.name.contains(filter))
        })
        .collect();
    if selected.is_empty() {
        return Ok(());
    }
    let setup = Setup::for_zero_copy(args)?;
    report.extra.extend(setup.facts());
    let mut shared = SharedGuest {
        setup: &setup,
        guest: None,
    };
    for test in selected {
        let start = Instant::now();
        let mut add = |case: Case| {
            case.print();
            report.cases.push(case);
        };
        let result = shared.run(test, &mut add);
        add(Case {
            name: test.name.to_owned(),
            outcome: if result.is_ok() {
                Outcome::Pass
            } else {
                Outcome::Fail
            },
            seconds: start.elapsed().as_secs_f64(),
            detail: result.unwrap_or_else(|error| format!("{error:#}")),
        });
    }
    shared.retire()
}

/// The guest that tests share.
struct SharedGuest<'a> {
    setup: &'a Setup,
    guest: Option<(Kind, Guest)>,
}

impl SharedGuest<'_> {
    /// Returns what there is to say of a test that passed.
    fn run(&mut self, test: &Test, each: &mut dyn FnMut(Case)) -> Result<String> {
        let nothing = |()| String::new();
        match test.run {
            Run::Host(run) => run(self.setup).map(nothing),
            Run::Seeded(bug) => detection::run(self.setup, bug),
            Run::Guest(kind, run) => self.share(kind, run).map(nothing),
            Run::Program(kind, words) => self
                .share(kind, |guest| program::all(guest, words, each))
                .map(nothing),
        }
    }

    /// Only puts the guest back if all went well: after a failure nothing in it can be relied on.
    fn share(&mut self, kind: Kind, run: impl FnOnce(&mut Guest) -> Result<()>) -> Result<()> {
        let mut guest = self.take(kind)?;
        one(&mut guest, kind, run)?;
        self.guest = Some((kind, guest));
        Ok(())
    }

    /// A guest of this kind: the one there is, or a new one.
    fn take(&mut self, kind: Kind) -> Result<Guest> {
        if let Some((known, guest)) = self.guest.take() {
            if known == kind {
                return Ok(guest);
            }
            guest.power_off().context("power the last guest off")?;
        }
        self.setup.boot(&kind.machine(self.setup), Cable::Drop)
    }

    fn retire(self) -> Result<()> {
        match self.guest {
            Some((_, guest)) => guest.power_off().map(drop),
            None => Ok(()),
        }
    }
}

/// One test between loading and unloading the driver, then the gate.
fn one(guest: &mut Guest, kind: Kind, run: impl FnOnce(&mut Guest) -> Result<()>) -> Result<()> {
    let driver = kind.driver();
    if let Some(driver) = driver {
        guest.bring_up(driver).context("set up the ports")?;
    }
    run(guest)?;
    let mut problems = guest.gate()?;
    if let Some(driver) = driver {
        guest
            .unload(driver)
            .context("unload the driver after the test")?;
        problems.extend(guest.gate()?);
    }
    if !problems.is_empty() {
        bail!("the guest's kernel is not happy: {}", problems.join("; "));
    }
    Ok(())
}
