//! Circulation of buffers: refill ring, area, copies.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    fixture::{
        connection::{Sender, connect},
        device::provider_pool,
        lab::Lab,
        receiver::Receiver,
        traffic::{PLAIN, PORT, QUEUE},
        transcript::Transcript,
    },
    kit::zcrx::{Options, sys},
};

/// A buffer of the area.
const PAGE: usize = 4096;

pub(crate) fn refill_ring_full(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    const ENTRIES: u32 = 64;
    const KEPT: u64 = 512 << 10;
    const MORE: u64 = 4 << 20;

    transcript
        .does("A program with a refill ring of 64 entries receives 512 KiB and keeps the buffers");
    let options = Options {
        refill_entries: ENTRIES,
        ..Options::default()
    };
    let mut receiver = Receiver::new(QUEUE, &options)?;
    let mut connections = connect(PORT, 2)?;
    let (first, second) = (connections.remove(0), connections.remove(0));
    receiver.keep(true);
    receiver.add(first.receiver, 1)?;
    let sender = Sender::start(first.sender, 1, KEPT);
    receiver.finish(KEPT)?;
    sender.finish()?;
    let kept = receiver.held() as u64;
    transcript.within("buffers kept", kept, 256..=1024)?;

    transcript.does("It returns all of them, and no more frames reach the queue");
    receiver.give_back();
    let waiting = |receiver: &Receiver| receiver.zcrx.pending_returns() as u64;
    let ring = |receiver: &Receiver| receiver.zcrx.in_refill_ring();
    transcript.is("entries in the ring", ring(&receiver), ENTRIES)?;
    transcript.is(
        "buffers that do not fit",
        waiting(&receiver) - u64::from(ENTRIES),
        kept - u64::from(ENTRIES),
    )?;
    thread::sleep(Duration::from_millis(500));
    transcript.is("entries half a second later", ring(&receiver), ENTRIES)?;
    transcript.why(
        "The kernel takes entries only when the queue's page pool runs out of buffers, in NAPI",
    );
    transcript.why("(io_pp_zc_alloc_netmems, io_uring/zcrx.c); a program has to keep the rest.");

    transcript
        .does("It asks the kernel to take them, by ZCRX_CTRL_FLUSH_RQ, and fills the ring again");
    let mut flushes = 0;
    while waiting(&receiver) > 0 {
        receiver.zcrx.flush()?;
        flushes += 1;
        ensure!(flushes <= kept, "flushing does not empty the ring");
    }
    transcript.is("flushes", flushes, kept.div_ceil(ENTRIES.into()))?;
    transcript.why(
        "A flush takes the entries in the ring, at most as many as the ring has (zcrx_flush_rq).",
    );

    transcript.does("It receives 4 MiB and returns each buffer at once");
    receiver.keep(false);
    receiver.add(second.receiver, 2)?;
    let sender = Sender::start(second.sender, 2, MORE);
    receiver.finish(KEPT + MORE)?;
    sender.finish()?;
    transcript.is("bytes received and right", receiver.received(), KEPT + MORE)?;
    let stats = receiver.zcrx.stats().context("no statistics")?;
    transcript.is("bytes copied", stats.copy_bytes, 0)?;
    let taken = receiver.taken_back() - kept;
    // Buffers of a window (about a tenth of the stream) may pass before the program runs again.
    let least = 4 * u64::from(ENTRIES);
    transcript.at_least(
        "buffers that the kernel has taken without a flush",
        taken,
        least,
    )?;
    transcript.sees("buffers that it has not", waiting(&receiver));
    transcript.why("Under traffic the kernel takes buffers from the ring first, 64 at a time");
    transcript.why(
        "(io_zcrx_ring_refill); if it is empty, from the area's free list (io_zcrx_refill_slow).",
    );
    Ok(())
}

pub(crate) fn area_exhausted(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    const BUFFERS: usize = 1024;
    const BYTES: u64 = 4 << 20;

    transcript.does("A program with an area of 1024 buffers is sent 4 MiB and returns no buffer");
    let options = Options {
        area_bytes: BUFFERS * PAGE,
        notifications: true,
        ..Options::default()
    };
    let mut receiver = Receiver::new(QUEUE, &options)?;
    let connection = connect(PORT, 1)?.remove(0);
    let counter = lab.count_flow(PORT)?;
    receiver.keep(true);
    receiver.add(connection.receiver, 1)?;
    let sender = Sender::start(connection.sender, 1, BYTES);
    receiver.until("a notification comes", |receiver| {
        !receiver.notified.is_empty()
    })?;
    transcript.notification(receiver.notified.first(), sys::EVENT_ALLOC_FAIL)?;
    receiver.until_quiet(Duration::from_secs(1))?;
    let held = receiver.held() as u64;
    transcript.within("buffers that the program has", held, 512..=BUFFERS as u64)?;
    transcript.within("bytes received", receiver.received(), 1..=BYTES - 1)?;
    let inflight = provider_pool()?.inflight;
    transcript.within(
        "buffers in use of the page pool",
        inflight,
        512..=BUFFERS as u64,
    )?;
    let ledger = lab.ledger(QUEUE)?;
    transcript.is("buffers that the device has", ledger.with_device, 0)?;
    ensure!(receiver.end(0).is_none(), "the request ended");
    transcript.sees("the request", "continues without data");
    transcript.why(
        "Refill ring and area are empty, so NAPI has no buffers to post, and the device drops frames.",
    );
    transcript.why(
        "The kernel notifies of that (io_pp_zc_alloc_netmems, io_uring/zcrx.c); no request ends.",
    );

    transcript.does("It arms the notification again, by ZCRX_CTRL_ARM_EVENT");
    transcript.is("notifications so far", receiver.notified.len(), 1)?;
    receiver.zcrx.ring.arm(sys::EVENT_ALLOC_FAIL)?;
    receiver.until("a second notification comes", |receiver| {
        receiver.notified.len() > 1
    })?;
    transcript.notification(receiver.notified.last(), sys::EVENT_ALLOC_FAIL)?;
    transcript.fails(
        "the same for ZCRX_EVENT_COPY, which never came",
        receiver.zcrx.ring.arm(sys::EVENT_COPY),
        libc::EINVAL,
    )?;
    transcript
        .why("Each notification comes once until it is armed (zcrx_send_notif, zcrx_arm_notif).");

    transcript.does("It returns all buffers, and each further one at once");
    receiver.keep(false);
    receiver.give_back();
    receiver.finish(BYTES)?;
    sender.finish()?;
    transcript.is("bytes received and right", receiver.received(), BYTES)?;
    let counts = lab.counted(counter)?;
    let frames = counts.queues.get(&(QUEUE as u16));
    let frames = frames.context("no frame reached the queue")?;
    transcript.at_least(
        "frames that the device dropped meanwhile",
        frames.dropped,
        1,
    )?;
    let stats = receiver.zcrx.stats().context("no statistics")?;
    transcript.is("bytes copied", stats.copy_bytes, 0)?;
    transcript.why(
        "The driver retries its allocations periodically; TCP retransmits the dropped segments.",
    );
    Ok(())
}

/// Checks that the kernel has copied `bytes` bytes, less one in a hundred. A short segment that
/// comes while the socket is busy is moved to the linear part of its skb (`skb_condense()`), and
/// the kernel does not count copies from there.
pub(crate) fn all_copied(transcript: &Transcript, copied: u64, bytes: u64) -> Result<()> {
    transcript.within("bytes copied", copied, bytes - bytes / 100..=bytes)
}

pub(crate) fn copy_fallback(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    const BUFFERS: usize = 2048;
    const LITTLE: u64 = 1 << 20;
    const MUCH: u64 = 4 << 20;

    transcript
        .does("A program binds queue 3 and receives 1 MiB on a TCP port that no rule steers there");
    let options = Options {
        area_bytes: BUFFERS * PAGE,
        notifications: true,
        ..Options::default()
    };
    let mut receiver = Receiver::new(QUEUE, &options)?;
    let counter = lab.count_flow(PLAIN)?;
    let mut connections = connect(PLAIN, 2)?;
    let (first, second) = (connections.remove(0), connections.remove(0));
    receiver.add(first.receiver, 1)?;
    let sender = Sender::start(first.sender, 1, LITTLE);
    receiver.finish(LITTLE)?;
    sender.finish()?;
    transcript.is("bytes received and right", receiver.received(), LITTLE)?;
    transcript.notification(receiver.notified.first(), sys::EVENT_COPY)?;
    let stats = receiver.zcrx.stats().context("no statistics")?;
    all_copied(transcript, stats.copy_bytes, LITTLE)?;
    transcript.at_least("copies", stats.copy_count, LITTLE / PAGE as u64)?;
    transcript.is("notifications", receiver.notified.len(), 1)?;
    transcript
        .why("The data is in pages of other queues, so it is copied into buffers of the area");
    transcript.why("(io_zcrx_copy_frag, io_uring/zcrx.c), with completions like any other.");

    transcript.does("It receives 4 MiB more, and returns each buffer at once");
    let pending = receiver.zcrx.pending_returns() as u64;
    transcript.within(
        "buffers in the refill ring before that",
        pending,
        stats.copy_count..=stats.copy_count + 8,
    )?;
    receiver.add(second.receiver, 2)?;
    let sender = Sender::start(second.sender, 2, MUCH);
    let mut ends = 0;
    loop {
        receiver.until("the request ends", Receiver::all_ended)?;
        let end = receiver.end(1);
        if end.is_some_and(|end| end.result == 0) {
            break;
        }
        if ends == 0 {
            transcript.completion("the request ends", end.as_ref(), -libc::ENOMEM)?;
            let pending = receiver.zcrx.pending_returns() as u64;
            transcript.within("buffers in the refill ring", pending, 1..=BUFFERS as u64)?;
        }
        ends += 1;
        ensure!(
            end.is_some_and(|end| end.result == -libc::ENOMEM) && ends < 100,
            "request {ends} ended with {end:?}"
        );
        receiver.zcrx.flush()?;
        receiver.request(1)?;
    }
    receiver.finish(LITTLE + MUCH)?;
    sender.finish()?;
    transcript.why(
        "Copies take buffers from the area's free list only (io_alloc_fallback_niov). The bound queue takes",
    );
    transcript
        .why("buffers from the refill ring when it needs some; without frames it needs none.");
    transcript.does("After each ENOMEM it flushes the refill ring, and makes another request");
    transcript.at_least("requests that ended with ENOMEM", ends, 1)?;
    transcript.is(
        "bytes received and right",
        receiver.received(),
        LITTLE + MUCH,
    )?;
    let stats = receiver.zcrx.stats().context("no statistics")?;
    all_copied(transcript, stats.copy_bytes, LITTLE + MUCH)?;
    let counts = lab.counted(counter)?;
    let bound = counts.queues.get(&(QUEUE as u16));
    transcript.is(
        "frames on queue 3",
        bound.map_or(0, |count| count.delivered),
        0,
    )?;
    let elsewhere: u64 = counts.queues.values().map(|count| count.delivered).sum();
    transcript.at_least("frames on other queues", elsewhere, (LITTLE + MUCH) / 1500)?;
    Ok(())
}
