//! Kinds of receive memory.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::stream::{PAGE, connection, stream};
use crate::{
    fixture::{
        connection::{Sender, connect},
        device::provider_pool,
        lab::{Lab, eventually},
        receiver::Receiver,
        settings::{with_hardware_gro, with_huge_pages},
        traffic::{PLAIN, QUEUE},
        transcript::Transcript,
    },
    kit::zcrx::{Memory, Options, sys},
};

const BYTES: u64 = 4 << 20;

/// Receives a stream into such memory without a copy. Returns the number of its buffers.
fn receive(transcript: &Transcript, options: &Options) -> Result<Receiver> {
    let mut receiver = Receiver::new(QUEUE, options)?;
    stream(&mut receiver, 1, BYTES)?;
    transcript.is("bytes received and right", receiver.received(), BYTES)?;
    let stats = receiver.zcrx.stats().context("no statistics")?;
    transcript.is("bytes copied", stats.copy_bytes, 0)?;
    let length = provider_pool()?.io_uring_rx_buf_len.unwrap_or_default();
    let wanted = u64::from(options.buf_len.unwrap_or(PAGE as u32));
    transcript.is("the page pool's buffer size", length, wanted)?;
    Ok(receiver)
}

pub(super) fn anonymous(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    receive(transcript, &Options::default()).map(drop)
}

pub(super) fn huge_pages(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    with_huge_pages(|| {
        let options = Options {
            memory: Memory::HugePages,
            ..Options::default()
        };
        receive(transcript, &options).map(drop)
    })
}

pub(super) fn dmabuf(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    const UNSTEERED: u64 = 100_000;
    let options = Options {
        memory: Memory::Dmabuf,
        ..Options::default()
    };
    let mut receiver = receive(transcript, &options)?;
    let connection = connect(PLAIN, 1)?.remove(0);
    let sender = Sender::start(connection.sender.try_clone()?, 2, UNSTEERED);
    receiver.add(connection.receiver, 2)?;
    receiver.until("the request ends", Receiver::all_ended)?;
    transcript.completion(
        "recvzc of data from other queues",
        receiver.end(1).as_ref(),
        -libc::ENOMEM,
    )?;
    transcript
        .why("io_alloc_fallback_niov (io_uring/zcrx.c) has no buffer of a dmabuf to copy into.");
    transcript.is("bytes received of it", receiver.received() - BYTES, 0)?;
    sender.finish()
}

/// Receives a stream of coalesced segments into buffers of this size.
fn large(transcript: &Transcript, memory: Memory, buf_len: u32) -> Result<()> {
    with_huge_pages(|| {
        let options = Options {
            buf_len: Some(buf_len),
            memory,
            ..Options::default()
        };
        with_hardware_gro(|| {
            let mut receiver = Receiver::new(QUEUE, &options)?;
            receiver.keep(true);
            // Half of the area, even if each buffer is only half full.
            stream(&mut receiver, 1, 2 * BYTES)?;
            transcript.is("bytes received and right", receiver.received(), 2 * BYTES)?;
            let stats = receiver.zcrx.stats().context("no statistics")?;
            transcript.is("bytes copied", stats.copy_bytes, 0)?;
            let length = provider_pool()?.io_uring_rx_buf_len.unwrap_or_default();
            transcript.is("the page pool's buffer size", length, buf_len.into())?;
            transcript.at_least(
                "bytes in the fullest buffer",
                receiver.fullest().into(),
                u64::from(buf_len) / 2,
            )?;
            let average = 2 * BYTES / receiver.held() as u64;
            transcript.at_least("bytes in a buffer on average", average, PAGE as u64)
        })
    })
}

pub(super) fn large_buffers(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    large(transcript, Memory::Anonymous, 32 << 10)
}

pub(super) fn large_dmabuf_buffers(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    large(transcript, Memory::Dmabuf, 16 << 10)
}

pub(super) fn added(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    const BUFFERS: usize = 1024;
    let options = Options {
        area_bytes: BUFFERS * PAGE,
        notifications: true,
        ..Options::default()
    };
    let mut receiver = Receiver::new(QUEUE, &options)?;
    let connection = connection()?;
    receiver.keep(true);
    receiver.add(connection.receiver, 1)?;
    let sender = Sender::start(connection.sender, 1, BYTES);
    receiver.until("the area is exhausted", |receiver| {
        !receiver.notified.is_empty()
    })?;
    transcript.notification(receiver.notified.first(), sys::EVENT_ALLOC_FAIL)?;
    transcript.fails(
        "adding a dmabuf",
        receiver.zcrx.add_area(Memory::Dmabuf, PAGE * BUFFERS),
        libc::EINVAL,
    )?;
    transcript.why("All areas are readable by the kernel, or none (io_zcrx_append_area).");
    let before = provider_pool()?.inflight;
    transcript.within(
        "buffers in use of the page pool",
        before,
        1..=BUFFERS as u64,
    )?;
    receiver.zcrx.add_area(Memory::Anonymous, 16 << 20)?;
    receiver.finish(BYTES)?;
    sender.finish()?;
    transcript.is("bytes received and right", receiver.received(), BYTES)?;
    let [first, second] = [0, 1].map(|area| receiver.held_of(area) as u64);
    transcript.within("buffers of the first area", first, 1..=BUFFERS as u64)?;
    transcript.at_least("buffers of the second one", second, 1)?;

    transcript.does("All are returned, and the kernel takes them");
    let held = receiver.held() as u64;
    receiver.give_back();
    eventually(Duration::from_secs(5), || {
        receiver.zcrx.flush()?;
        let left = receiver.zcrx.pending_returns();
        ensure!(left == 0, "the kernel has not taken {left} buffers");
        Ok(())
    })?;
    transcript.is(
        "buffers that the kernel has taken",
        receiver.taken_back(),
        held,
    )
}
