//! Faults of the whole port, in the middle of a zero-copy stream.

use anyhow::{Result, ensure};
use zcnic_ctl::FaultId;

use super::super::case::{
    ANY,
    Check::{Script, Stream},
    Counted, FaultCase, nth,
};
use crate::fixture::{
    lab::{Lab, MUCH, carrier_changes},
    traffic::{self, How::ZeroCopy},
};

/// On a read of the device's counters, which the driver does every two seconds and for `ethtool
/// -S`.
macro_rules! with_stats {
    ($action:literal) => {
        concat!(
            r#"{"direction":"command","opcode":"stats","nth":1,"action":"#,
            $action,
            "}"
        )
    };
}

const SAME_SESSION: &[Counted] = &[Counted("sessions", 0, 0), Counted("resets", 0, 0)];
const NEW_SESSION: &[Counted] = &[Counted("sessions", 1, ANY), Counted("resets", 0, 0)];

pub(super) const CASES: &[FaultCase] = &[
    FaultCase::new(
        "link-flap, rx: the carrier is lost for a second, and the stream continues",
        "0",
        nth!("1000", "rx", r#"{"link-flap":{"nanoseconds":1000000000}}"#),
        Script(carrier_lost),
    )
    .counts(SAME_SESSION),
    FaultCase::new(
        "link-flap, tx: the carrier is lost for a second, and the stream continues",
        "1",
        nth!("1000", "tx", r#"{"link-flap":{"nanoseconds":1000000000}}"#),
        Script(carrier_lost),
    )
    .counts(SAME_SESSION),
    FaultCase::new(
        "link-flap, command: the carrier is lost for a second, and the stream continues",
        "0",
        with_stats!(r#"{"link-flap":{"nanoseconds":1000000000}}"#),
        Script(carrier_lost),
    )
    .counts(SAME_SESSION),
    FaultCase::new(
        "device-reset, rx: a new session starts, and the stream continues",
        "0",
        nth!("1000", "rx", r#""device-reset""#),
        Stream(ZeroCopy),
    )
    .counts(NEW_SESSION),
    FaultCase::new(
        "device-reset, tx: a new session starts, and the stream continues",
        "1",
        nth!("1000", "tx", r#""device-reset""#),
        Stream(ZeroCopy),
    )
    .counts(NEW_SESSION),
    FaultCase::new(
        "device-reset, command: a new session starts, and the stream continues",
        "0",
        with_stats!(r#""device-reset""#),
        Script(with_a_command),
    )
    .counts(NEW_SESSION),
    FaultCase::new(
        "disconnect, rx: QEMU connects again, and the stream continues",
        "0",
        nth!("1000", "rx", r#""disconnect""#),
        Stream(ZeroCopy),
    )
    .counts(NEW_SESSION),
    FaultCase::new(
        "disconnect, tx: QEMU connects again, and the stream continues",
        "1",
        nth!("1000", "tx", r#""disconnect""#),
        Stream(ZeroCopy),
    )
    .counts(NEW_SESSION),
    FaultCase::new(
        "disconnect, command: QEMU connects again, and the stream continues",
        "0",
        with_stats!(r#""disconnect""#),
        Script(with_a_command),
    )
    .counts(NEW_SESSION),
];

fn with_a_command(lab: &mut Lab, id: FaultId) -> Result<()> {
    let flow = traffic::Stream::start(ZeroCopy, 4 * MUCH)?;
    lab.counters("0")?;
    lab.wait_for_hits(id, 1)?;
    flow.finish().map(drop)
}

fn carrier_lost(lab: &mut Lab, id: FaultId) -> Result<()> {
    let before = carrier_changes()?;
    let flow = traffic::Stream::start(ZeroCopy, MUCH)?;
    lab.wait_for_hits(id, 1)?;
    flow.finish()?;
    lab.recovered()?;
    let changes = carrier_changes()? - before;
    ensure!(changes >= 2, "the carrier changed {changes} times");
    Ok(())
}
