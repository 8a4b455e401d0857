//! Backends that die, guests that stop, links that are lost: the configuration is restored without
//! help.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use zcnic_testbed::{agent::Exec, guest::Guest as Machine};

use super::{
    ethtool::statistic,
    test::{Kind::Zcnic, Run::Guest, Test, expect},
    traffic::{self, LinkWatch},
};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "recovery: the backend is killed under traffic and started again",
        run: Guest(Zcnic, backend_killed),
    },
    Test {
        name: "recovery: of two commands around a restart the second is STALE",
        run: Guest(Zcnic, second_command_is_stale),
    },
    Test {
        name: "recovery: QEMU is stopped and continued under traffic",
        run: Guest(Zcnic, stopped),
    },
    Test {
        name: "recovery: set_link off and on under traffic",
        run: Guest(Zcnic, set_link),
    },
    Test {
        name: "recovery: a provider's ring is closed without a backend, which then comes back",
        run: Guest(Zcnic, closed_then_restarted),
    },
    Test {
        name: "recovery: a provider's ring is closed without a backend, which stays away",
        run: Guest(Zcnic, closed_for_good),
    },
    Test {
        name: "recovery: features that the device does not offer any more are off until it does",
        run: Guest(Zcnic, fewer_features),
    },
];

/// Fails if a process of the guest, kernel threads included, stays in uninterruptible sleep.
fn nothing_hangs(guest: &mut Machine) -> Result<()> {
    // A process that closes a ring waits there for a short time; no event reports its end.
    let script = "for attempt in $(seq 100); do \
                      hung=$(ps -eo stat=,pid=,args= | grep '^D' || true); \
                      [ -z \"$hung\" ] && break; \
                      sleep 0.1; \
                  done; echo \"$hung\"";
    let hung = guest.sh(script)?;
    expect(hung.trim().is_empty(), || format!("processes hang: {hung}"))
}

fn backend_killed(guest: &mut Machine) -> Result<()> {
    let (mut flow, _) = traffic::endless_zero_copy(guest)?;
    let mut link = LinkWatch::start(guest)?;
    for round in 1..=2 {
        guest.kill_backend()?;
        link.down()?;
        flow.wait_for_stall()?;
        guest.restart_backend()?;
        let counter = traffic::count(guest)?;
        link.up()?;
        flow.wait_for_progress()
            .with_context(|| format!("after restart {round}"))?;
        // The new backend knows the queue from the replay alone.
        traffic::only_split_on_the_queue(&counter)?;
    }
    traffic::nothing_copied(&flow.stop()?)?;
    nothing_hangs(guest)
}

/// The backend is exchanged while the guest's processors are stopped, so that the driver's next
/// command has an old session: no link change warned the driver.
fn second_command_is_stale(guest: &mut Machine) -> Result<()> {
    guest.sh("ethtool -X eth0 equal 2")?;
    let before = statistic(guest, "device_commands_refused")?;
    guest.qmp().execute("stop", &json!({}))?;
    guest.kill_backend()?;
    guest.restart_backend()?;
    connected(guest)?;
    guest.qmp().execute("cont", &json!({}))?;
    // Eth0 answers only after the driver's replay.
    traffic::wait_for_answer(guest)?;
    let refused = statistic(guest, "device_commands_refused")? - before;
    expect(refused == 1, || {
        format!("the new backend refused {refused} commands, not one")
    })?;
    nothing_hangs(guest)
}

/// Waits until QEMU has connected both ports to the new backend.
fn connected(guest: &Machine) -> Result<()> {
    let control = guest.control()?;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let status: Status = control.ask(&["status"])?;
        let ports = &status.ports;
        if ports.len() == 2 && ports.iter().all(|port| port.connected) {
            return Ok(());
        }
        expect(Instant::now() < deadline, || {
            format!("QEMU does not connect to the new backend: {status:?}")
        })?;
        // The control socket has no event for it.
        thread::sleep(Duration::from_millis(50));
    }
}

/// The part of `zcnicctl status`'s answer that is read.
#[derive(Debug, Deserialize)]
struct Status {
    ports: Vec<PortStatus>,
}

#[derive(Debug, Deserialize)]
struct PortStatus {
    connected: bool,
}

fn stopped(guest: &mut Machine) -> Result<()> {
    let (mut flow, counter) = traffic::endless_zero_copy(guest)?;
    let sessions = sessions(guest);
    for _ in 0..3 {
        guest.qmp().execute("stop", &json!({}))?;
        let state: Value = guest.qmp().execute("query-status", &json!({}))?;
        expect(state["running"] == false, || format!("QEMU is {state}"))?;
        guest.qmp().execute("cont", &json!({}))?;
        flow.wait_for_progress()?;
    }
    traffic::nothing_copied(&flow.stop()?)?;
    traffic::only_split_on_the_queue(&counter)?;
    same_session(guest, sessions)
}

fn set_link(guest: &mut Machine) -> Result<()> {
    let (mut flow, counter) = traffic::endless_zero_copy(guest)?;
    let mut link = LinkWatch::start(guest)?;
    let sessions = sessions(guest);
    for _ in 0..2 {
        let mut switch = |up: bool| {
            let arguments = json!({"name": "nic0", "up": up});
            guest.qmp().execute("set_link", &arguments).map(drop)
        };
        switch(false)?;
        link.down()?;
        flow.wait_for_stall()?;
        switch(true)?;
        link.up()?;
        flow.wait_for_progress()?;
    }
    traffic::nothing_copied(&flow.stop()?)?;
    traffic::only_split_on_the_queue(&counter)?;
    same_session(guest, sessions)
}

/// Returns the number of sessions that the backend has begun, by its log.
fn sessions(guest: &Machine) -> usize {
    guest.backend_log().matches("session").count()
}

fn same_session(guest: &Machine, before: usize) -> Result<()> {
    let after = sessions(guest);
    expect(after == before, || {
        format!("a session ended:\n{}", guest.backend_log())
    })
}

/// Kills the backend of a bound provider under traffic, and closes the provider's ring.
fn close_without_backend(guest: &mut Machine) -> Result<LinkWatch> {
    let (mut flow, _) = traffic::endless_zero_copy(guest)?;
    let mut link = LinkWatch::start(guest)?;
    guest.kill_backend()?;
    link.down()?;
    flow.wait_for_stall()?;
    flow.abort().context("close the ring without a backend")?;
    nothing_hangs(guest)?;
    Ok(link)
}

/// Streams again with a new backend.
fn works_again(guest: &mut Machine, mut link: LinkWatch) -> Result<()> {
    guest.restart_backend()?;
    link.up()?;
    traffic::wait_for_answer(guest)?;
    guest.sh("ethtool -n eth0 | sed -n 's/^Filter: //p' | xargs -r -n1 ethtool -N eth0 delete")?;
    let (flow, counter) = traffic::zero_copy(guest, 64 << 20)?;
    traffic::nothing_copied(&flow.finish()?)?;
    traffic::only_split_on_the_queue(&counter)
}

fn closed_then_restarted(guest: &mut Machine) -> Result<()> {
    let link = close_without_backend(guest)?;
    works_again(guest, link)
}

fn closed_for_good(guest: &mut Machine) -> Result<()> {
    // If a frame was lost before the backend died, the closed socket keeps the data behind it until
    // the kernel gives up sending its FIN: after nearly two minutes by default (tcp_write_timeout,
    // net/ipv4/tcp_timer.c).
    guest.sh("sysctl -qw net.ipv4.tcp_orphan_retries=1")?;
    let link = close_without_backend(guest)?;
    // Chains that no backend returns cost a device reset after ten seconds; then no page may be
    // missing.
    let gate = ["zcnic-guest", "check", "--wait", "30"];
    let gate = guest.run(&Exec::new(gate))?;
    expect(!gate.stdout.contains("page pool"), || gate.stdout)?;
    guest.sh("sysctl -qw net.ipv4.tcp_orphan_retries=0")?;
    works_again(guest, link)
}

/// Makes the device offer these features and begin a new session. Returns whether hardware GRO is
/// on then.
fn offer(guest: &mut Machine, features: &str) -> Result<bool> {
    guest.sh(&format!(
        "zcnicctl --port 0 features --offer {features}; zcnicctl --port 0 reset"
    ))?;
    traffic::wait_for_answer(guest)?;
    let features = guest.sh("ethtool -k eth0")?;
    let mut features = features.lines().map(str::trim);
    Ok(features.any(|line| line.starts_with("rx-gro-hw: on")))
}

fn fewer_features(guest: &mut Machine) -> Result<()> {
    guest.sh("ethtool -K eth0 rx-gro-hw on; ethtool -C eth0 rx-usecs 20")?;
    expect(offer(guest, "all")?, || "no GRO at first".to_owned())?;
    let few = "rx-csum,tx-csum,rx-hash,split,rules,rss-contexts,rss-symmetric";
    expect(!offer(guest, few)?, || "GRO that is not offered".to_owned())?;
    let coalesce = Exec::new(["ethtool", "-C", "eth0", "rx-usecs", "30"]);
    expect(!guest.run(&coalesce)?.status.success(), || {
        "interrupt moderation is accepted that is not offered".to_owned()
    })?;
    let (flow, counter) = traffic::zero_copy(guest, 16 << 20)?;
    traffic::nothing_copied(&flow.finish()?)?;
    traffic::only_split_on_the_queue(&counter)?;
    expect(offer(guest, "all")?, || "no GRO any more".to_owned())?;
    guest.check(&coalesce).map(drop)
}
