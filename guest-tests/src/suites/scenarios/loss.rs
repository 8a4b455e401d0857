//! A lost segment and the memory that its successors take.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::{
    fixture::{
        connection::{Sender, connect},
        lab::Lab,
        receiver::Receiver,
        settings::with_wide_window,
        traffic::{PORT, QUEUE},
        transcript::Transcript,
    },
    kit::zcrx::Options,
};

/// A buffer of the area.
const PAGE: usize = 4096;
/// Enough for thousands of segments.
const BYTES: u64 = 8 << 20;
/// The segment that is lost: by then the sender has a congestion window of about as many.
const LOST: u64 = 1500;

pub(crate) fn area_below_window(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    with_wide_window(|| {
        stuck(lab, transcript)?;
        delivered(lab, transcript)
    })
}

/// Starts a stream into an area of so many buffers, of which one segment is lost.
fn lossy(lab: &mut Lab, buffers: usize) -> Result<(Receiver, Sender)> {
    let options = Options {
        area_bytes: buffers * PAGE,
        ..Options::default()
    };
    let mut receiver = Receiver::new(QUEUE, &options)?;
    let connection = connect(PORT, 1)?.remove(0);
    let rule =
        json!({"direction": "rx", "queue": QUEUE, "nth": LOST, "times": 1, "action": "drop"});
    let lost = lab.arm("0", &rule)?;
    receiver.add(connection.receiver, 1)?;
    let sender = Sender::start(connection.sender, 1, BYTES);
    receiver.until("the stream gets beyond its beginning", |receiver| {
        receiver.received() > LOST * 500
    })?;
    lab.wait_for_hits(lost, 1)?;
    Ok((receiver, sender))
}

fn stuck(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    const BUFFERS: usize = 256;

    transcript.does("A program with 256 buffers returns each at once; one segment is lost");
    transcript.why("The window is of megabytes, and the sender waits long for the missing segment");
    transcript.why("to be acknowledged, as it would on a path that reorders much.");
    let (mut receiver, sender) = lossy(lab, BUFFERS)?;
    receiver.until_quiet(Duration::from_secs(5))?;
    transcript.within("bytes received", receiver.received(), 1..=BYTES - 1)?;
    transcript.is("buffers that the program has", receiver.held(), 0)?;
    let ledger = lab.ledger(QUEUE)?;
    transcript.is("buffers that the device has", ledger.with_device, 0)?;
    ensure!(receiver.end(0).is_none(), "the request ended");
    transcript
        .why("All buffers hold what came behind the hole, in the socket's out-of-order queue.");
    transcript.why("The missing segment is sent again and again, and never finds a buffer.");
    transcript.why("The program can't see it: the area has to be as large as the window");
    transcript.why("(SO_RCVBUF, net.ipv4.tcp_rmem), counted in buffers of one segment each.");
    lab.disarm()?;
    drop(receiver);
    // The connection is reset with data unread.
    let _ = sender.finish();
    Ok(())
}

fn delivered(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    const BUFFERS: usize = 8192;

    transcript.does("The same with 8192 buffers, more than the window has segments");
    let (mut receiver, sender) = lossy(lab, BUFFERS)?;
    receiver.finish(BYTES)?;
    sender.finish()?;
    lab.disarm()?;
    transcript.is("bytes received and right", receiver.received(), BYTES)?;
    let stats = receiver.zcrx.stats().context("no statistics")?;
    transcript.is("bytes copied", stats.copy_bytes, 0)
}
