//! The tests that run a guest, and those that run whole programs. Each has a name in prose, and after
//! each that used a guest the kernel's log and page pools are gone through: a test that passes while
//! the kernel complains has failed.
//!
//! Tests of one machine share a guest, with the driver loaded anew for each; one that fails takes its
//! guest with it.

use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{
    backend::Cable,
    guest::{Driver, Guest},
    machine::{Machine, Port},
    report::{Case, Outcome, Report},
    setup::{GuestArgs, Setup},
};

mod demo;
mod detection;
mod faults;
mod gate;
mod gro;
mod input;
mod plain;
pub(crate) mod program;
mod rebind;
mod recovery;
mod scenarios;
mod selftests;
mod systems;
mod traffic;
mod xdp;

/// A test.
struct Test {
    name: &'static str,
    run: Run,
}

/// What a test needs and does.
#[derive(Clone, Copy)]
enum Run {
    /// Programs on the host.
    Host(fn(&Setup) -> Result<()>),
    /// A guest of this kind, its ports up.
    Guest(Kind, fn(&mut Guest) -> Result<()>),
    /// A program in such a guest, which has cases of its own: all that `zcnic-guest` has under these words.
    Program(Kind, &'static [&'static str]),
    /// A guest of its own, with a bug that is to be found.
    Seeded(&'static detection::Bug),
}

/// Guests differ in their ports and in who drives them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The usual ports and our driver.
    Zcnic,
    /// Four queue pairs each and the stock driver.
    VirtioNet,
    /// Ports with so few queue pairs that our driver can't drive them; no driver is loaded.
    TooFewQueues,
}

impl Kind {
    fn driver(self) -> Option<Driver> {
        match self {
            Self::Zcnic => Some(Driver::Zcnic),
            Self::VirtioNet => Some(Driver::VirtioNet),
            Self::TooFewQueues => None,
        }
    }

    fn machine(self, setup: &Setup) -> Machine {
        let mut machine = setup.machine();
        let pairs = match self {
            Self::Zcnic => return machine,
            Self::VirtioNet => 4,
            Self::TooFewQueues => 1,
        };
        machine.ports = [0, 1].map(|index| Port { index, pairs }).to_vec();
        machine
    }
}

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
        systems::TESTS,
        demo::TESTS,
        detection::TESTS,
    ]
    .into_iter()
    .flatten()
}

/// Runs all tests whose name contains `filter` and none of `skip`, and adds their cases to `report`.
pub(crate) fn run(
    args: &GuestArgs,
    filter: Option<&str>,
    skip: &[String],
    report: &mut Report,
) -> Result<()> {
    let names = |word: &String| all().any(|test| test.name.contains(word));
    if let Some(word) = skip.iter().find(|word| !names(word)) {
        bail!("--skip {word:?}: no guest test's name contains that");
    }
    let selected: Vec<_> = all()
        .filter(|test| filter.is_none_or(|filter| test.name.contains(filter)))
        .filter(|test| !skip.iter().any(|word| test.name.contains(word)))
        .collect();
    if selected.is_empty() {
        return Ok(());
    }
    let setup = Setup::for_zero_copy(args)?;
    report.extra.extend(setup.facts());
    let mut bench = Bench {
        setup: &setup,
        guest: None,
    };
    for test in selected {
        let start = Instant::now();
        let mut add = |case: Case| {
            case.print();
            report.cases.push(case);
        };
        let result = bench.run(test, &mut add);
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
    bench.retire()
}

/// The guest that tests share.
struct Bench<'a> {
    setup: &'a Setup,
    guest: Option<(Kind, Guest)>,
}

impl Bench<'_> {
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

/// Fails with `message` unless `holds`.
fn expect(holds: bool, message: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { bail!(message()) }
}
