//! The driver where ordinary traffic does not lead: queues that go while they are full or under
//! traffic, settings of the user that outlive resets, a guest that sleeps.

use std::time::Duration;

use anyhow::{Context, Result};
use zcnic_testbed::{agent::Exec, guest::Guest as Machine, stream::Flow};

use super::{
    ethtool::statistic,
    test::{
        Kind::Zcnic,
        Run::{Guest, Program},
        Test, expect,
    },
    traffic::{self, ENDLESS, LinkWatch},
};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "sleep: the guest is suspended and hibernated under traffic, as far as devices go",
        run: Guest(Zcnic, asleep),
    },
    Test {
        name: "edges: waiting sockets, short frames, netpoll and deferred completions",
        run: Program(Zcnic, &["edges"]),
    },
    Test {
        name: "edges: channels come and go under traffic with RPS",
        run: Guest(Zcnic, channels_with_rps),
    },
    Test {
        name: "edges: a queue that is full when it goes does not count as stuck",
        run: Guest(Zcnic, full_queue_goes),
    },
    Test {
        name: "edges: the user's choice of processors outlives resets of queues",
        run: Guest(Zcnic, processors),
    },
    Test {
        name: "edges: flow rules that went with ntuple can't be deleted",
        run: Guest(Zcnic, rules_without_ntuple),
    },
];

/// Time for the guest to go to sleep and wake up. Under emulation the kernel takes its time.
const SLEEP_LIMIT: Duration = Duration::from_secs(240);

/// Has the guest's kernel go to sleep as far as its devices do (`pm_test`), and wake up five
/// seconds later. Returns whether the kernel can do that.
pub(super) fn sleep(guest: &mut Machine, state: &str) -> Result<bool> {
    let can = format!("[ -e /sys/power/pm_test ] && grep -qw {state} /sys/power/state");
    if !guest.run(&Exec::new(["sh", "-c", &can]))?.status.success() {
        return Ok(false);
    }
    let script = format!(
        "echo devices > /sys/power/pm_test && echo {state} > /sys/power/state; \
         result=$?; echo none > /sys/power/pm_test; exit $result"
    );
    let command = Exec::new(["sh", "-c", &script]).timeout(SLEEP_LIMIT);
    guest.check(&command).context("the guest does not sleep")?;
    Ok(true)
}

/// The affinity of eth0's two interrupts of queue 1, and the processors that send on it.
const CHOICE: &str = "device=$(basename $(readlink /sys/class/net/eth0/device)); \
     for ring in rx1 tx1; do \
         irq=$(awk -v name=$device-$ring '$NF == name { sub(\":\", \"\", $1); print $1 }' \
             /proc/interrupts); \
         CHANGE; cat /proc/irq/$irq/smp_affinity_list; \
     done; cat /sys/class/net/eth0/queues/tx-1/xps_cpus";

fn choose_processors(guest: &mut Machine) -> Result<String> {
    let choose = CHOICE.replace("CHANGE", "echo 2 > /proc/irq/$irq/smp_affinity_list");
    guest.sh("echo 5 > /sys/class/net/eth0/queues/tx-1/xps_cpus")?;
    let chosen = guest.sh(&choose)?;
    expect(chosen == "2\n2\n5\n", || format!("chosen: {chosen:?}"))?;
    Ok(chosen)
}

fn same_processors(guest: &mut Machine, chosen: &str, after: &str) -> Result<()> {
    let now = guest.sh(&CHOICE.replace("CHANGE", ":"))?;
    expect(now == chosen, || {
        format!("after {after}: {now:?}, not {chosen:?}")
    })
}

fn asleep(guest: &mut Machine) -> Result<()> {
    let (mut flow, _) = traffic::endless_zero_copy(guest)?;
    let chosen = choose_processors(guest)?;
    for state in ["mem", "disk"] {
        let mut link = LinkWatch::start(guest)?;
        let sessions = statistic(guest, "sessions")?;
        if !sleep(guest, state)? {
            continue;
        }
        link.up()?;
        let counter = traffic::count(guest)?;
        flow.wait_for_progress()
            .with_context(|| format!("after {state}"))?;
        traffic::only_split_on_the_queue(&counter)?;
        let now = statistic(guest, "sessions")?;
        expect(now == sessions + 1, || {
            format!("{} sessions for one sleep ({state})", now - sessions)
        })?;
        same_processors(guest, &chosen, state)?;
    }
    traffic::nothing_copied(&flow.stop()?)?;
    let resets = statistic(guest, "resets")?;
    expect(resets == 0, || format!("{resets} resets of the device"))
}

fn channels_with_rps(guest: &mut Machine) -> Result<()> {
    // The ports differ, and with them most likely the queues.
    let mut flows = (5001..5005)
        .map(|port| Flow::start(guest, port, ENDLESS, &["--plain"]))
        .collect::<Result<Vec<_>>>()?;
    for flow in &mut flows {
        flow.wait_for_progress()?;
    }
    guest.sh("for round in $(seq 12); do
             for queue in /sys/class/net/eth0/queues/rx-*; do echo f > $queue/rps_cpus; done
             ethtool -L eth0 combined 2; sleep 0.1; ethtool -L eth0 combined 4; sleep 0.1
         done")?;
    for flow in &mut flows {
        flow.wait_for_progress().context("after the changes")?;
    }
    // The gate finds the core's warning of frames on queues that it does not know.
    flows.into_iter().try_for_each(|flow| flow.stop().map(drop))
}

fn full_queue_goes(guest: &mut Machine) -> Result<()> {
    guest.sh("ping -q -c 1 192.0.2.2; ethtool -G eth0 tx 32")?;
    guest.sh("zcnicctl --port 0 fault add tx stall --queue 3")?;
    // XPS has processor 3 send on queue 3; the ring has room for six frames.
    guest.sh(
        "taskset -c 3 ping -q -i 0.01 -c 40 -W 1 192.0.2.2 || true; \
              ethtool -L eth0 combined 2",
    )?;
    let resets = statistic(guest, "resets")?;
    // The core looks for stopped queues every ten seconds; the gate finds what it then logs.
    guest.sh("zcnicctl --port 0 fault remove --all; sleep 21")?;
    let now = statistic(guest, "resets")?;
    expect(now == resets, || format!("{} resets", now - resets))?;
    guest
        .sh("ethtool -L eth0 combined 4; taskset -c 3 ping -q -c 2 192.0.2.2")
        .map(drop)
}

fn processors(guest: &mut Machine) -> Result<()> {
    let chosen = choose_processors(guest)?;
    for change in [
        "ip link set eth0 down; ip link set eth0 up",
        "ethtool -L eth0 combined 2; ethtool -L eth0 combined 4",
    ] {
        guest.sh(change)?;
        same_processors(guest, &chosen, change)?;
    }
    traffic::wait_for_answer(guest)
}

fn rules_without_ntuple(guest: &mut Machine) -> Result<()> {
    guest.sh(
        "ethtool -N eth0 flow-type tcp4 dst-port 99 action 1 loc 5; \
              ethtool -K eth0 ntuple off",
    )?;
    for state in ["off", "on"] {
        guest.sh(&format!("ethtool -K eth0 ntuple {state}"))?;
        let delete = Exec::new(["ethtool", "-N", "eth0", "delete", "5"]);
        for attempt in 1..=2 {
            expect(!guest.run(&delete)?.status.success(), || {
                format!("attempt {attempt} with ntuple {state} deletes a rule that is gone")
            })?;
        }
    }
    Ok(())
}
