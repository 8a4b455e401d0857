//! Requests, their limits and their ends.

use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};

use super::stream::connection;
use crate::{
    fixture::{
        connection::Sender, lab::Lab, receiver::Receiver, traffic::QUEUE, transcript::Transcript,
    },
    kit::zcrx::Options,
};

const BYTES: u64 = 2 << 20;

pub(super) fn not_multishot(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let mut receiver = Receiver::new(QUEUE, &Options::default())?;
    let connection = connection()?;
    let flow = receiver.expect(connection.receiver, 1);
    let socket = receiver.socket(flow).try_clone()?;
    let ring = &mut receiver.zcrx.ring;
    ring.receive_once(socket.as_fd(), flow as u64)?;
    receiver.until("the request ends", Receiver::all_ended)?;
    let end = receiver.end(flow);
    transcript.completion("the request ends", end.as_ref(), -libc::EINVAL)?;
    transcript.why("io_recvzc_prep (io_uring/net.c) wants IORING_RECV_MULTISHOT.");

    transcript.does("The socket still works");
    receiver.request(flow)?;
    let sender = Sender::start(connection.sender, 1, BYTES);
    receiver.finish(BYTES)?;
    sender.finish()
}

pub(super) fn multishot(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let mut receiver = Receiver::new(QUEUE, &Options::default())?;
    let connection = connection()?;
    receiver.keep(true);
    receiver.add(connection.receiver, 1)?;
    let sender = Sender::start(connection.sender, 1, BYTES);
    receiver.finish(BYTES)?;
    sender.finish()?;
    transcript.is("bytes received and right", receiver.received(), BYTES)?;
    let completions = receiver.held() as u64;
    transcript.within(
        "completions with data, all with IORING_CQE_F_MORE",
        completions,
        BYTES / 4096..=BYTES / 512,
    )?;
    transcript.completion("the last one", receiver.end(0).as_ref(), 0)
}

pub(super) fn limited(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    const LIMIT: u32 = 100_001;
    let mut receiver = Receiver::new(QUEUE, &Options::default())?;
    let connection = connection()?;
    let flow = receiver.expect(connection.receiver, 1);
    let sender = Sender::start(connection.sender, 1, BYTES);
    let mut requests = 0;
    loop {
        let before = receiver.received();
        receiver.request_bytes(flow, LIMIT)?;
        receiver.until("the request ends", Receiver::all_ended)?;
        requests += 1;
        let end = receiver.end(flow).context("no end")?;
        let came = receiver.received() - before;
        ensure!(end.result == 0, "request {requests} ended with {end:?}");
        if receiver.received() == BYTES {
            break;
        }
        ensure!(
            came == u64::from(LIMIT),
            "request {requests} ended after {came} bytes"
        );
    }
    sender.finish()?;
    receiver.finish(BYTES)?;
    transcript.is("bytes received and right", receiver.received(), BYTES)?;
    let wanted = BYTES / u64::from(LIMIT) + 1;
    transcript.is(
        "requests, the last of which met the end of the stream",
        requests,
        wanted,
    )?;
    transcript
        .why("Their limits divide frames and buffers: a buffer is returned once per completion that names it.");
    Ok(())
}
