//! Data that the kernel copies, and data that it does not.

use std::{io::Write, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::stream::connection;
use crate::{
    fixture::{
        connection::{Connection, Sender, connect},
        lab::{Lab, eventually},
        receiver::Receiver,
        traffic::{PLAIN, PORT, QUEUE},
        transcript::Transcript,
    },
    kit::{
        net,
        zcrx::{Options, sys},
    },
    suites::scenarios::buffers::all_copied,
    traffic::pattern::Pattern,
};

/// Time limit for sent data to arrive.
const ARRIVAL: Duration = Duration::from_secs(15);

fn copied(receiver: &Receiver) -> Result<sys::Stats> {
    receiver.zcrx.stats().context("no statistics")
}

pub(super) fn tiny_payloads(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    const COUNT: u64 = 64;
    let mut receiver = Receiver::new(QUEUE, &Options::default())?;
    let Connection {
        receiver: socket,
        mut sender,
    } = connection()?;
    sender.set_nodelay(true)?;
    let counter = lab.count_flow(PORT)?;
    receiver.add(socket, 1)?;
    let pattern = Pattern::new(1);
    for position in 0..COUNT {
        let mut byte = [0];
        pattern.fill(position, &mut byte);
        sender.write_all(&byte)?;
        receiver.until("the byte comes", |receiver| receiver.received() > position)?;
    }
    transcript.is("bytes received and right", receiver.received(), COUNT)?;
    let counts = lab.counted(counter)?;
    let frames = counts.queues.get(&(QUEUE as u16));
    let frames = frames.context("no frame reached the queue")?;
    transcript.at_least("frames that were split", frames.split, COUNT)?;
    transcript.is("bytes copied", copied(&receiver)?.copy_bytes, 0)
}

pub(super) fn linear_frames(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    const SOCKETS: usize = 16;
    const FRAME: u64 = 300;
    transcript.does(
        "16 sockets receive a frame of 300 bytes each, which the threshold of 1000 leaves unsplit",
    );
    net::set_hds_thresh("eth0", 1000)?;
    let sent = send_one_frame_each(SOCKETS, FRAME);
    net::set_hds_thresh("eth0", 0)?;
    let sockets = sent?;
    transcript
        .does("Then the threshold is 0, and a program binds the queue and receives from them");
    let mut receiver = Receiver::new(QUEUE, &Options::default())?;
    receiver.keep(true);
    for (seed, connection) in (1..).zip(sockets) {
        receiver.add(connection.receiver, seed)?;
    }
    let bytes = SOCKETS as u64 * FRAME;
    receiver.finish(bytes)?;
    transcript.is("bytes received and right", receiver.received(), bytes)?;
    transcript.is(
        "buffers of the area that hold them",
        receiver.held(),
        SOCKETS,
    )?;
    let stats = copied(&receiver)?;
    transcript.is("copies that the kernel counts", stats.copy_count, 0)?;
    transcript.why("It counts copies of fragments (io_zcrx_copy_frag, io_uring/zcrx.c), but not these copies of linear");
    transcript.why("data (io_zcrx_recv_skb).");
    Ok(())
}

/// Connections with `bytes` bytes in their sockets, in a frame each, followed by the end of the
/// stream.
fn send_one_frame_each(sockets: usize, bytes: u64) -> Result<Vec<Connection>> {
    let mut connections = connect(PORT, sockets)?;
    let mut frame = vec![0; usize::try_from(bytes)?];
    for (seed, connection) in (1..).zip(&mut connections) {
        Pattern::new(seed).fill(0, &mut frame);
        connection.sender.write_all(&frame)?;
    }
    for connection in &connections {
        arrived(connection, bytes)?;
        connection.sender.shutdown(std::net::Shutdown::Write)?;
    }
    Ok(connections)
}

fn arrived(connection: &Connection, bytes: u64) -> Result<()> {
    eventually(ARRIVAL, || {
        let unread = rustix::io::ioctl_fionread(&connection.receiver)?;
        ensure!(unread == bytes, "{unread} of {bytes} bytes have arrived");
        Ok(())
    })
}

pub(super) fn payload_in_header(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    const BYTES: u64 = 1 << 20;
    let mut receiver = Receiver::new(QUEUE, &Options::default())?;
    let Connection {
        receiver: socket,
        sender,
    } = connection()?;
    let rule = json!({"direction": "rx", "queue": QUEUE, "action": "payload-in-header"});
    let rule = lab.arm("0", &rule)?;
    receiver.keep(true);
    receiver.add(socket, 1)?;
    let sender = Sender::start(sender, 1, BYTES);
    receiver.finish(BYTES)?;
    sender.finish()?;
    let hits = lab.hits(rule)?.context("the rule is no longer armed")?;
    lab.disarm()?;
    transcript.at_least("frames whose headers have payload behind them", hits, 64)?;
    transcript.is("bytes received and right", receiver.received(), BYTES)?;
    let buffers = receiver.held() as u64;
    transcript.at_least("buffers for both parts of these", buffers, hits)
}

pub(super) fn copy_event(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    const BYTES: u64 = 100_000;
    let options = Options {
        notifications: true,
        ..Options::default()
    };
    let mut receiver = Receiver::new(QUEUE, &options)?;
    let unsteered = |receiver: &mut Receiver, seed: u64| -> Result<()> {
        let connection = connect(PLAIN, 1)?.remove(0);
        let before = receiver.received();
        receiver.add(connection.receiver, seed)?;
        let sender = Sender::start(connection.sender, seed, BYTES);
        receiver.finish(before + BYTES)?;
        sender.finish()
    };
    unsteered(&mut receiver, 1)?;
    transcript.notification(receiver.notified.first(), sys::EVENT_COPY)?;
    unsteered(&mut receiver, 2)?;
    transcript.is(
        "notifications after two streams",
        receiver.notified.len(),
        1,
    )?;
    receiver.zcrx.ring.arm(sys::EVENT_COPY)?;
    unsteered(&mut receiver, 3)?;
    transcript.is(
        "after it was armed, and one more stream",
        receiver.notified.len(),
        2,
    )?;
    transcript.notification(receiver.notified.last(), sys::EVENT_COPY)?;
    all_copied(transcript, copied(&receiver)?.copy_bytes, 3 * BYTES)
}
