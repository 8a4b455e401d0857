//! Tests that the gate after every test finds the problems that it is there for.

use anyhow::Result;
use zcnic_testbed::{agent::Exec, guest::Guest as Machine};

use super::{
    test::{Kind::Zcnic, Run::Guest, Test, expect},
    traffic,
};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "gate: every class of bad lines in the kernel's log trips it",
        run: Guest(Zcnic, every_class_trips),
    },
    Test {
        name: "gate: a page pool with more buffers out than are posted trips it",
        run: Guest(Zcnic, missing_buffers_trip),
    },
    Test {
        name: "gate: a page pool that was destroyed with pages out trips it",
        run: Guest(Zcnic, detached_pool_trips),
    },
];

fn every_class_trips(guest: &mut Machine) -> Result<()> {
    let classes = guest.check(&Exec::new(["zcnic-guest", "inject-log"]))?;
    expect(classes.lines().count() > 10, || {
        format!("there are only these classes: {classes}")
    })?;
    for class in classes.lines() {
        guest.check(&Exec::new(["zcnic-guest", "inject-log", class]))?;
        let problems = guest.gate()?;
        expect(!problems.is_empty(), || format!("{class} does not trip"))?;
    }
    // The next check begins after these lines.
    let problems = guest.gate()?;
    expect(problems.is_empty(), || problems.join("; "))
}

fn missing_buffers_trip(guest: &mut Machine) -> Result<()> {
    let gate = |guest: &mut Machine, posted: &[&str]| {
        let words = ["zcnic-guest", "check", "--wait", "1"];
        guest.run(&Exec::new(words.iter().chain(posted)))
    };
    // The rings are full of buffers; with a limit of none they count as missing.
    let tripped = gate(guest, &["--posted", "0"])?;
    expect(
        !tripped.status.success() && tripped.stdout.contains("pages out, but at most 0 buffers"),
        || format!("it does not trip: {}", tripped.stdout),
    )?;
    // Earlier tests are responsible for the log.
    let fine = gate(guest, &[])?;
    expect(!fine.stdout.contains("pages out"), || fine.stdout)
}

fn detached_pool_trips(guest: &mut Machine) -> Result<()> {
    // Unread data stays in its pages, whatever happens to their pool.
    let flow = traffic::unread(guest)?;
    guest.sh("ip link set eth0 down")?;
    let tripped = guest.run(&Exec::new(["zcnic-guest", "check", "--wait", "1"]))?;
    expect(
        !tripped.status.success() && tripped.stdout.contains("was destroyed with"),
        || format!("it does not trip: {}", tripped.stdout),
    )?;
    flow.abort()?;
    guest.sh("ip link set eth0 up").map(drop)
}
