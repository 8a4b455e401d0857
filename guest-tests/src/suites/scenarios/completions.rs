//! The completion queue: its overflow, and many connections that share it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::{
    fixture::{
        connection::{Sender, connect},
        device::provider_pools,
        lab::Lab,
        receiver::Receiver,
        traffic::{PORT, QUEUE},
        transcript::Transcript,
    },
    kit::zcrx::Options,
};

pub(super) fn queue_full(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    const ENTRIES: usize = 64;
    const BYTES: u64 = 1 << 20;
    const PATIENCE: Duration = Duration::from_secs(30);

    transcript.does(
        "A program with a completion queue of 64 entries is sent 1 MiB and takes none of them",
    );
    let options = Options {
        completions: ENTRIES as u32,
        ..Options::default()
    };
    let mut receiver = Receiver::new(QUEUE, &options)?;
    let connection = connect(PORT, 1)?.remove(0);
    receiver.add(connection.receiver, 1)?;
    let sender = Sender::start(connection.sender, 1, BYTES);
    let deadline = Instant::now() + PATIENCE;
    while !receiver.zcrx.ring.overflowed() {
        ensure!(
            Instant::now() < deadline,
            "the completion queue does not overflow"
        );
        receiver.zcrx.ring.wait(Duration::from_millis(50))?;
    }
    transcript.is(
        "completions in the queue",
        receiver.zcrx.ring.waiting(),
        ENTRIES,
    )?;
    transcript.sees("the submission queue's flags", "IORING_SQ_CQ_OVERFLOW");

    transcript.does("It takes them, and waits for more");
    receiver.reap()?;
    let before = receiver.received();
    transcript.within("bytes in 64 completions", before, 1..=ENTRIES as u64 * 4096)?;
    receiver.until("the request ends", |receiver| receiver.end(0).is_some())?;
    transcript.completion(
        "the request has ended",
        receiver.end(0).as_ref(),
        -libc::ENOSPC,
    )?;
    receiver.until_quiet(Duration::from_secs(1))?;
    transcript.is("bytes received after that", receiver.received() - before, 0)?;
    transcript.why(
        "The kernel does not keep data completions on overflow, as it does others: the request ends",
    );
    transcript.why(
        "(io_zcrx_queue_cqe, io_uring/zcrx.c), and its last completion is the one that overflows.",
    );
    transcript.why("No byte is lost, but no more data comes without another request.");

    transcript.does("It makes another request whenever one has ended like that");
    let mut requests = 1;
    receiver.request(0)?;
    loop {
        receiver.until("the request ends", |receiver| receiver.end(0).is_some())?;
        let end = receiver.end(0).map(|end| end.result);
        if end != Some(-libc::ENOSPC) {
            break;
        }
        receiver.request(0)?;
        requests += 1;
    }
    receiver.finish(BYTES)?;
    sender.finish()?;
    transcript.at_least("more requests", requests, 1)?;
    transcript.is("bytes received and right", receiver.received(), BYTES)
}

pub(crate) fn many_sockets(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    const SOCKETS: usize = 32;
    const BYTES: u64 = 128 << 10;

    transcript.does(
        "A program receives on 32 connections at once, 128 KiB each, with a request for each",
    );
    let mut receiver = Receiver::new(QUEUE, &Options::default())?;
    let counter = lab.count_flow(PORT)?;
    let mut senders = Vec::new();
    for (seed, connection) in (1..).zip(connect(PORT, SOCKETS)?) {
        receiver.add(connection.receiver, seed)?;
        senders.push(Sender::start(connection.sender, seed, BYTES));
    }
    receiver.finish(SOCKETS as u64 * BYTES)?;
    for sender in senders {
        sender.finish()?;
    }
    transcript.is(
        "bytes received, and right for the connection that their completion names",
        receiver.received(),
        SOCKETS as u64 * BYTES,
    )?;
    let pools = provider_pools()?;
    transcript.is("page pools with memory of io_uring", pools.len(), 1)?;
    let stats = receiver.zcrx.stats().context("no statistics")?;
    transcript.is("bytes copied", stats.copy_bytes, 0)?;
    let counts = lab.counted(counter)?;
    let bound = counts.queues.get(&(QUEUE as u16)).copied();
    let bound = bound.context("no frame reached the queue")?;
    transcript.at_least(
        "frames on queue 3",
        bound.delivered,
        SOCKETS as u64 * BYTES / 1500,
    )?;
    transcript.is("frames with payload that were not split", bound.unsplit, 0)?;
    transcript.is("other queues that were reached", counts.queues.len() - 1, 0)?;
    transcript.why(
        "Memory belongs to the queue, not to a connection: a request names the instance that it",
    );
    transcript.why(
        "receives by (io_recvzc_prep, io_uring/net.c), and one ring returns the buffers of all.",
    );
    Ok(())
}
