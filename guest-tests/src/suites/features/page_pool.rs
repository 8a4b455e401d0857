//! Recycling of pages in ordinary receive, by the statistics of a queue's page pools
//! (`page-pool-stats-get`).
//!
//! Queue 3 has two pools if it splits: one for header fragments, which the driver copies and
//! returns at once, and one for payload, whose pages go to the stack. Without split it has one
//! pool, and each page holds two frames.

use std::{fs, thread};

use anyhow::{Context, Result, bail, ensure};
use rustix::{io::ioctl_fionread, net::sockopt};

use super::{
    case::FeatureCase,
    tcp_zerocopy::{PAGE, PAGES, map},
};
use crate::{
    checks::gate::pools,
    fixture::{
        connection::{Sender, connect, read_all},
        lab::{Lab, RETURN_LIMIT, eventually},
        processor::{Interrupts, Processor},
        recycling::{BULK, PoolChange, PoolCounts, set_no_recycle},
        settings::{with_mtu, without_split},
        traffic::ZERO_COPY,
        transcript::Transcript,
    },
    kit::net::PagePoolStats,
};

const QUEUE: u32 = ZERO_COPY.0;
const PORT: u16 = ZERO_COPY.1;
const BYTES: u64 = 4 << 20;

pub(super) const CASES: &[FeatureCase] = &[
    FeatureCase {
        name: "page pool: in steady state no page comes from the page allocator",
        run: steady_state,
    },
    FeatureCase {
        name: "page pool: pages read on another CPU are freed on NAPI's, which may use its cache",
        run: read_elsewhere,
    },
    FeatureCase {
        name: "page pool: pages freed on another CPU return by the ring",
        run: freed_elsewhere,
    },
    FeatureCase {
        name: "page pool: header fragments share pages, and return at once",
        run: headers,
    },
    FeatureCase {
        name: "page pool: two frames share a page without header split",
        run: two_frames,
    },
    FeatureCase {
        name: "page pool: jumbo frames over several pages",
        run: jumbo,
    },
    FeatureCase {
        name: "page pool: frames in several buffers, which are halves of pages",
        run: multi_buffer,
    },
    FeatureCase {
        name: "page pool: unread pages are replaced, and the pool does not keep all of them when they return",
        run: unread,
    },
    FeatureCase {
        name: "page pool: pages that a program has mapped are released",
        run: mapped,
    },
    FeatureCase {
        name: "page pool: with the driver's debugfs file no_recycle all pages are released",
        run: no_recycle,
    },
];

/// Streams to a reader on the given processor. NAPI runs on the receivers', the sender on the other
/// one.
fn stream(reader: Processor) -> Result<()> {
    const SEED: u64 = 3;
    /// So little data waits that the pool's ring has room for all its pages when it is read.
    const WAITING: usize = 128 << 10;
    let connection = connect(PORT, 1)?.pop().context("one connection")?;
    let socket = connection.receiver;
    sockopt::set_socket_recv_buffer_size(&socket, WAITING)?;
    let read = move || -> Result<u64> {
        reader.take()?;
        read_all(&socket, SEED)
    };
    let reader = thread::spawn(read);
    Processor::Senders.take()?;
    let sender = Sender::start(connection.sender, SEED, BYTES);
    let received = reader.join();
    sender.finish()?;
    let received = received.unwrap_or_else(|_| bail!("the reader panicked"))?;
    ensure!(received == BYTES, "{received} bytes arrived, not {BYTES}");
    Ok(())
}

/// The pools' changes by a second stream, after a first one has filled them.
fn after_another(reader: Processor) -> Result<PoolChange> {
    let interrupts = Interrupts::divide()?;
    // On a new thread, because the streams choose a processor.
    let streams = move || {
        stream(reader)?;
        let before = PoolCounts::now(QUEUE)?;
        stream(reader)?;
        before.since()
    };
    let seen = thread::spawn(streams).join();
    interrupts.restore()?;
    seen.unwrap_or_else(|_| bail!("a thread panicked"))
}

/// Reports the statistics, and checks that pages came from the pool and returned to it.
fn recycled(transcript: &Transcript, stats: &PagePoolStats) -> Result<()> {
    let handed_out = stats.handed_out();
    transcript.sees("pages handed out", handed_out);
    transcript.sees(
        "times that NAPI's cache was filled from the ring",
        stats.refill,
    );
    transcript.sees("pages back into the cache", stats.cached);
    transcript.sees("pages back into the ring", stats.ring);
    transcript.sees(
        "pages back that the full ring did not take",
        stats.ring_full,
    );
    transcript.is("pages released", stats.released, 0)?;
    // Once, more data than ever before may wait to be read; then the pool gets 64 more pages.
    transcript.within("calls of the page allocator", stats.slow, 0..=1)?;
    let of_pool = (handed_out - stats.slow) * 1000 / handed_out.max(1);
    transcript.at_least("per mille on the fast path", of_pool, 990)
}

fn steady_state(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let seen = after_another(Processor::Receivers)?;
    transcript.sees("frames", seen.frames);
    transcript.at_least(
        "pages for payload",
        seen.payload.handed_out(),
        BYTES / 1448 - POSTED,
    )?;
    recycled(transcript, &seen.payload)?;
    recycled(transcript, &seen.headers)
}

/// `skb_attempt_defer_free()` (net/core/skbuff.c) leaves packets to the CPU that allocated them.
/// That CPU frees them where its NAPI may use the cache (`page_pool_napi_local()`).
fn read_elsewhere(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let seen = after_another(Processor::Senders)?;
    recycled(transcript, &seen.payload)?;
    let PagePoolStats { cached, .. } = seen.payload;
    transcript.at_least(
        "percent of pages back into the cache",
        cached * 100 / seen.payload.taken_back().max(1),
        2,
    )
}

/// The same without deferred frees: another CPU must not touch the cache.
fn freed_elsewhere(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    const DEFERRED: &str = "/proc/sys/net/core/skb_defer_max";
    let before = fs::read_to_string(DEFERRED)?;
    fs::write(DEFERRED, "0")?;
    let seen = after_another(Processor::Senders);
    fs::write(DEFERRED, before.trim())?;
    let seen = seen?;
    recycled(transcript, &seen.payload)?;
    let PagePoolStats { ring, .. } = seen.payload;
    transcript.at_least(
        "percent of pages back into the ring",
        ring * 100 / seen.payload.taken_back().max(1),
        97,
    )
}

/// The driver posts 16 buffers at a time, so the number of fragments may differ by that from the
/// number of frames.
const POSTED: u64 = 16;

fn headers(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    /// Fragments of a page: 64 bytes of receive header, and room for the 17th part of the longest
    /// frame, in cache lines.
    const OF_A_PAGE: u64 = 4096 / 640;
    let seen = after_another(Processor::Receivers)?;
    recycled(transcript, &seen.headers)?;
    let fragments = seen.headers.handed_out() * OF_A_PAGE;
    let (least, most) = (seen.frames - 2 * POSTED, seen.frames + 2 * POSTED);
    transcript.sees("frames", seen.frames);
    transcript.within("fragments of these pages", fragments, least..=most)?;
    // NAPI returns them itself, so none comes back by the ring.
    transcript.is("back by the ring", seen.headers.ring, 0)
}

fn two_frames(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let seen = without_split(|| after_another(Processor::Receivers))?;
    recycled(transcript, &seen.headers)?;
    let (least, most) = (seen.frames - POSTED, seen.frames + POSTED);
    transcript.sees("frames", seen.frames);
    // The second frame of a page is a second reference to it (pp_ref_count).
    transcript.within(
        "halves of pages",
        2 * seen.headers.handed_out(),
        least..=most,
    )
}

fn jumbo(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let seen = with_mtu("9000", || after_another(Processor::Receivers))?;
    transcript.sees("frames", seen.frames);
    recycled(transcript, &seen.payload)?;
    // 8948 bytes are 2.2 pages.
    let pages = 10 * seen.payload.handed_out() / seen.frames.max(1);
    transcript.within("tenths of a page by frame", pages, 26..=30)
}

fn multi_buffer(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let seen = with_mtu("9000", || {
        without_split(|| after_another(Processor::Receivers))
    })?;
    transcript.sees("frames", seen.frames);
    recycled(transcript, &seen.headers)?;
    // 9014 bytes fill six halves of a page.
    let halves = 10 * 2 * seen.headers.handed_out() / seen.frames.max(1);
    transcript.within("tenths of half a page by frame", halves, 52..=60)
}

fn unread(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    const SEED: u64 = 5;
    const UNREAD: u64 = 2 << 20;
    /// The pool's ring has room for as many pages as buffers are posted, its cache for 128.
    const KEPT: u64 = 512 + 128;
    let before = PoolCounts::now(QUEUE)?;
    let connection = connect(PORT, 1)?.pop().context("one connection")?;
    sockopt::set_socket_recv_buffer_size_force(&connection.receiver, 16 << 20)?;
    let sender = Sender::start(connection.sender, SEED, UNREAD);
    transcript.does("A program lets 2 MiB wait");
    eventually(RETURN_LIMIT, || {
        let waiting = ioctl_fionread(&connection.receiver)?;
        ensure!(
            waiting == UNREAD,
            "{waiting} bytes of {UNREAD} have arrived"
        );
        Ok(())
    })?;
    let held = before.since()?.payload;
    transcript.at_least(
        "pages handed out",
        held.handed_out(),
        UNREAD / 1448 - POSTED,
    )?;
    transcript.within("pages that returned", held.taken_back(), 0..=POSTED)?;
    let fresh = held.slow * BULK;
    transcript.at_least("pages from the page allocator", fresh, UNREAD / 1448 - KEPT)?;

    transcript.does("It reads");
    let received = read_all(&connection.receiver, SEED)?;
    transcript.is("bytes received and right", received, UNREAD)?;
    sender.finish()?;
    let seen = eventually(RETURN_LIMIT, || {
        pools::flush_deferred_frees()?;
        let seen = before.since()?.payload;
        let missing = seen.handed_out().saturating_sub(seen.taken_back());
        ensure!(missing <= POSTED, "{missing} pages have not returned");
        Ok(seen)
    })?;
    transcript.sees("pages back into the cache", seen.cached);
    transcript.sees("pages back into the ring", seen.ring);
    transcript.at_least(
        "pages back that the full ring did not take",
        seen.ring_full,
        UNREAD / 1448 - KEPT,
    )
}

fn mapped(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let (mapped, seen) = with_mtu(PAGES, || {
        // The pool's former pages are gone after this.
        map(BYTES, || Ok(()))?;
        let before = PoolCounts::now(QUEUE)?;
        map(BYTES, || {
            pools::flush_deferred_frees()?;
            Ok(before.since()?.payload)
        })
    })?;
    let pages = mapped / PAGE;
    transcript.at_least("pages mapped", pages, BYTES / PAGE * 97 / 100)?;
    // One packet or two may be left, with 17 pages each.
    given_up(transcript, &seen, pages * 95 / 100)
}

/// Checks that the pool released `pages` pages, which had another user, and allocated others for
/// them.
fn given_up(transcript: &Transcript, stats: &PagePoolStats, pages: u64) -> Result<()> {
    transcript.at_least("pages released", stats.released, pages)?;
    transcript.sees("pages that returned", stats.cached + stats.ring);
    let fresh = stats.slow * BULK;
    transcript.at_least(
        "pages from the page allocator",
        fresh,
        pages.saturating_sub(BULK),
    )
}

fn no_recycle(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    set_no_recycle(true)?;
    let seen = with_mtu(PAGES, || after_another(Processor::Receivers));
    set_no_recycle(false)?;
    let seen = seen?.payload;
    transcript.at_least("pages handed out", seen.handed_out(), BYTES / PAGE - POSTED)?;
    given_up(transcript, &seen, seen.handed_out() * 98 / 100)?;

    transcript.does("With recycling again");
    let seen = with_mtu(PAGES, || after_another(Processor::Receivers))?;
    recycled(transcript, &seen.payload)
}
