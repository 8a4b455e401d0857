//! Used rings with wrong elements, queues that stand still, interrupts that get lost. A ring that can't be
//! trusted any more costs a reset of the device, with the provider bound.

use std::time::Duration;

use anyhow::{Result, ensure};

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
        "descriptor-error, rx: a buffer that comes back unused is posted again",
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
        "bad-used-id, rx: far beyond the ring",
        "0",
        nth!("100", "rx", r#"{"bad-used-id":{"beyond":4294960000}}"#),
        Stream(ZeroCopy),
    )
    .counts(ONE_RESET),
    FaultCase::new(
        "bad-used-id, rx: again and again, the device is reset once a second at most",
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
        "withhold-completion, rx: the next completion is not the one that is due",
        "0",
        nth!("100", "rx", r#"{"withhold-completion":{}}"#),
        Stream(ZeroCopy),
    )
    .counts(&[Counted("rx_misordered", 1, 1), Counted("resets", 1, 1)]),
    FaultCase::new(
        "withhold-completion, rx: behind three others, which is too late as well",
        "0",
        nth!("100", "rx", r#"{"withhold-completion":{"frames":3}}"#),
        Stream(ZeroCopy),
    )
    .counts(&[Counted("rx_misordered", 1, 1), Counted("resets", 1, 1)]),
    FaultCase::new(
        "withhold-completion, tx: the next completion is not the one that is due",
        "1",
        nth!("100", "tx", r#"{"withhold-completion":{}}"#),
        Stream(ZeroCopy),
    )
    .counts(&[Counted("tx_misordered", 1, 1), Counted("resets", 1, 1)]),
    FaultCase::new(
        "stall, rx: a stream waits for a queue that stands still for two seconds",
        "0",
        nth!("100", "rx", r#"{"stall":{"nanoseconds":2000000000}}"#),
        Stream(ZeroCopy),
    )
    .counts(NO_RESET),
    FaultCase::new(
        "stall, rx: and for one that stands still until somebody mends it",
        "0",
        nth!("100", "rx", r#"{"stall":{}}"#),
        Script(mended),
    )
    .counts(NO_RESET),
    FaultCase::new(
        "stall, tx: a stream waits for a queue that stands still for two seconds",
        "1",
        nth!("100", "tx", r#"{"stall":{"nanoseconds":2000000000}}"#),
        Stream(ZeroCopy),
    )
    .counts(NO_RESET),
    FaultCase::new(
        "stall, tx: a queue that stands still for good costs a reset",
        "1",
        nth!("100", "tx", r#"{"stall":{}}"#),
        Stream(ZeroCopy),
    )
    .counts(ONE_RESET),
    FaultCase::new(
        "lost-interrupt, rx: what nobody was told of is found",
        "0",
        r#"{"direction":"rx","match":{"protocol":"udp","destination-port":4435},"nth":1,
            "action":"lost-interrupt"}"#,
        Script(found),
    )
    .counts(&[Counted("rx_lost_interrupts", 1, 2), Counted("resets", 0, 0)]),
    FaultCase::new(
        "lost-interrupt, tx: what nobody was told of is found",
        "1",
        r#"{"direction":"tx","match":{"protocol":"udp","destination-port":4435},"nth":1,
            "action":"lost-interrupt"}"#,
        Script(found),
    )
    .counts(&[Counted("rx_lost_interrupts", 1, 2), Counted("resets", 0, 0)]),
    FaultCase::new(
        "lost-interrupt, rx: a stream goes on whenever one is lost",
        "0",
        r#"{"direction":"rx","queue":3,"every":200,"times":5,"action":"lost-interrupt"}"#,
        Stream(ZeroCopy),
    )
    .counts(&[
        Counted("rx_lost_interrupts", 0, 10),
        Counted("resets", 0, 0),
    ]),
    FaultCase::new(
        "spurious-interrupt, rx: nothing comes of it",
        "0",
        r#"{"direction":"rx","every":10,"action":"spurious-interrupt"}"#,
        Stream(ZeroCopy),
    )
    .counts(NO_RESET),
    FaultCase::new(
        "spurious-interrupt, tx: nothing comes of it",
        "1",
        r#"{"direction":"tx","every":10,"action":"spurious-interrupt"}"#,
        Stream(ZeroCopy),
    )
    .counts(NO_RESET),
];

fn mended(lab: &mut Lab, id: u64) -> Result<()> {
    let flow = traffic::Stream::start(ZeroCopy, MUCH)?;
    lab.wait_for_hits(id, 1)?;
    flow.wait_for_stall()?;
    lab.disarm()?;
    flow.finish().map(drop)
}

/// Long enough for the driver to look after its rings.
const LOOK: Duration = Duration::from_secs(5);

fn found(_: &mut Lab, _: u64) -> Result<()> {
    let arrived = traffic::datagrams(1, LOOK)?;
    ensure!(arrived == [1], "these datagrams arrived: {arrived:?}");
    Ok(())
}
