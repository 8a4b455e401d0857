//! Streams that run while a test changes the ports, and watches over them.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use zcnic_guest_protocol::event::ReceiveResult;
use zcnic_testbed::{
    agent::{Exec, Process},
    guest::Guest,
    stream::{Counter, Flow, Stream},
};

use super::test::expect;

/// Longer than any outage that a test makes.
const PATIENCE: Duration = Duration::from_secs(240);
/// More bytes than any test transfers: streams that run until they are aborted.
pub(super) const ENDLESS: u64 = 1 << 44;

/// Steers a flow to the demo's queue and receives `bytes` of it there by io_uring zero-copy
/// receive. The device counts its frames.
pub(super) fn zero_copy(guest: &mut Guest, bytes: u64) -> Result<(Flow, Counter)> {
    let stream = Stream {
        bytes,
        ..Stream::default()
    };
    stream.prepare(guest)?;
    let counter = stream.count(guest)?;
    Ok((stream.start(guest)?, counter))
}

/// Starts an endless stream that plain reads receive.
pub(super) fn plain(guest: &Guest) -> Result<Flow> {
    Flow::start(guest, Stream::default().port, ENDLESS, &["--plain"])
}

/// Starts a stream whose data arrives and is never read.
pub(super) fn unread(guest: &Guest) -> Result<Flow> {
    let port = Stream::default().port;
    let mut flow = Flow::start(guest, port, ENDLESS, &["--plain", "--hold"])?;
    flow.wait_for_data()?;
    Ok(flow)
}

/// As [`zero_copy`], without an end; waits until bytes arrive.
pub(super) fn endless_zero_copy(guest: &mut Guest) -> Result<(Flow, Counter)> {
    let (mut flow, counter) = zero_copy(guest, ENDLESS)?;
    flow.wait_for_progress()?;
    Ok((flow, counter))
}

/// Fails if the kernel copied any byte of a zero-copy stream, by the receiver's result.
pub(super) fn nothing_copied(result: &ReceiveResult) -> Result<()> {
    expect(result.bytes_copied == Some(0), || {
        format!("the kernel copied: {result:?}")
    })
}

/// Makes the device count the frames of these streams.
pub(super) fn count(guest: &Guest) -> Result<Counter> {
    Stream::default().count(guest)
}

/// Fails unless frames came, all of them to the queue, and those with a payload split.
pub(super) fn only_split_on_the_queue(counter: &Counter) -> Result<()> {
    let counts = counter.read(Stream::default().queue)?;
    let fine = counts.split > 0 && counts.unsplit == 0 && counts.elsewhere == 0;
    expect(fine, || {
        format!("not all frames were split, on the right queue: {counts:?}")
    })
}

/// Waits until the ports reach each other again. After an outage, neighbour discovery of earlier
/// packets may have to fail first, and with it the first ping.
pub(super) fn wait_for_answer(guest: &mut Guest) -> Result<()> {
    let script = "for attempt in $(seq 20); do \
                      ip netns exec peer ping -q -c 1 -W 1 192.0.2.1 && exit 0; \
                  done; exit 1";
    guest.sh(script).context("eth0 does not answer").map(drop)
}

/// Follows the messages about eth0's link in the kernel's log.
pub(super) struct LinkWatch(Process);

impl LinkWatch {
    pub(super) fn start(guest: &mut Guest) -> Result<Self> {
        // The log is read from its beginning, so a mark shows where the new messages begin.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("watch {} begins", NEXT.fetch_add(1, Ordering::Relaxed));
        guest.sh(&format!("echo '{mark}' > /dev/kmsg"))?;
        let log = Exec::new(["cat", "/dev/kmsg"]).timeout(PATIENCE);
        let mut watch = Self(guest.spawn(&log)?);
        watch.0.wait_for_line(|line| line.ends_with(&mark))?;
        Ok(watch)
    }

    pub(super) fn down(&mut self) -> Result<()> {
        self.0
            .wait_for_line(|line| line.ends_with("eth0: link down"))
            .context("eth0 does not lose its link")?;
        Ok(())
    }

    pub(super) fn up(&mut self) -> Result<()> {
        self.0
            .wait_for_line(|line| line.ends_with("eth0: link up"))
            .context("eth0 does not get its link back")?;
        Ok(())
    }
}
