//! `cargo xtask kselftest`: the kernel's own selftests, unchanged, with eth0 of a guest as the device
//! under test and eth1 of the same backend, in a network namespace, as its peer.
//!
//! Each test program gets a freshly loaded driver, and the guest's log and page pools are gone
//! through after it: a program that passes while the kernel warns has failed. A test that takes the
//! guest down fails, and the next one gets a new guest.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, ExitCode},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    agent::{Event, Exec},
    backend::Cable,
    guest::Guest,
    paths,
    report::{Case, Outcome, Report, ReportArg},
    sandbox,
    selftests::Selftests,
    setup::{GuestArgs, Setup},
    step::run as run_command,
};

/// For one test program. The guest's runner ends those that hang long before; later than this the
/// guest itself hangs.
const TEST_PATIENCE: Duration = Duration::from_secs(1900);

/// The device under test: rss_ctx.py's test_rss_context32 wants 66 channels, and there is the command
/// pair. The peer keeps its few: interrupt vectors are finite.
const TESTED_PAIRS: u16 = 67;

/// As many as the tests of memory providers would otherwise ask for in the midst of a run, when memory
/// may be too fragmented to give them.
const HUGE_PAGES: &str = "hugepages=64";

/// Run the kernel's selftests of drivers/net in a guest
///
/// Exits with 0 only if every case passed, or ended in the way that was expected of it.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    report: ReportArg,
    /// Expect a case to end so and not to pass, such as `hds.py:get_hds=skip`; a `*` at the name's
    /// end stands for any rest. An expectation that nothing meets is an error
    #[arg(long, value_name = "CASE=skip|xfail|fail")]
    expect: Vec<Expectation>,
    /// Only list the tests there are
    #[arg(long)]
    list: bool,
    /// Test programs, such as `iou-zcrx.py`; all that are written in Python if none is named
    names: Vec<String>,
}

/// How a case may end besides passing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expectation {
    name: String,
    outcome: Outcome,
}

impl FromStr for Expectation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = "CASE=skip, CASE=xfail or CASE=fail is wanted";
        let (name, outcome) = text.rsplit_once('=').ok_or(wanted)?;
        let outcome = match outcome {
            "skip" => Outcome::Skip,
            "xfail" => Outcome::Xfail,
            "fail" => Outcome::Fail,
            _ => return Err(wanted.to_owned()),
        };
        Ok(Self {
            name: name.to_owned(),
            outcome,
        })
    }
}

impl Expectation {
    fn meets(&self, case: &Case) -> bool {
        let named = match self.name.strip_suffix('*') {
            Some(beginning) => case.name.starts_with(beginning),
            None => case.name == self.name,
        };
        named && case.outcome == self.outcome
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    sandbox::clean_up_on_signals()?;
    let setup = Setup::new(&args.guest)?;
    let selftests = Selftests::ensure(&setup.cache)?;
    let all = selftests.all()?;
    if args.list {
        all.iter().for_each(|test| println!("{test}"));
        return Ok(ExitCode::SUCCESS);
    }
    let tests = select(&all, &args.names)?;

    let extra = serde_json::Map::from_iter([
        ("kernel".to_owned(), json!(setup.kernel.release)),
        ("commit".to_owned(), json!(commit())),
        ("wire".to_owned(), json!("cable, pause")),
        ("selftests".to_owned(), json!(selftests.version()?)),
        ("sha256".to_owned(), json!(checksums(&selftests, &tests)?)),
        ("qemu".to_owned(), json!(setup.qemu.version)),
        ("acceleration".to_owned(), json!(setup.acceleration.name())),
    ]);
    let mut report = Report {
        extra,
        ..Report::default()
    };
    let mut bench = Bench {
        setup: &setup,
        selftests: &selftests,
        guest: None,
    };
    for test in &tests {
        let cases = bench.test(test);
        report.cases.extend(cases);
    }
    report.cases.extend(bench.finish());

    args.report.write(&report.to_json())?;
    report.cases.iter().for_each(Case::print);
    let unmet = unexpected(&args.expect, &report.cases);
    unmet.iter().for_each(|problem| println!("{problem}"));
    println!("{}", report.summary());
    Ok(if unmet.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The tests that `names` mean.
fn select<'a>(all: &'a [String], names: &[String]) -> Result<Vec<&'a str>> {
    if names.is_empty() {
        let python = all.iter().filter(|test| test.ends_with(".py"));
        return Ok(python.map(String::as_str).collect());
    }
    let find = |name: &String| {
        all.iter()
            .find(|test| *test == name || file_name(test) == name)
            .map(String::as_str)
            .with_context(|| {
                format!("no selftest is called {name}; `cargo xtask kselftest --list` names them")
            })
    };
    names.iter().map(find).collect()
}

fn file_name(test: &str) -> &str {
    test.rsplit('/').next().unwrap_or(test)
}

/// The commit that is tested; None outside a checkout.
fn commit() -> Option<String> {
    let described = run_command(Command::new("git").arg("-C").arg(paths::workspace()).args([
        "describe",
        "--always",
        "--abbrev=40",
        "--exclude=*",
        "--dirty",
    ]));
    Some(described.ok()?.trim().to_owned())
}

/// What proves that the tests are upstream's.
fn checksums(selftests: &Selftests, tests: &[&str]) -> Result<BTreeMap<String, String>> {
    let sum = |test: &&str| {
        let path = selftests.tree().join(test);
        let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let digest = Sha256::digest(content);
        let hex = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(((*test).to_owned(), hex))
    };
    tests.iter().map(sum).collect()
}

/// What is wrong with `cases`, given what was expected of them.
fn unexpected(expected: &[Expectation], cases: &[Case]) -> Vec<String> {
    let surprises = cases
        .iter()
        .filter(|case| case.outcome != Outcome::Pass)
        .filter(|case| !expected.iter().any(|expectation| expectation.meets(case)))
        .map(|case| format!("not expected: {} {}", case.outcome.word(), case.name));
    let unmet = expected
        .iter()
        .filter(|expectation| !cases.iter().any(|case| expectation.meets(case)))
        .map(|Expectation { name, outcome }| {
            format!("expected, but not so: {} {name}", outcome.word())
        });
    surprises.chain(unmet).collect()
}

/// The object that `zcnic-guest kselftest` prints.
#[derive(Deserialize)]
struct Results {
    tests: Vec<TestResult>,
}

#[derive(Deserialize)]
struct TestResult {
    cases: Vec<Case>,
}

/// The guest that tests run in.
struct Bench<'a> {
    setup: &'a Setup,
    selftests: &'a Selftests,
    guest: Option<Guest>,
}

impl Bench<'_> {
    /// Runs one test program; whatever goes wrong besides becomes a failed case.
    fn test(&mut self, test: &str) -> Vec<Case> {
        let mut cases = Vec::new();
        if let Err(error) = self.try_test(test, &mut cases) {
            // The guest is gone with it: nothing there could be relied on any more.
            cases.push(failed(&guest_case(test), format!("{error:#}")));
        }
        cases
    }

    fn try_test(&mut self, test: &str, cases: &mut Vec<Case>) -> Result<()> {
        let driver = self.setup.driver();
        let mut guest = match self.guest.take() {
            Some(guest) => guest,
            None => self.boot()?,
        };
        guest.bring_up(driver).context("set up the ports")?;
        cases.extend(results(&mut guest, test)?);
        let mut problems = guest.gate()?;
        guest
            .unload(driver)
            .context("unload the driver after the test")?;
        problems.extend(guest.gate()?);
        if !problems.is_empty() {
            cases.push(failed(&guest_case(test), problems.join("\n")));
        }
        self.guest = Some(guest);
        Ok(())
    }

    fn boot(&self) -> Result<Guest> {
        let mut machine = self.setup.machine();
        if let Some(port) = machine.ports.first_mut() {
            port.pairs = TESTED_PAIRS;
        }
        machine.kernel_arguments.push(HUGE_PAGES.to_owned());
        machine
            .disks
            .push(("selftests".to_owned(), self.selftests.image()));
        self.setup.boot(&machine, Cable::Pause)
    }

    /// Powers the guest off; that can fail too.
    fn finish(mut self) -> Option<Case> {
        let error = self.guest.take()?.power_off().err()?;
        Some(failed("power-off", format!("{error:#}")))
    }
}

/// What the test program reported.
fn results(guest: &mut Guest, test: &str) -> Result<Vec<Case>> {
    let exec = Exec::new(["zcnic-guest", "kselftest", test]).timeout(TEST_PATIENCE);
    let mut object = String::new();
    let mut end = None;
    guest.stream(&exec, |event| {
        match event {
            Event::Stdout(text) => object.push_str(&text),
            Event::Stderr(text) => eprint!("{text}"),
            Event::Ended(status) => end = Some(status),
        }
        Ok(())
    })?;
    if let Some(status) = end
        && !status.success()
    {
        bail!("the guest's runner failed: {status}");
    }
    let results: Results = serde_json::from_str(&object)
        .with_context(|| format!("the guest's runner printed {object:?}"))?;
    Ok(results
        .tests
        .into_iter()
        .flat_map(|test| test.cases)
        .collect())
}

/// What a test does to the guest is a case of its own.
fn guest_case(test: &str) -> String {
    format!("{}:guest", file_name(test))
}

fn failed(name: &str, detail: String) -> Case {
    Case {
        name: name.to_owned(),
        outcome: Outcome::Fail,
        seconds: 0.0,
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str, outcome: Outcome) -> Case {
        Case {
            outcome,
            ..failed(name, String::new())
        }
    }

    #[test]
    fn only_what_is_expected_by_name_is_forgiven() {
        use Outcome::{Fail, Pass, Skip, Xfail};
        let cases = [
            case("a.py:one", Pass),
            case("a.py:two", Skip),
            case("gro.py:lro_x", Xfail),
            case("gro.py:lro_y", Xfail),
        ];
        let expect = |texts: &[&str]| -> Vec<Expectation> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        assert_eq!(unexpected(&[], &cases).len(), 3);
        assert_eq!(
            unexpected(&expect(&["a.py:two=skip", "gro.py:lro_*=xfail"]), &cases),
            [""; 0]
        );
        // The wrong outcome, another name, a pass.
        for wrong in ["a.py:two=xfail", "a.py:tw=skip", "a.py:one=fail"] {
            let problems = unexpected(&expect(&[wrong, "gro.py:*=xfail"]), &cases);
            assert_eq!(problems.len(), 2, "{problems:?}");
        }
        assert_eq!(
            unexpected(&expect(&["b=fail"]), &[case("b", Fail)]),
            [""; 0]
        );
    }

    #[test]
    fn an_expectation_names_an_outcome() {
        for wrong in ["a.py", "a.py:b=pass", "a.py:b="] {
            assert!(wrong.parse::<Expectation>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn tests_are_selected_by_file_name_and_python_ones_by_default() {
        let all: Vec<_> = ["drivers/net/queues.py", "drivers/net/hw/ethtool.sh"]
            .map(str::to_owned)
            .to_vec();
        assert_eq!(select(&all, &[]).unwrap(), ["drivers/net/queues.py"]);
        let named = select(&all, &["ethtool.sh".to_owned()]).unwrap();
        assert_eq!(named, ["drivers/net/hw/ethtool.sh"]);
        assert!(select(&all, &["queue".to_owned()]).is_err());
    }
}
