//! Properties that the kernel's selftests rely on. Without them a selftest fails once in a hundred
//! runs, with an unclear message.

use anyhow::{Result, bail};
use zcnic_testbed::{agent::Exec, guest::Guest as Machine};

use super::test::{Kind::Zcnic, Run::Guest, Test, expect};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "flow rules: a second rule for the same frames is refused, and a rule is deleted once",
        run: Guest(Zcnic, one_owner_of_a_rule),
    },
    Test {
        name: "iperf3: a hanging server ends on SIGTERM",
        run: Guest(Zcnic, iperf3_that_hangs),
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
