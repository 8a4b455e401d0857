//! Provided buffers of `io_uring`: a receive request names a group of buffers, and the kernel
//! chooses one.

use std::{
    io,
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::io::ioctl_fionread;

use super::case::FeatureCase;
use crate::{
    fixture::{
        connection::{Sender, connect},
        lab::Lab,
        traffic::ZERO_COPY,
        transcript::Transcript,
    },
    kit::provided::{BufferCompletion, BufferGroup, GroupKind, Receive},
    traffic::pattern::Pattern,
};

const PORT: u16 = ZERO_COPY.1;
const BYTES: u64 = 2 << 20;
/// Bytes of a buffer.
const LENGTH: u32 = 4096;

pub(super) const CASES: &[FeatureCase] = &[
    FeatureCase {
        name: "provided buffers: classic buffers are used once each, in their order",
        run: |_, transcript| once_each(transcript, GroupKind::Classic),
    },
    FeatureCase {
        name: "provided buffers: buffers of a ring are used once each, in their order",
        run: |_, transcript| once_each(transcript, GroupKind::Ring),
    },
    FeatureCase {
        name: "provided buffers: classic buffers, replenished one at a time",
        run: |_, transcript| replenished(transcript, GroupKind::Classic, 1),
    },
    FeatureCase {
        name: "provided buffers: classic buffers, replenished 32 at a time",
        run: |_, transcript| replenished(transcript, GroupKind::Classic, 32),
    },
    FeatureCase {
        name: "provided buffers: buffers of a ring, replenished one at a time",
        run: |_, transcript| replenished(transcript, GroupKind::Ring, 1),
    },
    FeatureCase {
        name: "provided buffers: buffers of a ring, replenished 32 at a time",
        run: |_, transcript| replenished(transcript, GroupKind::Ring, 32),
    },
    FeatureCase {
        name: "provided buffers: one request receives a whole stream (multishot)",
        run: multishot,
    },
    FeatureCase {
        name: "provided buffers: the next receive continues in the rest of a buffer (IOU_PBUF_RING_INC)",
        run: incremental,
    },
    FeatureCase {
        name: "provided buffers: one completion covers several buffers (bundle)",
        run: bundles,
    },
    FeatureCase {
        name: "provided buffers: without classic buffers a request ends with ENOBUFS, and a new one continues with some",
        run: |_, transcript| exhausted(transcript, GroupKind::Classic),
    },
    FeatureCase {
        name: "provided buffers: with an empty ring a request ends with ENOBUFS, and a new one continues with some",
        run: |_, transcript| exhausted(transcript, GroupKind::Ring),
    },
];

/// A stream that is received into a group's buffers.
struct BufferStream {
    group: BufferGroup,
    socket: TcpStream,
    sender: Sender,
    pattern: Pattern,
    bytes: u64,
    received: u64,
}

impl BufferStream {
    /// Makes a group of buffers, none of them provided, and starts to send.
    fn start(kind: GroupKind, buffers: u16, length: u32, bytes: u64) -> Result<Self> {
        const SEED: u64 = 7;
        let connection = connect(PORT, 1)?.pop().context("one connection")?;
        Ok(Self {
            group: BufferGroup::new(kind, buffers, length)?,
            socket: connection.receiver,
            sender: Sender::start(connection.sender, SEED, bytes),
            pattern: Pattern::new(SEED),
            bytes,
            received: 0,
        })
    }

    fn request(&mut self, how: Receive) -> Result<()> {
        self.group.receive(&self.socket, how)
    }

    /// Waits for the next completion.
    fn next(&mut self) -> Result<BufferCompletion> {
        loop {
            if let Some(completion) = self.group.next()? {
                return Ok(completion);
            }
            self.group.wait(1)?;
        }
    }

    /// Verifies the next bytes of the stream, at a place in a buffer.
    fn take(&mut self, buffer: u16, offset: usize, length: usize) -> Result<()> {
        let bytes = self.group.bytes(buffer, offset, length)?;
        self.pattern.verify(self.received, bytes)?;
        self.received += bytes.len() as u64;
        Ok(())
    }

    /// Verifies a completion's bytes, from the start of its buffer on. Returns the buffer; `None`
    /// at the end of the stream.
    fn take_whole(&mut self, completion: &BufferCompletion) -> Result<Option<u16>> {
        let length = received(completion)?;
        if length == 0 {
            return Ok(None);
        }
        let buffer = completion.buffer.context("a receive without a buffer")?;
        self.take(buffer, 0, length)?;
        Ok(Some(buffer))
    }

    /// Checks that the whole stream has been received.
    fn finish(self, transcript: &Transcript) -> Result<()> {
        self.sender.finish()?;
        transcript.is("bytes received and right", self.received, self.bytes)
    }
}

/// Bytes of a completion; fails if it is an error.
fn received(completion: &BufferCompletion) -> Result<usize> {
    let error = || io::Error::from_raw_os_error(-completion.result);
    usize::try_from(completion.result)
        .map_err(|_| error())
        .context("receiving")
}

/// There are more buffers than needed, and at the end the kernel has the unused ones.
fn once_each(transcript: &Transcript, kind: GroupKind) -> Result<()> {
    const BUFFERS: u16 = 4096;
    let mut stream = BufferStream::start(kind, BUFFERS, LENGTH, BYTES)?;
    stream.group.provide(0, BUFFERS)?;
    let mut used = 0;
    loop {
        stream.request(Receive::Once)?;
        let completion = stream.next()?;
        let Some(buffer) = stream.take_whole(&completion)? else {
            // The kernel chose it, found no data for it, and recycled it (io_kbuf_recycle).
            break;
        };
        ensure!(
            buffer == used,
            "buffer {buffer} was used before buffer {used}"
        );
        used += 1;
    }
    transcript.within(
        "buffers used",
        used.into(),
        BYTES / u64::from(LENGTH)..=u64::from(BUFFERS) - 1,
    )?;
    transcript.is(
        "buffers that the kernel still has",
        stream.group.left()?,
        BUFFERS - used,
    )?;
    stream.finish(transcript)
}

/// The kernel has 128 buffers; as soon as `batch` of them are read, they are provided again.
fn replenished(transcript: &Transcript, kind: GroupKind, batch: u16) -> Result<()> {
    const BUFFERS: u16 = 128;
    let mut stream = BufferStream::start(kind, BUFFERS, LENGTH, BYTES)?;
    stream.group.provide(0, BUFFERS)?;
    let (mut uses, mut batches) = (0_u64, 0);
    loop {
        stream.request(Receive::Once)?;
        let completion = stream.next()?;
        let Some(buffer) = stream.take_whole(&completion)? else {
            break;
        };
        let expected = uses % u64::from(BUFFERS);
        ensure!(
            u64::from(buffer) == expected,
            "buffer {buffer} instead of {expected}"
        );
        uses += 1;
        if uses.is_multiple_of(batch.into()) {
            stream.group.provide(buffer + 1 - batch, batch)?;
            batches += 1;
        }
    }
    transcript.at_least("uses of 128 buffers", uses, BYTES / u64::from(LENGTH))?;
    transcript.is(
        "times that some were replenished",
        batches,
        uses / u64::from(batch),
    )?;
    let unread = u16::try_from(uses % u64::from(batch))?;
    transcript.is(
        "buffers that the kernel has at the end",
        stream.group.left()?,
        BUFFERS - unread,
    )?;
    stream.finish(transcript)
}

fn multishot(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    const BUFFERS: u16 = 2048;
    let mut stream = BufferStream::start(GroupKind::Ring, BUFFERS, LENGTH, BYTES)?;
    stream.group.provide(0, BUFFERS)?;
    stream.request(Receive::Multishot)?;
    let mut completions = 0;
    loop {
        let completion = stream.next()?;
        let Some(buffer) = stream.take_whole(&completion)? else {
            break;
        };
        ensure!(completion.goes_on, "the request ended: {completion:?}");
        completions += 1;
        stream.group.provide(buffer, 1)?;
    }
    transcript.at_least(
        "completions of the one request",
        completions,
        BYTES / u64::from(LENGTH),
    )?;
    stream.finish(transcript)
}

fn incremental(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    const BUFFERS: u16 = 8;
    const LENGTH: u32 = 64 << 10;
    const RECEIVE: u32 = 10_000;
    let mut stream = BufferStream::start(GroupKind::Incremental, BUFFERS, LENGTH, BYTES)?;
    stream.group.provide(0, BUFFERS)?;
    let (mut completions, mut full, mut offset) = (0, 0, 0);
    loop {
        stream.request(Receive::AtMost(RECEIVE))?;
        let completion = stream.next()?;
        let length = received(&completion)?;
        if length == 0 {
            break;
        }
        completions += 1;
        let buffer = completion.buffer.context("a receive without a buffer")?;
        let expected = full % u64::from(BUFFERS);
        ensure!(
            u64::from(buffer) == expected,
            "buffer {buffer} instead of {expected}"
        );
        stream.take(buffer, offset, length)?;
        offset += length;
        // IORING_CQE_F_BUF_MORE as long as anything is left (io_kbuf_inc_commit).
        ensure!(
            completion.buffer_goes_on == (offset < LENGTH as usize),
            "with {offset} bytes of {LENGTH} used: {completion:?}"
        );
        if !completion.buffer_goes_on {
            stream.group.provide(buffer, 1)?;
            full += 1;
            offset = 0;
        }
    }
    transcript.is(
        "buffers filled to the last byte",
        full,
        BYTES / u64::from(LENGTH),
    )?;
    transcript.at_least("receives", completions, BYTES / u64::from(RECEIVE))?;
    stream.finish(transcript)
}

fn bundles(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    const BUFFERS: u16 = 2048;
    const WAITING: u64 = 32 << 10;
    let mut stream = BufferStream::start(GroupKind::Ring, BUFFERS, LENGTH, BYTES)?;
    stream.group.provide(0, BUFFERS)?;
    until_waiting(&stream.socket, WAITING)?;
    stream.request(Receive::Bundles)?;
    let (mut completions, mut buffers, mut most) = (0, 0, 0);
    let mut requests = 1;
    loop {
        let completion = stream.next()?;
        let mut left = received(&completion)?;
        if left == 0 {
            break;
        }
        completions += 1;
        // The first of them has a number, and the others are the ones behind it.
        let first = completion.buffer.context("a receive without a buffer")?;
        let mut number = 0;
        while left > 0 {
            let buffer = (first + number) % BUFFERS;
            let length = left.min(LENGTH as usize);
            stream.take(buffer, 0, length)?;
            stream.group.provide(buffer, 1)?;
            left -= length;
            number += 1;
        }
        buffers += u64::from(number);
        most = most.max(number);
        if !completion.goes_on {
            stream.request(Receive::Bundles)?;
            requests += 1;
        }
    }
    transcript.sees("requests", requests);
    transcript.sees("completions", completions);
    transcript.at_least("buffers filled", buffers, BYTES / u64::from(LENGTH))?;
    transcript.at_least(
        "of them by one completion",
        most.into(),
        WAITING / u64::from(LENGTH) / 2,
    )?;
    transcript.at_least(
        "buffers by completion, times 10",
        10 * buffers / completions,
        20,
    )?;
    stream.finish(transcript)
}

/// Waits until `bytes` bytes can be read.
fn until_waiting(socket: &TcpStream, bytes: u64) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let waiting = ioctl_fionread(socket)?;
        if waiting >= bytes {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("{waiting} bytes of {bytes} have come");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn exhausted(transcript: &Transcript, kind: GroupKind) -> Result<()> {
    const BUFFERS: u16 = 16;
    let mut stream = BufferStream::start(kind, BUFFERS, LENGTH, BYTES)?;
    stream.group.provide(0, BUFFERS)?;
    stream.request(Receive::Multishot)?;
    transcript.does("A program with 16 buffers reads the stream, and provides none again");
    for expected in 0..BUFFERS {
        let completion = stream.next()?;
        let buffer = stream.take_whole(&completion)?;
        ensure!(buffer == Some(expected), "{buffer:?} instead of {expected}");
    }
    let end = stream.next()?;
    transcript.is("the request's end (-ENOBUFS)", end.result, -libc::ENOBUFS)?;
    ensure!(!end.goes_on && end.buffer.is_none(), "{end:?}");
    let received = stream.received;
    transcript.within(
        "bytes before that",
        received,
        1..=u64::from(BUFFERS) * u64::from(LENGTH),
    )?;

    transcript.does("It provides all of them again, and then each one when it is read");
    stream.group.provide(0, BUFFERS)?;
    stream.request(Receive::Multishot)?;
    let mut ends = 1;
    loop {
        let completion = stream.next()?;
        if completion.result == -libc::ENOBUFS {
            ends += 1;
            stream.request(Receive::Multishot)?;
            continue;
        }
        let Some(buffer) = stream.take_whole(&completion)? else {
            break;
        };
        stream.group.provide(buffer, 1)?;
    }
    transcript.sees("requests that ended with ENOBUFS", ends);
    stream.finish(transcript)
}
