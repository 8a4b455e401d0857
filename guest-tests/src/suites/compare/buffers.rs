//! What it costs to let `io_uring` choose a buffer, and to give it back: the five rows of the measurement that came with
//! rings of provided buffers (Axboe, 2022). Requests did nothing then, but no NOP takes a buffer any more
//! (`io_init_req()`, io_uring/io_uring.c: `-EOPNOTSUPP`); a read of /dev/null takes one and does nothing with it.

use std::{collections::BTreeMap, fs::File, time::Instant};

use anyhow::{Context, Result, ensure};
use zcnic_guest_protocol::figure::Figure;

use super::rounds::{Side, interleave};
use crate::{
    fixture::processor::Processor,
    kit::provided::{BufferGroup, GroupKind},
};

/// Buffers that there are, as in 2022.
const BUFFERS: u16 = 128;
/// Requests at a time, as in 2022.
const BATCH: u16 = 32;

/// What requests do.
#[derive(Debug, Clone, Copy)]
enum Row {
    /// Nothing at all, with no file either.
    Nop,
    /// Read, and name the memory.
    Named,
    /// Read into a buffer that the kernel chooses, which gets so many back at a time.
    Chosen(GroupKind, u16),
}

/// All rows, each beside reads that name their memory.
pub(super) fn compare(rounds: usize, requests: u64) -> Result<Vec<Figure>> {
    Processor::Receivers.take()?;
    let rows = [
        (
            "guest_buffers_classic_32",
            Row::Chosen(GroupKind::Classic, 32),
        ),
        (
            "guest_buffers_classic_1",
            Row::Chosen(GroupKind::Classic, 1),
        ),
        ("guest_buffers_ring_32", Row::Chosen(GroupKind::Ring, 32)),
        ("guest_buffers_ring_1", Row::Chosen(GroupKind::Ring, 1)),
        ("guest_nop", Row::Nop),
    ];
    let figure = |(name, row)| {
        let mut figure = interleave(name, "requests/s", rounds, |side| match side {
            Side::A => rate(row, requests),
            Side::B => rate(Row::Named, requests),
        })?;
        let total = 2 * rounds as u64 * requests;
        figure.counters = BTreeMap::from([("requests".to_owned(), total)]);
        Ok(figure)
    };
    rows.into_iter().map(figure).collect()
}

/// Requests per second.
fn rate(row: Row, requests: u64) -> Result<f64> {
    let kind = match row {
        Row::Chosen(kind, _) => kind,
        Row::Nop | Row::Named => GroupKind::Classic,
    };
    let mut group = BufferGroup::new(kind, BUFFERS, 4096)?;
    group.read_from(&File::open("/dev/null")?)?;
    if let Row::Chosen(..) = row {
        group.provide(0, BUFFERS)?;
    }
    let mut first = 0;
    let started = Instant::now();
    for _ in 0..requests / u64::from(BATCH) {
        for _ in 0..BATCH {
            match row {
                Row::Nop => group.nop()?,
                Row::Named => group.read_there()?,
                Row::Chosen(..) => group.read()?,
            }
        }
        group.wait(BATCH.into())?;
        for number in 0..BATCH {
            let completion = group.next()?.context("a completion is missing")?;
            let wanted = matches!(row, Row::Chosen(..)).then_some(first + number);
            ensure!(
                completion.result == 0 && completion.buffer == wanted,
                "{completion:?}, and not buffer {wanted:?}"
            );
        }
        // Classic ones go with the next batch's submission.
        if let Row::Chosen(_, at_once) = row {
            for number in (0..BATCH).step_by(at_once.into()) {
                group.provide(first + number, at_once)?;
            }
            first = (first + BATCH) % BUFFERS;
        }
    }
    Ok(requests as f64 / started.elapsed().as_secs_f64())
}
