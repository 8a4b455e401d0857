//! The life of buffers: from the area's free list or the refill ring to the driver, into packets,
//! to the program, and back.

use anyhow::{Context, Result};

use super::stream::{PAGE, pools_released, stream};
use crate::{
    fixture::{
        device::provider_pool, lab::Lab, receiver::Receiver, trace::PoolEnds, traffic::QUEUE,
        transcript::Transcript,
    },
    kit::zcrx::Options,
};

const MIB: u64 = 1 << 20;
/// Most buffers that a page pool has in its own cache: `PP_ALLOC_CACHE_REFILL` and one batch of
/// returns.
const CACHE: u64 = 128;

pub(super) fn life_cycle(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    const BYTES: u64 = 4 * MIB;
    let ends = PoolEnds::watch()?;
    let mut receiver = Receiver::new(QUEUE, &Options::default())?;
    receiver.keep(true);
    stream(&mut receiver, 1, BYTES)?;
    let held = receiver.held() as u64;
    transcript.at_least("buffers that the program has", held, BYTES / PAGE as u64)?;
    let out = provider_pool()?.inflight;
    let posted = lab.ledger(QUEUE)?.with_device;
    transcript.at_least("buffers in use of the page pool", out, held + posted)?;
    receiver.give_back();
    while receiver.zcrx.pending_returns() > 0 {
        receiver.zcrx.flush()?;
    }
    transcript.is(
        "buffers that the kernel has taken",
        receiver.taken_back(),
        held,
    )?;
    drop(receiver);
    pools_released(transcript, &ends, out)
}

/// Sources of a stream's buffers.
struct Sources {
    /// From the area's free list: `net_mp_niov_set_page_pool()`, on behalf of
    /// `io_zcrx_refill_slow()`, counts them as held by the page pool.
    list: u64,
    /// From the refill ring: `io_zcrx_ring_refill()` already counts them as the page pool's.
    ring: u64,
}

fn sources(receiver: &mut Receiver, seed: u64, bytes: u64) -> Result<Sources> {
    let (list, ring) = (provider_pool()?.inflight, receiver.taken_back());
    stream(receiver, seed, bytes)?;
    Ok(Sources {
        list: provider_pool()?.inflight - list,
        ring: receiver.taken_back() - ring,
    })
}

pub(super) fn slow_path(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let mut receiver = Receiver::new(QUEUE, &Options::default())?;
    receiver.keep(true);
    let sources = sources(&mut receiver, 1, 4 * MIB)?;
    let held = receiver.held() as u64;
    transcript.sees("buffers that the program has", held);
    transcript.within(
        "buffers taken from the area's free list",
        sources.list,
        held.saturating_sub(CACHE)..=held + CACHE,
    )?;
    transcript.is("buffers taken from the refill ring", sources.ring, 0)
}

pub(super) fn hot_path(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    /// Enough bytes that a single growth of the circulating buffers counts little: a late program
    /// lets a larger window arrive.
    const BYTES: u64 = 16 * MIB;
    // The circulating buffers: the posted ones and a receive window.
    let options = Options {
        area_bytes: 8 * MIB as usize,
        ..Options::default()
    };
    let mut receiver = Receiver::new(QUEUE, &options)?;
    stream(&mut receiver, 1, 4 * MIB)?;
    let sources = sources(&mut receiver, 2, BYTES)?;
    transcript.at_least(
        "buffers taken from the refill ring",
        sources.ring,
        BYTES / PAGE as u64,
    )?;
    transcript.within(
        "buffers taken from the area's free list",
        sources.list,
        0..=sources.ring / 10,
    )?;
    let stats = receiver.zcrx.stats().context("no statistics")?;
    transcript.is("bytes copied", stats.copy_bytes, 0)
}
