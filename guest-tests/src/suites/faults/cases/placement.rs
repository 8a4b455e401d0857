//! Frames that are misplaced or wrongly described, on a queue with a provider's memory.

use anyhow::{Result, ensure};
use serde_json::json;
use zcnic_ctl::FaultId;

use super::super::case::{
    ANY,
    Check::{Copied, Script, Stream},
    Counted, FaultCase,
};
use crate::fixture::{
    lab::{Lab, MUCH, plain_port},
    traffic::{
        self,
        How::{Plain, ZeroCopy},
        ZERO_COPY,
    },
};

/// Five frames of the queue that receives by zero copy.
macro_rules! five {
    ($action:literal) => {
        concat!(
            r#"{"direction":"rx","queue":3,"every":100,"times":5,"action":"#,
            $action,
            "}"
        )
    };
}

/// Frames that arrive while the queue stops are dropped as well.
const A_FEW_MORE: u64 = 10;

pub(super) const CASES: &[FaultCase] = &[
    FaultCase::new(
        "short-buffer, rx: frames whose lengths disagree are dropped and counted",
        "0",
        five!(r#"{"short-buffer":{"bytes":5}}"#),
        Stream(ZeroCopy),
    )
    .counts(&[Counted("rx_bad_header", 5, 5), Counted("resets", 0, 0)]),
    FaultCase::new(
        "short-buffer, rx: a used length below that of the receive header is dropped and counted",
        "0",
        five!(r#"{"short-buffer":{"bytes":1500}}"#),
        Stream(ZeroCopy),
    )
    .counts(&[Counted("rx_bad_header", 5, 5)]),
    FaultCase::new(
        "split-missed, rx: frames without headers to read are dropped and counted",
        "0",
        five!(r#""split-missed""#),
        Stream(ZeroCopy),
    )
    .counts(&[Counted("rx_bad_header", 5, 5)]),
    FaultCase::new(
        "split-wrong, rx: in the Ethernet header, frames are dropped and counted",
        "0",
        five!(r#"{"split-wrong":{"at":6}}"#),
        Stream(ZeroCopy),
    )
    .counts(&[Counted("rx_bad_header", 5, 5)]),
    FaultCase::new(
        "split-wrong, rx: in the IP header, where the stack can't read on, frames are dropped and counted",
        "0",
        five!(r#"{"split-wrong":{"at":20}}"#),
        Stream(ZeroCopy),
    )
    .counts(&[Counted("rx_unreadable", 5, A_FEW_MORE)]),
    FaultCase::new(
        "split-wrong, rx: in TCP's options, where the stack can't read on, frames are dropped and counted",
        "0",
        five!(r#"{"split-wrong":{"at":60}}"#),
        Stream(ZeroCopy),
    )
    .counts(&[Counted("rx_unreadable", 5, A_FEW_MORE)]),
    FaultCase::new(
        "split-wrong, rx: in the payload, the part in the header fragment arrives, too",
        "0",
        five!(r#"{"split-wrong":{"at":100}}"#),
        Stream(ZeroCopy),
    )
    .counts(&[Counted("rx_bad_header", 0, 0)]),
    FaultCase::new(
        "split-wrong, rx: on a queue without a provider nothing is lost",
        "0",
        r#"{"direction":"rx","match":{"protocol":"tcp","destination-port":4434},"every":100,
            "action":{"split-wrong":{"at":20}}}"#,
        Stream(Plain),
    )
    .counts(&[Counted("rx_dropped", 0, 0), Counted("rx_bad_header", 0, 0)]),
    FaultCase::new(
        "payload-in-header, rx: the part in the header fragment arrives, too",
        "0",
        five!(r#""payload-in-header""#),
        Stream(ZeroCopy),
    )
    .counts(&[Counted("rx_bad_header", 0, 0)]),
    FaultCase::new(
        "wrong-queue, rx: frames on another queue are copied",
        "0",
        five!(r#"{"wrong-queue":{"queue":0}}"#),
        Copied,
    ),
    FaultCase::new(
        "wrong-queue, rx: a frame of another flow corrupts no data",
        "0",
        r#"{"direction":"rx","match":{"protocol":"tcp","destination-port":4434},"nth":50,
            "action":{"wrong-queue":{"queue":3}}}"#,
        Script(of_another_flow),
    ),
    FaultCase::new(
        "wrong-queue, rx: frames for a queue that does not exist are lost",
        "0",
        five!(r#"{"wrong-queue":{"queue":40}}"#),
        Stream(ZeroCopy),
    ),
    FaultCase::new(
        "wrong-hash, rx: nothing depends on it",
        "0",
        r#"{"direction":"rx","every":3,"action":{"wrong-hash":{}}}"#,
        Stream(ZeroCopy),
    ),
    FaultCase::new(
        "wrong-checksum, rx: reported bad, payload that the stack can't check is dropped and counted",
        "0",
        five!(r#"{"wrong-checksum":{"verdict":"bad"}}"#),
        Stream(ZeroCopy),
    )
    .counts(&[Counted("rx_csum_bad", 5, 5), Counted("rx_unreadable", 5, A_FEW_MORE)]),
    FaultCase::new(
        "wrong-checksum, rx: not reported good, payload that the stack can't check is dropped",
        "0",
        five!(r#"{"wrong-checksum":{"verdict":"unknown"}}"#),
        Stream(ZeroCopy),
    )
    .counts(&[Counted("rx_unreadable", 5, A_FEW_MORE)]),
    FaultCase::new(
        "wrong-checksum, rx: reported bad, payload that the stack can check is not lost",
        "0",
        r#"{"direction":"rx","match":{"protocol":"tcp","destination-port":4434},"every":100,
            "action":{"wrong-checksum":{}}}"#,
        Stream(Plain),
    )
    .counts(&[Counted("rx_csum_bad", 5, ANY), Counted("rx_dropped", 0, 0)]),
];

/// A frame of an ordinary stream comes on the queue with the provider's memory, which its reader
/// can't read.
fn of_another_flow(lab: &mut Lab, id: FaultId) -> Result<()> {
    let bound = traffic::Stream::start(ZeroCopy, 4 * MUCH)?;
    let other = traffic::Stream::start(Plain, MUCH)?;
    lab.wait_for_hits(id, 1)?;
    // The reader gets EFAULT, or a retransmission that it can read.
    let result = other.end()?;
    let error = result.error.as_deref().unwrap_or_default();
    ensure!(
        result.ok || error.contains("Bad address"),
        "the reader reports {result:?}"
    );
    bound.finish()?;
    let again = json!({"direction": "rx", "match": plain_port(), "nth": 1,
        "action": {"wrong-queue": {"queue": ZERO_COPY.0}}});
    // Nothing is bound any more, so that the memory of every queue can be read.
    lab.arm("0", &again)?;
    traffic::Stream::start(Plain, MUCH)?.finish().map(drop)
}
