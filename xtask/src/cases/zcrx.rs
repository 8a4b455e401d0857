//! The demo's stream, and what becomes of its numbers when something is missing.

use anyhow::{Context, Result};

use super::{End, GuestCase, expect};
use crate::{
    guest::{Driver, Guest},
    stream::{Stream, Streamed},
};

pub(super) const CASES: &[GuestCase] = &[
    GuestCase {
        name: "io_uring zero-copy receive over a steered, split queue",
        driver: Driver::Zcnic,
        end: End::Clean,
        run: good,
    },
    GuestCase {
        name: "the demo fails without the flow rule",
        driver: Driver::Zcnic,
        end: End::Clean,
        run: without_rule,
    },
    GuestCase {
        name: "the demo fails with header split off",
        driver: Driver::Zcnic,
        end: End::Clean,
        run: without_split,
    },
];

const SMALL: u64 = 16 << 20;

/// Fails unless the stream went as the demo wants it.
pub(super) fn expect_good(stream: &Stream, result: &Streamed) -> Result<()> {
    let faults = result.faults(stream);
    expect(faults.is_empty(), || faults.join("; "))
}

fn good(guest: &mut Guest) -> Result<()> {
    let stream = Stream {
        bytes: SMALL,
        ..Stream::default()
    };
    expect_good(&stream, &stream.run(guest)?)
}

fn without_rule(guest: &mut Guest) -> Result<()> {
    let stream = Stream {
        bytes: SMALL,
        rule: false,
        ..Stream::default()
    };
    let result = stream.run(guest)?;
    expect(result.frames_elsewhere > 0, || {
        format!("no frames elsewhere: {result:?}")
    })?;
    expect_copied(&stream, &result)
}

fn without_split(guest: &mut Guest) -> Result<()> {
    let stream = Stream {
        bytes: SMALL,
        split: false,
        ..Stream::default()
    };
    let result = stream.run(guest)?;
    expect(result.frames_unsplit > 0, || {
        format!("no unsplit frames: {result:?}")
    })?;
    expect_copied(&stream, &result)
}

/// Everything arrived, but not without copies, and the demo would say so.
fn expect_copied(stream: &Stream, result: &Streamed) -> Result<()> {
    let Streamed { bytes_verified, .. } = result;
    expect(*bytes_verified == stream.bytes, || {
        format!("{bytes_verified} bytes verified")
    })?;
    let copied = result
        .bytes_copied
        .context("the kernel doesn't say how much it copied")?;
    expect(copied > 0, || "nothing was copied".to_owned())?;
    expect(!result.faults(stream).is_empty(), || {
        "the demo would have passed".to_owned()
    })
}
