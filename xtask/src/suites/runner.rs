//! Runs selftests, in guests that it boots.
//!
//! Each program gets a freshly loaded driver, and passes the gate after it and again after the
//! driver is gone. Only a failed program leaves anything else behind (processes, settings, a kernel
//! that warns only once), so a guest in which anything failed is not used again. On kernels that
//! debug DMA mappings no guest is used twice: dma-debug looks the mapping of a sync up from its
//! address backwards, 8 KiB at a time (kernel/dma/debug.c, `bucket_find_contain`). Huge pages
//! return in the opposite order with each use, and in ascending order an area of them is one
//! mapping of tens of MB, so that a packet takes 9 ms.

use std::{
    collections::BTreeMap,
    io::{Write, stderr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use zcnic_guest_protocol::selftest::{self, CaseResult, SelftestResults};
use zcnic_results::{
    program::{ProgramRun, file_name},
    report::{Case, Outcome},
};
use zcnic_testbed::{
    agent::{Exec, Output},
    backend::Cable,
    guest::{Guest, HostFault},
    provision::selftests::Selftests,
    setup::Setup,
    violations::{Watch, for_report},
};

use super::selection::{Job, Rounds, matching};

/// Time limit of one test program. The guest's runner kills a hanging program long before; after
/// this limit the guest itself hangs.
const TEST_PATIENCE: Duration = Duration::from_secs(1900);

/// Queue pairs of the device under test: test_rss_context32 of rss_ctx.py needs 66 channels, and
/// there is the command pair. The peer has few, because interrupt vectors are finite.
const TESTED_PAIRS: u16 = 67;

/// Huge pages for the tests of memory providers, reserved at boot: later, memory may be too
/// fragmented.
const HUGE_PAGES: &str = "hugepages=64";

/// Runs programs, in guests that it boots as needed.
pub(crate) struct Runner<'a> {
    setup: &'a Setup,
    selftests: &'a Selftests,
    cable: Cable,
    /// Makes the device keep a ledger of receive buffers, whose violations fail a program.
    pub(crate) ledger: bool,
    guest: Option<Guest>,
    watch: Option<Watch>,
    /// The ledger's violations, each with the program during which it was found.
    pub(crate) violations: Vec<Value>,
    /// Each program gets its own guest.
    one_each: bool,
    /// Number of guests that were booted.
    pub(crate) boots: usize,
    /// Whether a case failed because of this host, which says nothing about the kernel.
    pub(crate) host_fault: bool,
}

/// Programs, by path, with the names of their cases, or why they could not list them.
type Cases = BTreeMap<String, Result<Vec<String>>>;

impl<'a> Runner<'a> {
    pub(crate) fn new(setup: &'a Setup, selftests: &'a Selftests, cable: Cable) -> Self {
        let debug = |config: &str| config.lines().any(|line| line == "CONFIG_DMA_API_DEBUG=y");
        Self {
            setup,
            selftests,
            cable,
            ledger: false,
            guest: None,
            watch: None,
            violations: Vec::new(),
            one_each: setup.kernel.config.as_deref().is_some_and(debug),
            boots: 0,
            host_fault: false,
        }
    }

    /// Runs jobs one after the other as often as `rounds` has them, and powers the last guest off.
    /// If they go on until a failure, the first run that `is_bad` is the last.
    ///
    /// # Errors
    ///
    /// If a program has no such case, or can't run single ones. A failure of a test is none, nor is
    /// a kernel that does not boot.
    pub(crate) fn run(
        &mut self,
        jobs: &[Job],
        rounds: Rounds,
        is_bad: &dyn Fn(&ProgramRun) -> bool,
    ) -> Result<Vec<ProgramRun>> {
        let cases = self.cases(jobs)?;
        let mut runs = Vec::new();
        for (order, round) in rounds.orders(jobs).zip(1..) {
            for job in order {
                let mut run = self.test(&job, &cases)?;
                if rounds.count != Some(1) {
                    run.round = Some(round);
                    eprintln!(
                        "         round {round}: {} passed, {} failed of {}",
                        run.count(Outcome::Pass),
                        run.count(Outcome::Fail),
                        job.name()
                    );
                }
                let bad = is_bad(&run);
                runs.push(run);
                if self.one_each {
                    runs.extend(self.finish());
                }
                if rounds.until_fail && bad {
                    runs.extend(self.finish());
                    return Ok(runs);
                }
            }
        }
        runs.extend(self.finish());
        Ok(runs)
    }

    /// Returns the cases of the programs of which `jobs` has single ones, and checks that there are
    /// these.
    fn cases(&mut self, jobs: &[Job]) -> Result<Cases> {
        let mut cases = Cases::new();
        for job in jobs {
            let Some(wanted) = &job.case else { continue };
            self.selftests.require_filters()?;
            if !cases.contains_key(&job.path) {
                cases.insert(job.path.clone(), self.list(&job.path));
            }
            if let Some(Ok(all)) = cases.get(&job.path) {
                matching(file_name(&job.path), all, wanted)?;
            }
        }
        Ok(cases)
    }

    /// Returns the names of a program's cases. It lists them itself, which needs the ports.
    pub(crate) fn list(&mut self, program: &str) -> Result<Vec<String>> {
        self.selftests.require_filters()?;
        let driver = self.setup.driver();
        let mut guest = self.guest()?;
        guest.bring_up(driver).context("set up the ports")?;
        let list = Exec::new(["zcnic-guest", "kselftest", "--cases", program]);
        let listed = guest.check(&list);
        guest.unload(driver).context("unload the driver")?;
        self.guest = Some(guest);
        Ok(listed?.lines().map(str::to_owned).collect())
    }

    /// Runs one job. Any other failure becomes a failed case.
    fn test(&mut self, job: &Job, cases: &Cases) -> Result<ProgramRun> {
        let test = &*job.path;
        let mut run = ProgramRun {
            name: test.to_owned(),
            round: None,
            seconds: 0.0,
            cases: Vec::new(),
        };
        let mut words = vec!["zcnic-guest".to_owned(), "kselftest".to_owned()];
        match (&job.case, cases.get(test)) {
            (Some(wanted), Some(Ok(all))) => {
                for case in matching(file_name(test), all, wanted)? {
                    words.extend(["--case".to_owned(), case]);
                }
            }
            (Some(_), Some(Err(error))) => {
                self.host_fault |= error.is::<HostFault>();
                let case = Case::failed(&guest_case(test), format!("{error:#}"));
                run.cases.push(case);
                return Ok(run);
            }
            _ => {}
        }
        words.push(test.to_owned());
        let result = self.guest().and_then(|mut guest| {
            let start = Instant::now();
            let result = self.try_test(&mut guest, test, &words, &mut run.cases);
            run.seconds = start.elapsed().as_secs_f64();
            result.map(|()| guest)
        });
        match result {
            Ok(guest) if run.count(Outcome::Fail) == 0 => self.guest = Some(guest),
            // Dropping the guest ends it.
            Ok(_) => {}
            Err(error) => {
                self.host_fault |= error.is::<HostFault>();
                run.cases
                    .push(Case::failed(&guest_case(test), format!("{error:#}")));
            }
        }
        Ok(run)
    }

    fn try_test(
        &mut self,
        guest: &mut Guest,
        test: &str,
        words: &[String],
        cases: &mut Vec<Case>,
    ) -> Result<()> {
        let driver = self.setup.driver();
        guest.bring_up(driver).context("set up the ports")?;
        cases.extend(results(guest, words)?);
        let mut problems = guest.gate()?;
        guest
            .unload(driver)
            .context("unload the driver after the test")?;
        problems.extend(guest.gate()?);
        if let Some(watch) = &mut self.watch {
            let found = watch.new_violations()?;
            problems.extend(found.iter().map(ToString::to_string));
            self.violations.extend(for_report(&found, test)?);
        }
        if !problems.is_empty() {
            cases.push(Case::failed(&guest_case(test), problems.join("\n")));
        }
        Ok(())
    }

    /// Returns the guest of the last test, or a new one.
    fn guest(&mut self) -> Result<Guest> {
        if let Some(guest) = self.guest.take() {
            return Ok(guest);
        }
        let mut machine = self.setup.machine();
        if let Some(port) = machine.ports.first_mut() {
            port.pairs = TESTED_PAIRS;
        }
        machine.kernel_arguments.push(HUGE_PAGES.to_owned());
        machine
            .disks
            .push(("selftests".to_owned(), self.selftests.image()));
        self.boots += 1;
        let guest = self.setup.boot(&machine, self.cable)?;
        if self.ledger {
            self.watch = Some(Watch::start(&guest.control()?, &[])?);
        }
        Ok(guest)
    }

    /// Powers the guest off; returns a run with a failed case if that fails.
    pub(crate) fn finish(&mut self) -> Option<ProgramRun> {
        let start = Instant::now();
        let error = self.guest.take()?.power_off().err()?;
        Some(ProgramRun {
            name: "power-off".to_owned(),
            round: None,
            seconds: start.elapsed().as_secs_f64(),
            cases: vec![Case::failed("power-off", format!("{error:#}"))],
        })
    }
}

/// Runs a test program in the guest by these words, and returns its cases.
fn results(guest: &mut Guest, words: &[String]) -> Result<Vec<Case>> {
    let exec = Exec::new(words).timeout(TEST_PATIENCE);
    let mut object = Vec::new();
    let mut end = None;
    guest.stream(&exec, |event| {
        match event {
            Output::Stdout(bytes) => object.extend(bytes),
            Output::Stderr(bytes) => stderr().write_all(&bytes)?,
            Output::Ended(status) => end = Some(status),
        }
        Ok(())
    })?;
    if let Some(status) = end
        && !status.success()
    {
        bail!("the guest's runner failed: {status}");
    }
    let results: SelftestResults = serde_json::from_slice(&object).with_context(|| {
        let text = String::from_utf8_lossy(&object);
        format!("the guest's runner printed {text:?}")
    })?;
    let cases = results.tests.into_iter().flat_map(|test| test.cases);
    Ok(cases.map(case).collect())
}

/// Converts a case of the guest's runner.
fn case(result: CaseResult) -> Case {
    Case {
        name: result.name,
        outcome: match result.outcome {
            selftest::Outcome::Pass => Outcome::Pass,
            selftest::Outcome::Fail => Outcome::Fail,
            selftest::Outcome::Skip => Outcome::Skip,
            selftest::Outcome::Xfail => Outcome::Xfail,
        },
        seconds: result.seconds,
        detail: result.detail,
    }
}

/// The name of the case for a test's effects on the guest.
fn guest_case(test: &str) -> String {
    format!("{}:guest", file_name(test))
}
