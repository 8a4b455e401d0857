//! The cost of letting `io_uring` choose a buffer and of providing it again: the five rows of the
//! measurement that came with rings of provided buffers (Axboe, 2022). That used NOPs, which no
//! longer take a buffer (`io_init_req()`, io_uring/io_uring.c: `-EOPNOTSUPP`); a read of /dev/null
//! takes one and does nothing else.

use std::{collections::BTreeMap, fs::File, time::Instant};

use anyhow::{Context, Result, ensure};
use zcnic_guest_protocol::figure::Figure;

use super::rounds::{Side, interleave};
use crate::{
    fixture::processor::Processor,
    kit::provided::{BufferGroup, GroupKind},
};

/// Buffers of the group, as in 2022.
const BUFFERS: u16 = 128;
/// Requests at a time, as in 2022.
const BATCH: u16 = 32;

/// Kind of requests.
#[derive(Debug, Clone, Copy)]
enum Row {
    /// NOPs, without a file.
    Nop,
    /// Reads that name their memory.
    Named,
    /// Reads into a buffer that the kernel chooses; buffers are provided again in batches of this
    /// size.
    Chosen(GroupKind, u16),
}

/// Compares each kind of requests with reads that name their memory.
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
                "{completion:?}, expected buffer {wanted:?}"
            );
        }
        // Classic buffers go with the next batch's submission.
        if let Row::Chosen(_, at_once) = row {
            for number in (0..BATCH).step_by(at_once.into()) {
                group.provide(first + number, at_once)?;
            }
            first = (first + BATCH) % BUFFERS;
        }
    }
    Ok(requests as f64 / started.elapsed().as_secs_f64())
}
