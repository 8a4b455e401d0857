//! Commands that fail or are not answered.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use zcnic_ctl::FaultId;

use super::super::case::{
    ANY,
    Check::{Script, Stream},
    Counted, FaultCase,
};
use crate::{
    fixture::{
        lab::{Lab, MUCH, carrier_changes},
        traffic::{self, How::ZeroCopy},
    },
    kit::net,
};

/// A rule for the answers to a command.
macro_rules! answer {
    ($opcode:literal, $times:literal, $action:literal) => {
        concat!(
            r#"{"direction":"command","opcode":""#,
            $opcode,
            r#"","times":"#,
            $times,
            r#","action":"#,
            $action,
            "}"
        )
    };
}

/// The driver starts one or more new sessions, and does not reset the device.
const NEW_SESSION: &[Counted] = &[Counted("sessions", 1, ANY), Counted("resets", 0, 0)];
/// It resets the device, which no longer answers.
const RESET: &[Counted] = &[Counted("sessions", 1, ANY), Counted("resets", 1, 3)];
const NO_REACTION: &[Counted] = &[Counted("sessions", 0, 0), Counted("resets", 0, 0)];

/// Longer than the driver waits for an answer, and shorter than twice that.
const PATIENCE: Duration = Duration::from_secs(9);

pub(super) const CASES: &[FaultCase] = &[
    FaultCase::new(
        "command-error, command: a refused flow rule is an error and is not added",
        "0",
        answer!(
            "rule-set",
            "1",
            r#"{"command-error":{"status":"no-space","detail":9}}"#
        ),
        Script(rule_refused),
    )
    .counts(NO_REACTION),
    FaultCase::new(
        "command-error, command: a refused indirection table is an error and is not set",
        "0",
        answer!("rss-set", "1", r#"{"command-error":{"status":"busy"}}"#),
        Script(table_refused),
    )
    .counts(NO_REACTION),
    FaultCase::new(
        "command-error, command: a queue that doesn't start for a provider starts in a new session",
        "0",
        answer!("rxq-start", "1", r#"{"command-error":{}}"#),
        Stream(ZeroCopy),
    )
    .counts(NEW_SESSION),
    FaultCase::new(
        "command-error, command: a queue that doesn't stop stops with the session",
        "0",
        answer!("rxq-stop", "2", r#"{"command-error":{"status":"busy"}}"#),
        Stream(ZeroCopy),
    )
    .counts(NEW_SESSION),
    FaultCase::new(
        "command-error, command: queues don't start when the interface comes up",
        "0",
        answer!("txq-start", "2", r#"{"command-error":{}}"#),
        Script(down_and_up),
    )
    .counts(NEW_SESSION),
    FaultCase::new(
        "command-error, command: queues don't stop when the interface goes down",
        "0",
        answer!("txq-stop", "2", r#"{"command-error":{}}"#),
        Script(down_and_up),
    )
    .counts(NEW_SESSION),
    FaultCase::new(
        "command-error, command: a queue doesn't start with a resized ring",
        "0",
        answer!(
            "rxq-start",
            "1",
            r#"{"command-error":{"status":"invalid"}}"#
        ),
        Script(other_rings),
    )
    .counts(NEW_SESSION),
    FaultCase::new(
        "command-error, command: HELLO is repeated until a session starts",
        "0",
        answer!("hello", "3", r#"{"command-error":{"status":"busy"}}"#),
        Script(reset_by_hand),
    )
    .counts(NEW_SESSION),
    FaultCase::new(
        "command-error, command: an incomplete replay is repeated",
        "0",
        answer!("offloads", "2", r#"{"command-error":{}}"#),
        Script(reset_by_hand),
    )
    .counts(&[Counted("sessions", 3, ANY), Counted("resets", 0, 0)]),
    FaultCase::new(
        "command-error, command: rules that are refused together are set one by one",
        "0",
        answer!(
            "rule-set",
            "1",
            r#"{"command-error":{"status":"no-space"}}"#
        ),
        Script(reset_by_hand),
    )
    .counts(NEW_SESSION),
    FaultCase::new(
        "command-error, command: a stale session is replaced by a new one",
        "0",
        answer!("stats", "1", r#"{"command-error":{"status":"stale"}}"#),
        Script(counters_asked_for),
    )
    .counts(NEW_SESSION),
    FaultCase::new(
        "command-error, command: STATUS and STATS that are refused change nothing",
        "0",
        answer!(
            "status",
            "2",
            r#"{"command-error":{"status":"unsupported"}}"#
        ),
        Script(status_refused),
    )
    .counts(NO_REACTION),
    FaultCase::new(
        "command-timeout, command: a command that was not executed causes a reset",
        "0",
        answer!("rule-set", "1", r#"{"command-timeout":{}}"#),
        Script(rule_unanswered),
    )
    .counts(RESET),
    FaultCase::new(
        "command-timeout, command: a command that was executed causes a reset, too",
        "0",
        answer!("rule-set", "1", r#"{"command-timeout":{"executed":true}}"#),
        Script(rule_unanswered),
    )
    .counts(RESET),
    FaultCase::new(
        "command-timeout, command: a late answer within the driver's time limit is accepted",
        "0",
        answer!(
            "rxq-start",
            "1",
            r#"{"command-timeout":{"executed":true,"nanoseconds":1500000000}}"#
        ),
        Stream(ZeroCopy),
    )
    .counts(NO_REACTION),
    FaultCase::new(
        "command-timeout, command: an empty answer means that the command was not executed",
        "0",
        answer!(
            "rxq-start",
            "1",
            r#"{"command-timeout":{"nanoseconds":1000000}}"#
        ),
        Stream(ZeroCopy),
    )
    .counts(NEW_SESSION),
    FaultCase::new(
        "command-timeout, command: a provider's queue does not start, and no answer comes",
        "0",
        answer!("rxq-start", "1", r#"{"command-timeout":{}}"#),
        Stream(ZeroCopy),
    )
    .counts(RESET),
    FaultCase::new(
        "command-timeout, command: a provider's queue does not stop, and no answer comes",
        "0",
        answer!("rxq-stop", "2", r#"{"command-timeout":{}}"#),
        Stream(ZeroCopy),
    )
    .counts(RESET),
    FaultCase::new(
        "command-timeout, command: an interface goes down and up without any answer",
        "0",
        r#"{"direction":"command","times":2,"action":{"command-timeout":{}}}"#,
        Script(down_and_up),
    )
    .counts(RESET),
    FaultCase::new(
        "command-timeout, command: an unanswered HELLO causes a reset",
        "0",
        answer!("hello", "1", r#"{"command-timeout":{}}"#),
        Script(reset_by_hand),
    )
    .counts(RESET),
];

fn counters_asked_for(lab: &mut Lab, id: FaultId) -> Result<()> {
    let flow = traffic::Stream::start(ZeroCopy, 4 * MUCH)?;
    lab.counters("0")?;
    lab.wait_for_hits(id, 1)?;
    flow.finish().map(drop)
}

fn rules() -> Result<String, net::Error> {
    net::run(None, &["ethtool", "-n", "eth0"])
}

const ADD: [&str; 9] = [
    "ethtool",
    "-N",
    "eth0",
    "flow-type",
    "udp4",
    "dst-port",
    "9",
    "action",
    "1",
];

fn rule_refused(_: &mut Lab, _: FaultId) -> Result<()> {
    let before = rules()?;
    let added = net::run(None, &ADD);
    ensure!(added.is_err(), "a rule that was refused was added");
    ensure!(
        rules()? == before,
        "the flow rules have changed: {}",
        rules()?
    );
    Ok(())
}

fn table_refused(_: &mut Lab, _: FaultId) -> Result<()> {
    let table = || net::run(None, &["ethtool", "-x", "eth0"]);
    let before = table()?;
    let set = net::set_rss_equal("eth0", 2);
    ensure!(set.is_err(), "a table that was refused was set");
    ensure!(table()? == before, "the table has changed: {}", table()?);
    Ok(())
}

/// A caller of a command without an answer holds RTNL no longer than the driver waits.
fn rule_unanswered(_: &mut Lab, _: FaultId) -> Result<()> {
    let started = Instant::now();
    let rule = std::thread::spawn(|| net::run(None, &ADD));
    net::run(None, &["ip", "link", "set", "eth0", "txqueuelen", "1000"])?;
    let added = rule.join();
    let took = started.elapsed();
    ensure!(took < PATIENCE, "RTNL was held for {took:?}");
    // The driver can't know whether it was executed, so it keeps the rule and replays it.
    if let Ok(Ok(output)) = added {
        let location = output.split_whitespace().last().unwrap_or_default();
        net::run(None, &["ethtool", "-N", "eth0", "delete", location])?;
    }
    Ok(())
}

fn down_and_up(_: &mut Lab, _: FaultId) -> Result<()> {
    for state in ["down", "up"] {
        net::run(None, &["ip", "link", "set", "eth0", state])?;
    }
    Ok(())
}

fn other_rings(_: &mut Lab, _: FaultId) -> Result<()> {
    for size in ["128", "512"] {
        net::run(None, &["ethtool", "-G", "eth0", "rx", size])?;
    }
    Ok(())
}

/// The reset causes a replay, whose commands the fault hits.
fn reset_by_hand(lab: &mut Lab, id: FaultId) -> Result<()> {
    let flow = traffic::Stream::start(ZeroCopy, 4 * MUCH)?;
    lab.control().reset("0")?;
    lab.wait_for_hits(id, 1)?;
    flow.finish().map(drop)
}

fn status_refused(lab: &mut Lab, id: FaultId) -> Result<()> {
    let before = carrier_changes()?;
    let stats = json!({"direction": "command", "opcode": "stats", "times": 2,
        "action": {"command-error": {}}});
    let stats = lab.arm("0", &stats)?;
    lab.wait_for_hits(id, 2)?;
    lab.wait_for_hits(stats, 2)?;
    ensure!(carrier_changes()? == before, "the link went down");
    Ok(())
}
