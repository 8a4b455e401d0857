//! Properties that the kernel's selftests rely on. Without them a selftest fails once in a hundred
//! runs, with an unclear message.

use std::{fs, os::unix::fs::PermissionsExt};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use zcnic_testbed::{
    agent::Exec,
    guest::Guest as Machine,
    paths,
    provision::{
        host,
        selftests::{PLACE, debian_source},
    },
    setup::Setup,
    step::{output, run as run_command},
};

use super::test::{
    Kind::Zcnic,
    Run::{Guest, Host},
    Test, expect,
};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "flow rules: a second rule for the same frames is refused, and a rule is deleted once",
        run: Guest(Zcnic, one_owner_of_a_rule),
    },
    Test {
        name: "iperf3: a hanging server ends on SIGTERM",
        run: Guest(Zcnic, iperf3_that_hangs),
    },
    Test {
        name: "kselftest: a selftest that was added to a tree runs, and one case of it again and again",
        run: Host(new_selftest),
    },
];

fn one_owner_of_a_rule(guest: &mut Machine) -> Result<()> {
    let add = |location: &str, action: u32| {
        Exec::shell(&format!(
            "ethtool -N eth0 flow-type tcp6 dst-port 9999 action {action} {location}"
        ))
    };
    let delete = |id: &str| Exec::shell(&format!("ethtool -N eth0 delete {id}"));
    // "Added rule with ID 1023"
    let printed = guest.check(&add("", 1))?;
    let id = printed.split_whitespace().next_back().unwrap_or_default();
    let second = guest.run(&add("", 2))?;
    expect(!second.status.success(), || {
        "a second rule for the same frames was added".to_owned()
    })?;
    // The rule's own location is how it is changed.
    guest.check(&add(&format!("loc {id}"), 2))?;
    let rules = guest.sh("ethtool -n eth0")?;
    expect(
        rules.contains("Total 1 rules") && rules.contains("Action: Direct to queue 2"),
        || format!("the rule was not replaced:\n{rules}"),
    )?;
    guest.check(&delete(id))?;
    let rules = guest.sh("ethtool -n eth0")?;
    expect(rules.contains("Total 0 rules"), || {
        format!("the rule was not deleted:\n{rules}")
    })?;
    let flushed = guest.check(&add("", 1))?;
    let flushed = flushed.split_whitespace().next_back().unwrap_or_default();
    guest.sh("ethtool -K eth0 ntuple off; ethtool -K eth0 ntuple on")?;
    for none in [id, flushed, "7"] {
        expect(!guest.run(&delete(none))?.status.success(), || {
            format!("rule {none}, which does not exist, can be deleted")
        })?;
    }
    Ok(())
}

/// A process under SIGSTOP ignores SIGTERM, as one that waits for its own lock does.
fn iperf3_that_hangs(guest: &mut Machine) -> Result<()> {
    let script = "iperf3 -s -p 5999 & iperf3=$!
        until ss -Hltn 'sport = :5999' | grep -q .; do :; done
        pkill -STOP -P $iperf3
        kill -TERM $iperf3
        wait $iperf3 || echo $?";
    let printed = guest.sh(script)?;
    // The shell's status after SIGKILL.
    if printed.lines().next_back() != Some("137") {
        bail!("iperf3 ended with {printed}");
    }
    Ok(())
}

/// A selftest as kernel developers write them, with a case that fails.
const NEW: &str = r#"#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0

from lib.py import ksft_run, ksft_exit, ksft_eq
from lib.py import NetDrvEpEnv
from lib.py import cmd


def test_new(cfg) -> None:
    """The port has the driver that it should have."""
    driver = cmd(f"ethtool -i {cfg.ifname}").stdout.splitlines()[0]
    ksft_eq(driver, "driver: zcnic")


def test_that_fails(cfg) -> None:
    """Does what its name says."""
    ksft_eq(cfg.ifname, "none")


def main() -> None:
    """Ksft boiler plate main"""
    with NetDrvEpEnv(__file__) as cfg:
        ksft_run([test_new, test_that_fails], args=(cfg, ))
    ksft_exit()


if __name__ == "__main__":
    main()
"#;

/// Adds a program to a copy of Debian's selftests, and runs its good case three times in one guest.
/// The other case would end that guest.
fn new_selftest(setup: &Setup) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let selftests = directory.path().join("selftests");
    run_command(
        host::command("cp")
            .arg("-a")
            .arg(debian_source(&setup.cache)?.join(PLACE))
            .arg(&selftests),
    )?;
    let program = selftests.join("drivers/net/hw/zz_new.py");
    fs::write(&program, NEW)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;

    let kselftest = |words: &[&str]| {
        let mut command = paths::this_program();
        command.args(["kselftest", "--selftests"]).arg(&selftests);
        command.args(setup.arguments()).args(words);
        command
    };
    let report = directory.path().join("report.json");
    let path = report.to_str().context("a path that is no text")?;
    run_command(&mut kselftest(&[
        "--repeat=3",
        "--shuffle=1",
        "--report",
        path,
        "zz_new.py:test_new",
    ]))?;
    let report: Value = serde_json::from_str(&fs::read_to_string(&report)?)?;
    let cases = report["cases"].as_array().context("no cases")?;
    let as_wanted = cases.len() == 3
        && cases
            .iter()
            .all(|case| case["name"] == "zz_new.py:test_new" && case["outcome"] == "pass");
    expect(as_wanted && report["boots"] == 1, || {
        format!("the report is {report:#}")
    })?;

    let unknown = output(&mut kselftest(&["zz_new.py:test_old"]))?;
    let stderr = String::from_utf8_lossy(&unknown.stderr);
    let line = "zz_new.py has no case test_old; it has test_new, test_that_fails";
    expect(!unknown.status.success() && stderr.contains(line), || {
        format!("an unknown case ends with\n{stderr}")
    })
}
