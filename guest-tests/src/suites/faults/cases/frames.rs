//! Faults of the wire: frames that are lost, duplicated, late, out of order, or damaged.

use super::super::case::{
    ANY,
    Check::{Datagrams, Stream},
    Counted, FaultCase,
};
use crate::fixture::traffic::How::ZeroCopy;

const WITHOUT_THE_THIRD: &[u8] = &[1, 2, 4, 5, 6, 7, 8, 9, 10];
const THE_THIRD_TWICE: &[u8] = &[1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10];
const THE_THIRD_LAST: &[u8] = &[1, 2, 4, 5, 6, 7, 8, 9, 10, 3];
const THE_THIRD_FIFTH: &[u8] = &[1, 2, 4, 5, 3, 6, 7, 8, 9, 10];

/// The third of ten datagrams, on the side that receives and on the one that sends.
macro_rules! third {
    ("rx", $action:literal) => {
        concat!(
            r#"{"direction":"rx","match":{"protocol":"udp","destination-port":4435},"nth":3,"action":"#,
            $action,
            "}"
        )
    };
    ("tx", $action:literal) => {
        concat!(
            r#"{"direction":"tx","match":{"protocol":"udp","destination-port":4435},"nth":3,"action":"#,
            $action,
            "}"
        )
    };
}

/// Every `$count`th frame of the zero-copy stream.
macro_rules! every {
    ($count:literal, $action:literal) => {
        concat!(
            r#"{"direction":"rx","match":{"protocol":"tcp","destination-port":4433},"every":"#,
            $count,
            r#","action":"#,
            $action,
            "}"
        )
    };
}

pub(super) const CASES: &[FaultCase] = &[
    FaultCase::new(
        "drop, rx: one datagram is missing",
        "0",
        third!("rx", r#""drop""#),
        Datagrams(WITHOUT_THE_THIRD),
    ),
    FaultCase::new(
        "drop, tx: one datagram is missing",
        "1",
        third!("tx", r#""drop""#),
        Datagrams(WITHOUT_THE_THIRD),
    ),
    FaultCase::new(
        "drop, rx: a zero-copy stream still arrives complete",
        "0",
        every!("100", r#""drop""#),
        Stream(ZeroCopy),
    ),
    FaultCase::new(
        "duplicate, rx: one datagram comes twice",
        "0",
        third!("rx", r#"{"duplicate":{}}"#),
        Datagrams(THE_THIRD_TWICE),
    ),
    FaultCase::new(
        "duplicate, tx: one datagram comes twice",
        "1",
        third!("tx", r#"{"duplicate":{}}"#),
        Datagrams(THE_THIRD_TWICE),
    ),
    FaultCase::new(
        "duplicate, rx: no byte of a zero-copy stream comes twice",
        "0",
        every!("50", r#"{"duplicate":{"copies":3}}"#),
        Stream(ZeroCopy),
    ),
    FaultCase::new(
        "delay, rx: one datagram comes last",
        "0",
        third!("rx", r#"{"delay":{"nanoseconds":100000000}}"#),
        Datagrams(THE_THIRD_LAST),
    ),
    FaultCase::new(
        "delay, tx: one datagram comes last",
        "1",
        third!("tx", r#"{"delay":{"nanoseconds":100000000}}"#),
        Datagrams(THE_THIRD_LAST),
    ),
    FaultCase::new(
        "reorder, rx: one datagram comes behind two others",
        "0",
        third!("rx", r#"{"reorder":{"by":2}}"#),
        Datagrams(THE_THIRD_FIFTH),
    ),
    FaultCase::new(
        "reorder, tx: one datagram comes behind two others",
        "1",
        third!("tx", r#"{"reorder":{"by":2}}"#),
        Datagrams(THE_THIRD_FIFTH),
    ),
    FaultCase::new(
        "reorder, rx: a zero-copy stream is in order",
        "0",
        every!("50", r#"{"reorder":{"by":5}}"#),
        Stream(ZeroCopy),
    ),
    // The hundredth byte is payload.
    FaultCase::new(
        "corrupt, rx: one datagram is missing, its checksum counted as bad",
        "0",
        third!("rx", r#"{"corrupt":{"bit":800}}"#),
        Datagrams(WITHOUT_THE_THIRD),
    )
    .counts(&[Counted("rx_csum_bad", 1, 1), Counted("rx_dropped", 0, 0)]),
    FaultCase::new(
        "corrupt, tx: one datagram is missing",
        "1",
        third!("tx", r#"{"corrupt":{"bit":800}}"#),
        Datagrams(WITHOUT_THE_THIRD),
    ),
    FaultCase::new(
        "corrupt, rx: payload that the stack can't check is dropped by the driver",
        "0",
        every!("200", r#"{"corrupt":{"bit":800}}"#),
        Stream(ZeroCopy),
    )
    .counts(&[
        Counted("rx_csum_bad", 5, ANY),
        Counted("rx_unreadable", 5, ANY),
    ]),
    FaultCase::new(
        "corrupt, rx: with any bit of a frame, a zero-copy stream is right",
        "0",
        r#"{"direction":"rx","queue":3,"probability":0.02,"seed":7,"action":{"corrupt":{}}}"#,
        Stream(ZeroCopy),
    ),
    FaultCase::new(
        "truncate, rx: one datagram is missing",
        "0",
        third!("rx", r#"{"truncate":{"length":60}}"#),
        Datagrams(WITHOUT_THE_THIRD),
    ),
    FaultCase::new(
        "truncate, tx: one datagram is missing",
        "1",
        third!("tx", r#"{"truncate":{"length":60}}"#),
        Datagrams(WITHOUT_THE_THIRD),
    ),
    FaultCase::new(
        "truncate, rx: in the payload of a stream that is received by zero copy",
        "0",
        every!("100", r#"{"truncate":{"length":700}}"#),
        Stream(ZeroCopy),
    ),
    FaultCase::new(
        "truncate, rx: in the headers of a stream that is received by zero copy",
        "0",
        every!("100", r#"{"truncate":{"length":20}}"#),
        Stream(ZeroCopy),
    ),
];
