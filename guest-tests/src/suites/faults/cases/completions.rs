//! Wrong elements of used rings, stalled queues, lost interrupts. The driver resets the device when
//! it can't trust a ring any more; the provider stays bound.

use std::time::Duration;

use anyhow::{Result, ensure};
use zcnic_ctl::FaultId;

use super::super::case::{
    Check::{Script, Stream},
    Counted, FaultCase, nth,
};
use crate::fixture::{
    lab::{Lab, MUCH},
    traffic::{self, How::ZeroCopy},
};

const ONE_RESET: &[Counted] = &[Counted("resets", 1, 1)];
const NO_RESET: &[Counted] = &[Counted("resets", 0, 0), Counted("sessions", 0, 0)];

pub(super) const CASES: &[FaultCase] = &[
    FaultCase::new(
        "descriptor-error, rx: a buffer that is returned unused is posted again",
        "0",
        r#"{"direction":"rx","queue":3,"every":10,"times":100,"action":"descriptor-error"}"#,
        Stream(ZeroCopy),
    )
    .counts(&[Counted("rx_returned", 100, 100), Counted("resets", 0, 0)]),
    FaultCase::new(
        "descriptor-error, tx: frames that were not sent are counted and sent again",
        "1",
        r#"{"direction":"tx","match":{"protocol":"tcp"},"every":100,"times":5,
            "action":"descriptor-error"}"#,
        Stream(ZeroCopy),
    )
    .counts(&[Counted("device_tx_errors", 5, 20), Counted("resets", 0, 0)]),
    FaultCase::new(
        "bad-used-id, rx: the device is reset, the provider stays",
        "0",
        nth!("100", "rx", r#"{"bad-used-id":{}}"#),
        Stream(ZeroCopy),
    )
    .counts(ONE_RESET),
    FaultCase::new(
        "bad-used-id, rx: an id far beyond the ring causes a reset",
        "0",
        nth!("100", "rx", r#"{"bad-used-id":{"beyond":4294960000}}"#),
        Stream(ZeroCopy),
    )
    .counts(ONE_RESET),
    FaultCase::new(
        "bad-used-id, rx: repeated errors reset the device once a second at most",
        "0",
        r#"{"direction":"rx","queue":3,"every":1000,"times":3,"action":{"bad-used-id":{}}}"#,
        Stream(ZeroCopy),
    )
    .counts(&[Counted("resets", 3, 3)]),
    FaultCase::new(
        "bad-used-id, tx: the device is reset",
        "1",
        nth!("100", "tx", r#"{"bad-used-id":{}}"#),
        Stream(ZeroCopy),
    )
    .counts(ONE_RESET),
    FaultCase::new(
        "duplicate-completion, rx: no buffer is taken twice, the device is reset",
        "0",
        nth!("100", "rx", r#""duplicate-completion""#),
        Stream(ZeroCopy),
    )
    .counts(ONE_RESET),
    FaultCase::new(
        "duplicate-completion, tx: no frame is freed twice, the device is reset",
        "1",
        nth!("100", "tx", r#""duplicate-completion""#),
        Stream(ZeroCopy),
    )
    .counts(ONE_RESET),
    FaultCase::new(
        "withhold-completion, rx: the next completion is detected as out of order",
        "0",
        nth!("100", "rx", r#"{"withhold-completion":{}}"#),
        Stream(ZeroCopy),
    )
    .counts(&[Counted("rx_misordered", 1, 1), Counted("resets", 1, 1)]),
    FaultCase::new(
        "withhold-completion, rx: a completion behind three others is detected as out of order",
        "0",
        nth!("100", "rx", r#"{"withhold-completion":{"frames":3}}"#),
        Stream(ZeroCopy),
    )
    .counts(&[Counted("rx_misordered", 1, 1), Counted("resets", 1, 1)]),
    FaultCase::new(
        "withhold-completion, tx: the next completion is detected as out of order",
        "1",
        nth!("100", "tx", r#"{"withhold-completion":{}}"#),
        Stream(ZeroCopy),
    )
    .counts(&[Counted("tx_misordered", 1, 1), Counted("resets", 1, 1)]),
    FaultCase::new(
        "stall, rx: a stream waits for a queue that is stalled for two seconds",
        "0",
        nth!("100", "rx", r#"{"stall":{"nanoseconds":2000000000}}"#),
        Stream(ZeroCopy),
    )
    .counts(NO_RESET),
    FaultCase::new(
        "stall, rx: a stream waits for a queue that is stalled until the rule is removed",
        "0",
        nth!("100", "rx", r#"{"stall":{}}"#),
        Script(stall_until_disarmed),
    )
    .counts(NO_RESET),
    FaultCase::new(
        "stall, tx: a stream waits for a queue that is stalled for two seconds",
        "1",
        nth!("100", "tx", r#"{"stall":{"nanoseconds":2000000000}}"#),
        Stream(ZeroCopy),
    )
    .counts(NO_RESET),
    FaultCase::new(
        "stall, tx: a queue that is stalled for good causes a reset",
        "1",
        nth!("100", "tx", r#"{"stall":{}}"#),
        Stream(ZeroCopy),
    )
    .counts(ONE_RESET),
    FaultCase::new(
        "lost-interrupt, rx: a frame without an interrupt is found",
        "0",
        r#"{"direction":"rx","match":{"protocol":"udp","destination-port":4435},"nth":1,
            "action":"lost-interrupt"}"#,
        Script(found),
    )
    .counts(&[Counted("rx_lost_interrupts", 1, 2), Counted("resets", 0, 0)]),
    FaultCase::new(
        "lost-interrupt, tx: a completion without an interrupt is found",
        "1",
        r#"{"direction":"tx","match":{"protocol":"udp","destination-port":4435},"nth":1,
            "action":"lost-interrupt"}"#,
        Script(found),
    )
    .counts(&[Counted("rx_lost_interrupts", 1, 2), Counted("resets", 0, 0)]),
    FaultCase::new(
        "lost-interrupt, rx: a stream continues after each lost interrupt",
        "0",
        r#"{"direction":"rx","queue":3,"every":200,"times":5,"action":"lost-interrupt"}"#,
        Stream(ZeroCopy),
    )
    .counts(&[
        Counted("rx_lost_interrupts", 0, 10),
        Counted("resets", 0, 0),
    ]),
    FaultCase::new(
        "spurious-interrupt, rx: it has no effect",
        "0",
        r#"{"direction":"rx","every":10,"action":"spurious-interrupt"}"#,
        Stream(ZeroCopy),
    )
    .counts(NO_RESET),
    FaultCase::new(
        "spurious-interrupt, tx: it has no effect",
        "1",
        r#"{"direction":"tx","every":10,"action":"spurious-interrupt"}"#,
        Stream(ZeroCopy),
    )
    .counts(NO_RESET),
];

fn stall_until_disarmed(lab: &mut Lab, id: FaultId) -> Result<()> {
    let flow = traffic::Stream::start(ZeroCopy, MUCH)?;
    lab.wait_for_hits(id, 1)?;
    flow.wait_for_stall()?;
    lab.disarm()?;
    flow.finish().map(drop)
}

/// Long enough for the driver's periodic check of its rings.
const LOOK: Duration = Duration::from_secs(5);

fn found(_: &mut Lab, _: FaultId) -> Result<()> {
    let arrived = traffic::datagrams(1, LOOK)?;
    ensure!(arrived == [1], "these datagrams arrived: {arrived:?}");
    Ok(())
}
