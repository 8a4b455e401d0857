//! Recycling of pages in ordinary receive: what a queue's page pools count (`page-pool-stats-get`).
//!
//! Queue 3 has two of them if it splits: one for header fragments, which the driver copies and gives back at once, and
//! one for payload, whose pages go to the stack. Without split there is one, and its pages hold two frames each.

use std::{fs, thread};

use anyhow::{Context, Result, bail, ensure};
use rustix::{io::ioctl_fionread, net::sockopt};

use super::{
    case::Case,
    tcp_zerocopy::{PAGE, PAGES, map},
};
use crate::{
    checks::gate::pools,
    fixture::{
        connection::{Sender, connect, read_all},
        lab::{HOME, Lab, eventually},
        processor::{Interrupts, Processor},
        recycling::{BULK, Before, Seen},
        settings::{with_mtu, without_split},
        story::Story,
        traffic::ZERO_COPY,
    },
    kit::net::{self, PagePoolStats},
};

const QUEUE: u32 = ZERO_COPY.0;
const PORT: u16 = ZERO_COPY.1;
const BYTES: u64 = 4 << 20;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "page pool: in steady state no page comes from the page allocator",
        run: steady_state,
    },
    Case {
        name: "page pool: what is read on another CPU is freed on NAPI's, which may use its cache",
        run: read_elsewhere,
    },
    Case {
        name: "page pool: what is freed on another CPU comes back by the ring",
        run: freed_elsewhere,
    },
    Case {
        name: "page pool: header fragments share pages, and come back at once",
        run: headers,
    },
    Case {
        name: "page pool: two frames share a page without header split",
        run: two_frames,
    },
    Case {
        name: "page pool: jumbo frames over several pages",
        run: jumbo,
    },
    Case {
        name: "page pool: frames in several buffers, which are halves of pages",
        run: multi_buffer,
    },
    Case {
        name: "page pool: pages that nobody reads are replaced, and too many to keep when they come back",
        run: unread,
    },
    Case {
        name: "page pool: pages that a program has mapped are given up",
        run: mapped,
    },
    Case {
        name: "page pool: with the driver's flag no-recycle all pages are given up",
        run: no_recycle,
    },
];

/// Streams to a reader on some processor; NAPI is on the receivers', and who sends on the other one.
fn stream(reader: Processor) -> Result<()> {
    const SEED: u64 = 3;
    /// So little waits to be read that the pool's ring takes all of it when it is.
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
    ensure!(received == BYTES, "{received} bytes came, not {BYTES}");
    Ok(())
}

/// What a stream does to the pools when another one has been there before.
fn after_another(reader: Processor) -> Result<Seen> {
    let interrupts = Interrupts::divide()?;
    // A thread of its own: the streams choose a processor.
    let streams = move || {
        stream(reader)?;
        let before = Before::now(QUEUE)?;
        stream(reader)?;
        before.since()
    };
    let seen = thread::spawn(streams).join();
    interrupts.restore()?;
    seen.unwrap_or_else(|_| bail!("a thread panicked"))
}

/// Says how it was, and sees that pages came from the pool and went back to it.
fn recycled(story: &Story, stats: &PagePoolStats) -> Result<()> {
    let handed_out = stats.handed_out();
    story.sees("pages handed out", handed_out);
    story.sees(
        "times that NAPI's cache was filled from the ring",
        stats.refill,
    );
    story.sees("pages back into the cache", stats.cached);
    story.sees("pages back into the ring", stats.ring);
    story.sees("pages back for which the ring had no room", stats.ring_full);
    story.is("pages given up", stats.released, 0)?;
    // More may wait to be read than ever before: once, and 64 pages more are the pool's.
    story.within("calls of the page allocator", stats.slow, 0..=1)?;
    let of_pool = (handed_out - stats.slow) * 1000 / handed_out.max(1);
    story.at_least("per mille on the fast path", of_pool, 990)
}

fn steady_state(_: &mut Lab, story: &Story) -> Result<()> {
    let seen = after_another(Processor::Receivers)?;
    story.sees("frames", seen.frames);
    story.at_least(
        "pages for payload",
        seen.payload.handed_out(),
        BYTES / 1448 - POSTED,
    )?;
    recycled(story, &seen.payload)?;
    recycled(story, &seen.headers)
}

/// `skb_attempt_defer_free()` (net/core/skbuff.c) leaves packets to the CPU that allocated them, which frees them
/// where its NAPI may use the cache (`page_pool_napi_local()`).
fn read_elsewhere(_: &mut Lab, story: &Story) -> Result<()> {
    let seen = after_another(Processor::Senders)?;
    recycled(story, &seen.payload)?;
    let PagePoolStats { cached, .. } = seen.payload;
    story.at_least(
        "percent of pages back into the cache",
        cached * 100 / seen.payload.taken_back().max(1),
        2,
    )
}

/// The same if packets are not left to anybody: another CPU must not touch the cache.
fn freed_elsewhere(_: &mut Lab, story: &Story) -> Result<()> {
    const DEFERRED: &str = "/proc/sys/net/core/skb_defer_max";
    let before = fs::read_to_string(DEFERRED)?;
    fs::write(DEFERRED, "0")?;
    let seen = after_another(Processor::Senders);
    fs::write(DEFERRED, before.trim())?;
    let seen = seen?;
    recycled(story, &seen.payload)?;
    let PagePoolStats { ring, .. } = seen.payload;
    story.at_least(
        "percent of pages back into the ring",
        ring * 100 / seen.payload.taken_back().max(1),
        97,
    )
}

/// Buffers are posted 16 at a time, so that so many more or less may be made of pages than came back with frames.
const POSTED: u64 = 16;

fn headers(_: &mut Lab, story: &Story) -> Result<()> {
    /// 64 bytes of receive header and 192 for the frame's.
    const FRAGMENT: u64 = 256;
    let seen = after_another(Processor::Receivers)?;
    recycled(story, &seen.headers)?;
    let fragments = seen.headers.handed_out() * 4096 / FRAGMENT;
    let (least, most) = (seen.frames - 2 * POSTED, seen.frames + 2 * POSTED);
    story.sees("frames", seen.frames);
    story.within("fragments of these pages", fragments, least..=most)?;
    // In NAPI, nobody else has them.
    story.is("back by the ring", seen.headers.ring, 0)
}

fn two_frames(_: &mut Lab, story: &Story) -> Result<()> {
    let seen = without_split(|| after_another(Processor::Receivers))?;
    recycled(story, &seen.headers)?;
    let (least, most) = (seen.frames - POSTED, seen.frames + POSTED);
    story.sees("frames", seen.frames);
    // The second frame of a page is a reference to what has a first one (pp_ref_count).
    story.within(
        "halves of pages",
        2 * seen.headers.handed_out(),
        least..=most,
    )
}

fn jumbo(_: &mut Lab, story: &Story) -> Result<()> {
    let seen = with_mtu("9000", || after_another(Processor::Receivers))?;
    story.sees("frames", seen.frames);
    recycled(story, &seen.payload)?;
    // 8948 bytes are 2.2 pages.
    let pages = 10 * seen.payload.handed_out() / seen.frames.max(1);
    story.within("tenths of a page by frame", pages, 26..=30)
}

fn multi_buffer(_: &mut Lab, story: &Story) -> Result<()> {
    let seen = with_mtu("9000", || {
        without_split(|| after_another(Processor::Receivers))
    })?;
    story.sees("frames", seen.frames);
    recycled(story, &seen.headers)?;
    // 9014 bytes are six times what half a page has room for.
    let halves = 10 * 2 * seen.headers.handed_out() / seen.frames.max(1);
    story.within("tenths of half a page by frame", halves, 52..=60)
}

fn unread(_: &mut Lab, story: &Story) -> Result<()> {
    const SEED: u64 = 5;
    const UNREAD: u64 = 2 << 20;
    /// The pool's ring has room for as many pages as buffers are posted, its cache for 128.
    const KEPT: u64 = 512 + 128;
    let before = Before::now(QUEUE)?;
    let connection = connect(PORT, 1)?.pop().context("one connection")?;
    sockopt::set_socket_recv_buffer_size_force(&connection.receiver, 16 << 20)?;
    let sender = Sender::start(connection.sender, SEED, UNREAD);
    story.does("A program lets 2 MiB wait");
    eventually(HOME, || {
        let waiting = ioctl_fionread(&connection.receiver)?;
        ensure!(waiting == UNREAD, "{waiting} bytes of {UNREAD} have come");
        Ok(())
    })?;
    let held = before.since()?.payload;
    story.at_least(
        "pages handed out",
        held.handed_out(),
        UNREAD / 1448 - POSTED,
    )?;
    story.within("pages that came back", held.taken_back(), 0..=POSTED)?;
    let fresh = held.slow * BULK;
    story.at_least("pages from the page allocator", fresh, UNREAD / 1448 - KEPT)?;

    story.does("It reads");
    let received = read_all(&connection.receiver, SEED)?;
    story.is("bytes received and right", received, UNREAD)?;
    sender.finish()?;
    let seen = eventually(HOME, || {
        pools::flush_deferred_frees()?;
        let seen = before.since()?.payload;
        let missing = seen.handed_out().saturating_sub(seen.taken_back());
        ensure!(missing <= POSTED, "{missing} pages have not come back");
        Ok(seen)
    })?;
    story.sees("pages back into the cache", seen.cached);
    story.sees("pages back into the ring", seen.ring);
    story.at_least(
        "pages back for which the ring had no room",
        seen.ring_full,
        UNREAD / 1448 - KEPT,
    )
}

fn mapped(_: &mut Lab, story: &Story) -> Result<()> {
    let (mapped, seen) = with_mtu(PAGES, || {
        // What the pool had is gone after this.
        map(BYTES, || Ok(()))?;
        let before = Before::now(QUEUE)?;
        map(BYTES, || {
            pools::flush_deferred_frees()?;
            Ok(before.since()?.payload)
        })
    })?;
    let pages = mapped / PAGE;
    story.at_least("pages mapped", pages, BYTES / PAGE * 97 / 100)?;
    // One packet or two may be left, with 17 pages each.
    given_up(story, &seen, pages * 95 / 100)
}

/// Sees that so many pages left the pool because somebody else had them, too, and others came for them.
fn given_up(story: &Story, stats: &PagePoolStats, pages: u64) -> Result<()> {
    story.at_least("pages given up", stats.released, pages)?;
    story.sees("pages that came back", stats.cached + stats.ring);
    let fresh = stats.slow * BULK;
    story.at_least(
        "pages from the page allocator",
        fresh,
        pages.saturating_sub(BULK),
    )
}

fn no_recycle(_: &mut Lab, story: &Story) -> Result<()> {
    let set = |on| {
        let command = ["ethtool", "--set-priv-flags", "eth0", "no-recycle", on];
        net::run(None, &command)
    };
    set("on")?;
    let seen = with_mtu(PAGES, || after_another(Processor::Receivers));
    set("off")?;
    let seen = seen?.payload;
    story.at_least("pages handed out", seen.handed_out(), BYTES / PAGE - POSTED)?;
    given_up(story, &seen, seen.handed_out() * 98 / 100)?;

    story.does("Without the flag");
    let seen = with_mtu(PAGES, || after_another(Processor::Receivers))?;
    recycled(story, &seen.payload)
}
