//! Properties that the kernel's selftests rely on. Without them a selftest fails once in a hundred
//! runs, with an unclear message.

use anyhow::{Result, bail};
use zcnic_testbed::{agent::Exec, guest::Guest as Machine};

use super::test::{Kind::Zcnic, Run::Guest, Test, expect};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "flow rules: a match that is added twice is one rule, which either may delete",
        run: Guest(Zcnic, two_owners_of_a_rule),
    },
    Test {
        name: "iperf3: a hanging server ends on SIGTERM",
        run: Guest(Zcnic, iperf3_that_hangs),
    },
];

fn two_owners_of_a_rule(guest: &mut Machine) -> Result<()> {
    let add = |guest: &mut Machine, action: u32| {
        // "Added rule with ID 1023"
        let printed = guest.sh(&format!(
            "ethtool -N eth0 flow-type tcp6 dst-port 9999 action {action}"
        ))?;
        let id = printed.split_whitespace().next_back().unwrap_or_default();
        anyhow::Ok(id.to_owned())
    };
    let (first, second) = (add(guest, 1)?, add(guest, 2)?);
    expect(first == second, || {
        format!("one match has the ids {first} and {second}")
    })?;
    let rules = guest.sh("ethtool -n eth0")?;
    expect(rules.contains("Action: Direct to queue 2"), || {
        format!("the rule was not replaced:\n{rules}")
    })?;
    guest.sh(&format!("ethtool -N eth0 delete {first}"))?;
    let rules = guest.sh("ethtool -n eth0")?;
    expect(rules.contains("Total 0 rules"), || {
        format!("the rule was not deleted:\n{rules}")
    })?;
    guest.sh(&format!("ethtool -N eth0 delete {second}"))?;
    for unused in [first.as_str(), "7"] {
        let delete = Exec::shell(&format!("ethtool -N eth0 delete {unused}"));
        expect(!guest.run(&delete)?.status.success(), || {
            format!("rule {unused}, which does not exist, can be deleted")
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
