//! Tests with seeded bugs in the driver, or in a program that uses it, and their finders: the
//! device's ledger and sanitizer, the guest's page pools and log, the fault engine, or the
//! receiver. Under the same load without a bug nothing may be found.

use std::{thread, time::Duration};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use zcnic_testbed::{
    backend::Cable,
    guest::{Driver, Guest},
    provision::{
        driver::{self, Sources},
        initrd,
    },
    setup::Setup,
    stream::{Flow, Stream},
    violations::{Violation, Watch},
};

use super::{
    bug::{Bug, Finder, Load, Seed},
    ethtool::statistic,
    test::{Run::Seeded, Test, expect},
    traffic::ENDLESS,
};

/// Bytes of a stream that uses every buffer several times.
const BYTES: u64 = 48 << 20;

/// Buffers that a reader verifies again before it returns them.
const WINDOW: &str = "--window=1024";

/// A filled buffer is overdue if it is not posted again for this long, while all buffers are in
/// use.
const OVERDUE: Duration = Duration::from_secs(5);

/// The share of buffers with a wrong used length: one in 50.
const EVERY: &str = "--every=50";

/// Something that was found.
#[derive(Debug)]
struct Finding {
    finder: Finder,
    what: String,
}

macro_rules! driver {
    ($name:literal) => {
        Seed::Driver(
            $name,
            include_str!(concat!("../../../guest-tests/bugs/", $name, ".patch")),
        )
    };
}

macro_rules! bug {
    ($name:literal, $seed:expr, $load:ident, $finder:expr) => {
        Test {
            name: concat!("detection: ", $name),
            run: Seeded(&Bug {
                seed: $seed,
                load: Load::$load,
                finder: $finder,
            }),
        }
    };
}

pub(super) const TESTS: &[Test] = &[
    bug!(
        "without a bug nothing is found in zero-copy receive",
        Seed::None,
        ZeroCopy,
        None
    ),
    bug!(
        "a page is recycled twice",
        driver!("page-recycled-twice"),
        ZeroCopy,
        Some((Finder::Ledger, "posted-twice"))
    ),
    bug!(
        "a page is posted while a program reads it",
        driver!("held-page-reposted"),
        ZeroCopy,
        Some((Finder::Program, "and should be"))
    ),
    bug!(
        "a page is not returned",
        driver!("page-not-returned"),
        ZeroCopy,
        Some((Finder::PagePools, "page pool"))
    ),
    bug!(
        "a buffer is written to after it was posted",
        driver!("header-written-after-post"),
        ZeroCopy,
        Some((Finder::Ledger, "written"))
    ),
    bug!(
        "buffers overlap",
        driver!("fragments-overlap"),
        ZeroCopy,
        Some((Finder::Ledger, "overlap"))
    ),
    bug!(
        "a buffer has an address outside of memory",
        driver!("address-not-mapped"),
        ZeroCopy,
        Some((Finder::Ledger, "unusable"))
    ),
    bug!(
        "a queue is not stopped",
        driver!("stop-missing"),
        ZeroCopy,
        Some((Finder::Commands, "refused"))
    ),
    bug!(
        "a program returns its buffers twice",
        Seed::Program("--misbehave=return-twice"),
        ZeroCopy,
        // Found when the buffer is read, or when it is verified again before it is returned: after
        // its other owner has posted it.
        Some((Finder::Program, "and should be"))
    ),
    bug!(
        "a program returns buffers beyond its area",
        Seed::Program("--misbehave=return-beyond"),
        Stall,
        Some((Finder::Ledger, "overdue, receive queue 3: 4096 bytes"))
    ),
    bug!(
        "without a bug nothing is found when buffers run out",
        Seed::None,
        Exhaustion,
        None
    ),
    bug!(
        "a header fragment leaks where an allocation fails",
        driver!("header-leaked-on-error"),
        Exhaustion,
        Some((Finder::PagePools, "page pool"))
    ),
    bug!(
        "without a bug nothing is found behind bounce buffers",
        Seed::None,
        Bounce,
        None
    ),
    bug!(
        "a payload is not synchronised for the CPU",
        driver!("sync-skipped"),
        Bounce,
        Some((Finder::Program, "No route to host"))
    ),
    bug!(
        "without a bug nothing is found when used lengths are wrong",
        Seed::None,
        ShortBuffers,
        None
    ),
    bug!(
        "used lengths are not checked",
        driver!("length-not-checked"),
        ShortBuffers,
        Some((Finder::Faults, "the driver counted 0"))
    ),
];

/// Boots a guest with the bug, and checks the findings; returns the finder and its message, and adds
/// the ledger's violations.
pub(super) fn run(setup: &Setup, bug: &Bug, violations: &mut Vec<Violation>) -> Result<String> {
    let mut machine = setup.machine();
    // Held so that it is not pruned.
    let initrd;
    if let Seed::Driver(name, patch) = bug.seed {
        let mut sources = Sources::read()?;
        sources.patch(name, patch)?;
        let entry = driver::ensure_of(&setup.cache, &setup.kernel, &sources)?;
        let built = entry.join(driver::MODULE);
        initrd = initrd::ensure(&setup.cache, &setup.kernel, &[built])?;
        machine.initrd = initrd::image(&initrd);
    }
    if bug.load == Load::Bounce {
        machine
            .kernel_arguments
            .push("swiotlb=131072,force".to_owned());
    }
    let mut guest = setup.boot(&machine, Cable::Drop)?;
    let findings = find(&mut guest, bug, violations)?;
    guest.discard()?;
    match bug.finder {
        None if findings.is_empty() => Ok(String::new()),
        None => bail!("found without a bug: {findings:#?}"),
        Some((finder, what)) => {
            let found = findings
                .iter()
                .find(|finding| finding.finder == finder && finding.what.contains(what))
                .with_context(|| format!("not found as {what:?} by {finder:?}: {findings:#?}"))?;
            let first = found.what.lines().next().unwrap_or_default();
            Ok(format!("{}: {first}", finder.name()))
        }
    }
}

/// Runs the load and returns all findings.
fn find(guest: &mut Guest, bug: &Bug, violations: &mut Vec<Violation>) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let control = guest.control()?;
    let overdue = format!("--overdue={}s", OVERDUE.as_secs());
    let mut watch = match bug.load {
        Load::Stall => Watch::start(&control, &[&overdue]),
        _ => Watch::start(&control, &[]),
    }?;
    guest.bring_up(Driver::Zcnic)?;
    let option = match bug.seed {
        Seed::Program(option) => Some(option),
        Seed::None | Seed::Driver(..) => None,
    };
    if let Err(error) = load(guest, bug.load, option) {
        let finder = if bug.load == Load::ShortBuffers {
            Finder::Faults
        } else {
            Finder::Program
        };
        findings.push(Finding {
            finder,
            what: format!("{error:#}"),
        });
    }
    let refused = statistic(guest, "device_commands_refused")?;
    if refused > 0 {
        findings.push(Finding {
            finder: Finder::Commands,
            what: format!("{refused} commands were refused"),
        });
    }
    // The ledger looks for overdue buffers when it is queried.
    control.run(&["--port=0", "ledger"])?;
    let mut problems = guest.gate()?;
    match guest.unload(Driver::Zcnic) {
        Ok(()) => problems.extend(guest.gate()?),
        Err(error) => problems.push(format!("{error:#}")),
    }
    findings.extend(problems.into_iter().map(|what| Finding {
        finder: if what.contains("page pool") {
            Finder::PagePools
        } else {
            Finder::Log
        },
        what,
    }));
    let found = watch.new_violations()?;
    findings.extend(found.iter().map(|violation| Finding {
        finder: Finder::Ledger,
        what: violation.to_string(),
    }));
    violations.extend(found);
    Ok(findings)
}

fn load(guest: &mut Guest, load: Load, option: Option<&str>) -> Result<()> {
    let stream = Stream {
        bytes: BYTES,
        ..Stream::default()
    };
    let queue = format!("--queue={}", stream.queue);
    let mut zero_copy = vec!["--interface=eth0", &*queue];
    zero_copy.extend(option);
    let start =
        |guest: &Guest, bytes: u64, how: &[&str]| Flow::start(guest, stream.port, bytes, how);
    match load {
        Load::ZeroCopy => {
            stream.prepare(guest)?;
            zero_copy.extend([WINDOW, "--stall-limit=10"]);
            start(guest, BYTES, &zero_copy)?.finish().map(drop)
        }
        Load::Stall => {
            stream.prepare(guest)?;
            let mut flow = start(guest, ENDLESS, &zero_copy)?;
            flow.wait_for_stall()?;
            // There is no event for time that passes.
            thread::sleep(2 * OVERDUE);
            guest.control()?.run(&["--port=0", "ledger"])?;
            flow.abort()
        }
        Load::Exhaustion => {
            stream.prepare(guest)?;
            zero_copy.push("--hold");
            let mut flow = start(guest, ENDLESS, &zero_copy)?;
            flow.wait_for_stall()?;
            flow.abort()
        }
        Load::Bounce => {
            stream.prepare(guest)?;
            let plain = ["--plain", "--stall-limit=10"];
            start(guest, BYTES, &plain)?.finish().map(drop)
        }
        Load::ShortBuffers => {
            stream.prepare(guest)?;
            let control = guest.control()?;
            let words = [
                "--port=0",
                "fault",
                "add",
                "rx",
                "short-buffer",
                "--bytes=10",
            ];
            control.run(&[&words[..], &[&*queue, EVERY]].concat())?;
            start(guest, BYTES, &["--plain"])?.finish()?;
            let rules: Rules = control.ask(&["--port=0", "fault", "list"])?;
            let hits = rules.faults.first().map_or(0, |rule| rule.hits);
            let noticed = statistic(guest, &format!("q{}_rx_bad_header", stream.queue))?;
            expect(hits > 0 && noticed == hits, || {
                format!("{hits} used lengths were wrong, and the driver counted {noticed}")
            })
        }
    }
}

/// The part of `zcnicctl fault list`'s answer that is read.
#[derive(Deserialize)]
struct Rules {
    faults: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    hits: u64,
}
