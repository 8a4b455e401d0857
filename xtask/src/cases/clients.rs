//! Clients of the control socket in a guest: the programs of docs/testing-with-zcnic.md.

use std::{fs, io::Write};

use anyhow::{Context, Result};
use zcnic_testbed::{agent::Exec, guest::Guest as Machine, provision::programs};

use super::test::{Kind::Zcnic, Run::Guest, Test, expect};

const DOCUMENT: &str = include_str!("../../../docs/testing-with-zcnic.md");

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "clients: the documented Python selftest arms a fault, waits for it and checks",
        run: Guest(Zcnic, python_selftest),
    },
    Test {
        name: "clients: the documented Rust program arms a fault and waits for it",
        run: Guest(Zcnic, rust_program),
    },
    Test {
        name: "clients: each takes the port over from the one before, which was killed",
        run: Guest(Zcnic, taken_over),
    },
];

fn python_selftest(guest: &mut Machine) -> Result<()> {
    let start = DOCUMENT.find("    #!/usr/bin/env python3\n");
    let text = &DOCUMENT[start.context("the document has no selftest")?..];
    let lines = text
        .lines()
        .take_while(|line| line.is_empty() || line.starts_with("    "));
    let script: String = lines
        .map(|line| format!("{}\n", line.get(4..).unwrap_or_default()))
        .collect();
    guest.check(&Exec::new(["python3", "-c", &script]))?;
    no_rule_is_left(guest)?;
    // The selftest notices if the datagram is not lost.
    let other = script.replace("nth=3", "nth=2");
    let failed = guest.run(&Exec::new(["python3", "-c", &other]))?;
    expect(failed.stderr.contains("AssertionError"), || {
        format!("another datagram was lost, and the selftest says {failed:?}")
    })?;
    no_rule_is_left(guest)
}

fn rust_program(guest: &mut Machine) -> Result<()> {
    let program = programs::example("arm_a_fault")?;
    let copy = Exec::shell("cat > /tmp/arm_a_fault; chmod +x /tmp/arm_a_fault");
    let copying = guest.spawn(&copy.stdin())?;
    let mut input = copying.input();
    input.write_all(&fs::read(program)?)?;
    input.end()?;
    let copied = copying.wait()?;
    expect(copied.status.success(), || copied.stderr.clone())?;
    let datagram = "echo | ip netns exec peer socat -u - UDP:192.0.2.1:5000";
    let printed = guest.check(&Exec::new(["/tmp/arm_a_fault", "0", "sh", "-c", datagram]))?;
    expect(printed == "Port 0 lost 1 datagram.\n", || {
        format!("the program printed {printed:?}")
    })?;
    no_rule_is_left(guest)
}

fn taken_over(guest: &mut Machine) -> Result<()> {
    // A client that waits for a hit is killed, and the next one is not delayed by its wait.
    let wait = "import zcnic; zcnic.connect().port('0').fault('tx', 'drop', protocol='udp', \
                destination_port=9).wait(timeout=600)";
    for client in [
        "zcnicctl status",
        "python3 -c 'import zcnic; zcnic.connect().status()'",
    ] {
        guest.sh(&format!(
            "timeout -s KILL 5 python3 -c \"{wait}\" || test $? = 137"
        ))?;
        let exec = Exec::new(["sh", "-c", client]);
        guest.check(&exec.timeout(std::time::Duration::from_secs(15)))?;
        guest.sh("zcnicctl --port 0 fault remove --all")?;
    }
    Ok(())
}

fn no_rule_is_left(guest: &mut Machine) -> Result<()> {
    let rules = guest.sh("zcnicctl --json fault list | jq -c .faults")?;
    expect(rules.trim() == "[]", || format!("rules are left: {rules}"))
}
