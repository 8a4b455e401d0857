//! The tests that run a guest, and those that run whole programs. Each has a sentence as its name,
//! and passes the gate after it: a test that passes although the kernel complains has failed.
//!
//! Tests of one machine share a guest, with a freshly loaded driver for each. A failed test's guest
//! is not used again.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::json;
use zcnic_results::report::{Case, Outcome, Report};
use zcnic_testbed::{
    backend::Cable,
    guest::Guest,
    setup::{GuestArgs, Setup},
    violations::{self, Violation},
};

use self::test::{Kind, Run, Test};

mod bug;
mod capture;
pub(crate) mod cargo_tests;
mod clients;
mod cookbook;
mod demo;
mod detection;
mod documents;
mod edges;
mod ethtool;
mod everybody;
mod faults;
mod features;
mod files;
mod findings;
mod gate;
mod gro;
mod input;
mod lab;
mod nic;
mod package;
mod plain;
pub(crate) mod program;
mod provisioning;
mod rebind;
mod recipes;
mod recovery;
mod scenarios;
mod selftests;
mod test;
mod traffic;
mod wires;
mod xdp;

/// Returns all tests, those that can share a guest next to each other.
fn all() -> impl Iterator<Item = &'static Test> {
    [
        input::TESTS,
        provisioning::TESTS,
        everybody::TESTS,
        lab::TESTS,
        files::TESTS,
        plain::TESTS,
        gate::TESTS,
        gro::TESTS,
        rebind::TESTS,
        xdp::TESTS,
        selftests::TESTS,
        recovery::TESTS,
        edges::TESTS,
        nic::TESTS,
        findings::TESTS,
        capture::TESTS,
        wires::TESTS,
        faults::TESTS,
        clients::TESTS,
        scenarios::TESTS,
        features::TESTS,
        demo::TESTS,
        detection::TESTS,
        package::TESTS,
        documents::TESTS,
        cookbook::TESTS,
        recipes::TESTS,
    ]
    .into_iter()
    .flatten()
}

/// Starts of the names of the tests that take minutes each group, so that they run only if they are asked
/// for: by a filter or with `--all`.
pub(crate) const LONG: [&str; 6] = [
    "features: ",
    "detection: ",
    "package: ",
    "documents: ",
    "recipes: ",
    "sleep: ",
];

/// Runs the tests whose name contains `filter`, or without one all but the long groups, and adds their
/// cases to `report`.
pub(crate) fn run(
    args: &GuestArgs,
    filter: Option<&str>,
    all_groups: bool,
    report: &mut Report,
) -> Result<()> {
    // The former name of these tests still selects them.
    let filter = filter.map(|filter| filter.replace("systems", "features"));
    let is_long = |test: &Test| LONG.iter().any(|group| test.name.starts_with(group));
    let selected: Vec<_> = all()
        .filter(|test| match &filter {
            Some(filter) => test.name.contains(filter),
            None => all_groups || !is_long(test),
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
        violations: Vec::new(),
    };
    let mut reported = Vec::new();
    for test in selected {
        let start = Instant::now();
        let mut add = |case: Case| {
            case.print();
            report.cases.push(case);
        };
        let result = shared.run(test, &mut add);
        let found = std::mem::take(&mut shared.violations);
        reported.extend(violations::for_report(&found, test.name)?);
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
    if !reported.is_empty() {
        report
            .extra
            .insert("violations".to_owned(), json!(reported));
    }
    shared.retire()
}

/// The guest that tests share.
struct SharedGuest<'a> {
    setup: &'a Setup,
    guest: Option<(Kind, Guest)>,
    /// The ledger's violations during the last test.
    violations: Vec<Violation>,
}

impl SharedGuest<'_> {
    /// Runs a test; returns details of a pass. `each` takes the cases of programs.
    fn run(&mut self, test: &Test, each: &mut dyn FnMut(Case)) -> Result<String> {
        let nothing = |()| String::new();
        match test.run {
            Run::Host(run) => run(self.setup).map(nothing),
            Run::Seeded(bug) => detection::run(self.setup, bug, &mut self.violations),
            Run::Guest(kind, run) => self.share(kind, run).map(nothing),
            Run::Program(kind, words) => self
                .share(kind, |guest| program::all(guest, words, each))
                .map(nothing),
        }
    }

    /// Keeps the guest only after a pass: a failed test may have broken anything in it.
    fn share(&mut self, kind: Kind, run: impl FnOnce(&mut Guest) -> Result<()>) -> Result<()> {
        let mut guest = self.take(kind)?;
        one(&mut guest, kind, run)?;
        self.guest = Some((kind, guest));
        Ok(())
    }

    /// Returns the current guest if it is of this kind, and a new one otherwise.
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

/// Runs one test between loading and unloading the driver, and passes the gate twice.
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
        bail!("the gate found problems: {}", problems.join("; "));
    }
    Ok(())
}
