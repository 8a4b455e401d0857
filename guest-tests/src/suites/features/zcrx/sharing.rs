//! Several queues, and several rings that share an instance.

use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::stream::{connection, stream};
use crate::{
    fixture::{
        connection::{Sender, connect},
        device::{await_pools, provider_pools},
        lab::Lab,
        receiver::{Receiver, bind, bind_patiently},
        traffic::{QUEUE, SECOND, ZERO_COPY},
        transcript::Transcript,
    },
    kit::zcrx::{Options, Ring},
};

const BYTES: u64 = 2 << 20;
const COMPLETIONS: u32 = 4096;
/// Time limit for a stream.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn several_queues(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    lab.with_second(|lab| {
        let queues = [ZERO_COPY, SECOND];
        let mut receivers = Vec::new();
        let mut senders = Vec::new();
        let mut counters = Vec::new();
        for (seed, (queue, port)) in (1..).zip(queues) {
            let mut receiver = Receiver::new(queue, &Options::default())?;
            counters.push((queue, lab.count_flow(port)?));
            let connection = connect(port, 1)?.remove(0);
            receiver.add(connection.receiver, seed)?;
            receivers.push(receiver);
            senders.push(Sender::start(connection.sender, seed, BYTES));
        }
        let pools = provider_pools()?;
        transcript.is("page pools with memory of io_uring", pools.len(), 2)?;
        let both = Instant::now() + PATIENCE;
        while !receivers.iter().all(Receiver::all_ended) {
            ensure!(Instant::now() < both, "the streams do not end");
            for receiver in &mut receivers {
                receiver.until_quiet(Duration::from_millis(1))?;
            }
        }
        for receiver in &mut receivers {
            receiver.finish(BYTES)?;
            let stats = receiver.zcrx.stats().context("no statistics")?;
            transcript.is("bytes copied", stats.copy_bytes, 0)?;
        }
        for sender in senders {
            sender.finish()?;
        }
        for (queue, counter) in counters {
            let counts = lab.counted(counter)?;
            let own = counts.queues.get(&(queue as u16));
            let own = own.map_or(0, |count| count.delivered);
            transcript.at_least("frames of its flow on a queue", own, BYTES / 1500)?;
            transcript.is(
                "other queues that its frames reached",
                counts.queues.len() - 1,
                0,
            )?;
        }
        Ok(())
    })
}

pub(super) fn export(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let mut receiver = Receiver::new(QUEUE, &Options::default())?;
    let handle = receiver.zcrx.ring.export()?;
    let mut other = Ring::import(handle.as_fd(), COMPLETIONS)?;
    drop(handle);
    transcript.does("The second ring receives a stream, into the memory of the first one");
    let connection = connection()?;
    let flow = receiver.expect(connection.receiver, 1);
    let socket = receiver.socket(flow).try_clone()?;
    other.receive(socket.as_fd(), 0, flow as u64)?;
    let sender = Sender::start(connection.sender, 1, BYTES);
    let deadline = Instant::now() + PATIENCE;
    let mut completions = 0u64;
    while !receiver.all_ended() {
        ensure!(Instant::now() < deadline, "the stream does not end");
        other.wait(Duration::from_millis(50))?;
        while let Some(completion) = other.next_completion() {
            receiver.handle(completion)?;
            completions += 1;
        }
        receiver.zcrx.publish();
    }
    sender.finish()?;
    receiver.finish(BYTES)?;
    transcript.at_least("completions on the second ring", completions, BYTES / 4096)?;
    transcript.is(
        "completions on the first one",
        receiver.zcrx.ring.waiting(),
        0,
    )?;
    let returned = receiver.taken_back();
    transcript.at_least("buffers returned by the only refill ring", returned, 64)?;
    transcript.does("The first ring receives another stream");
    stream(&mut receiver, 2, BYTES)?;
    transcript.is("bytes received and right", receiver.received(), 2 * BYTES)?;
    let stats = receiver.zcrx.stats().context("no statistics")?;
    transcript.is("bytes copied", stats.copy_bytes, 0)?;
    let pools = provider_pools()?;
    transcript.is("page pools with memory of io_uring", pools.len(), 1)
}

pub(super) fn last_ring(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let options = Options::default();
    let (first, _) = bind_patiently(QUEUE, &options)?;
    let handle = first.ring.export()?;
    drop(first);
    transcript.does("The instance's own ring is closed, and an exported handle stays open");
    // The kernel closes the ring some time after its last descriptor.
    std::thread::sleep(Duration::from_millis(300));
    transcript.fails("binding the queue", bind(QUEUE, &options), libc::EEXIST)?;
    let importer = Ring::import(handle.as_fd(), COMPLETIONS)?;
    drop(handle);
    transcript.does("The handle is closed, and a ring that has imported it stays open");
    std::thread::sleep(Duration::from_millis(300));
    transcript.fails("binding the queue", bind(QUEUE, &options), libc::EEXIST)?;
    transcript
        .why("Each holds a reference to the instance (user_refs; import_zcrx and zcrx_export, io_uring/zcrx.c).");
    transcript.does("That ring is closed");
    drop(importer);
    let (last, _) = bind_patiently(QUEUE, &options)?;
    transcript.sees("binding the queue", "works");
    drop(last);
    await_pools(<[_]>::is_empty)
}
