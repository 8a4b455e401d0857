//! Sending from dmabufs.

use std::{
    io::{self, Read},
    net::{Shutdown, TcpStream},
    os::fd::AsFd,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    fixture::{
        connection::{Connection, connect},
        lab::Lab,
        traffic::PORT,
        transcript::Transcript,
    },
    kit::{
        devmem::{Binding, send},
        dmabuf::Dmabuf,
        socket::{allow_zerocopy, sent},
    },
    traffic::pattern::Pattern,
};

const BYTES: usize = 4 << 20;
/// Bytes per call: not a multiple of a page, so that most calls start and end within a page.
const CALL: usize = 60_001;
const PATIENCE: Duration = Duration::from_secs(60);

/// A dmabuf that holds the pattern of seed 1, and a connection to send it on from eth0.
fn prepare() -> Result<(Dmabuf, Connection)> {
    let mut dmabuf = Dmabuf::new(BYTES, false).context("making a udmabuf")?;
    let mut bytes = vec![0; BYTES];
    Pattern::new(1).fill(0, &mut bytes);
    dmabuf.write(0, &bytes)?;
    let connection = connect(PORT, 1)?.remove(0);
    allow_zerocopy(&connection.receiver)?;
    Ok((dmabuf, connection))
}

/// Reads to the end, and verifies.
fn read_all(mut socket: TcpStream) -> Result<u64> {
    let pattern = Pattern::new(1);
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; 256 << 10];
    let mut received = 0;
    loop {
        let length = socket.read(&mut buffer).context("receiving")?;
        if length == 0 {
            return Ok(received);
        }
        pattern.verify(received, &buffer[..length])?;
        received += length as u64;
    }
}

/// Takes all completions, and fails if one is of a copy; returns the number of completed calls.
fn take_news(socket: &TcpStream) -> Result<u32> {
    let mut calls = 0;
    while let Some(completed) = sent(socket.as_fd())? {
        ensure!(!completed.copied, "the kernel sent a copy: {completed:?}");
        calls += completed.last - completed.first + 1;
    }
    Ok(calls)
}

pub(super) fn stream(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let (dmabuf, Connection { receiver, sender }) = prepare()?;
    let binding = Binding::transmit("eth0", &dmabuf)?;
    let reader = thread::spawn(move || read_all(sender));
    receiver.set_write_timeout(Some(PATIENCE))?;
    let (mut offset, mut calls, mut done) = (0, 0, 0);
    while offset < BYTES {
        let len = CALL.min(BYTES - offset);
        offset += send(&receiver, binding.id(), offset, len, libc::MSG_ZEROCOPY)
            .with_context(|| format!("sending at {offset}"))?;
        calls += 1;
    }
    receiver.shutdown(Shutdown::Write)?;
    let received = reader.join();
    let received = received.map_err(|_| anyhow!("the reader panicked"))??;
    transcript.is("bytes received and right", received, BYTES as u64)?;
    while done < calls {
        let timeout = Timespec::try_from(PATIENCE)?;
        let ready = poll(
            &mut [PollFd::new(&receiver, PollFlags::ERR)],
            Some(&timeout),
        )?;
        ensure!(ready > 0, "no completions of {calls} calls after {done}");
        done += take_news(&receiver)?;
    }
    transcript.is("calls reported as completed, none by a copy", done, calls)
}

pub(super) fn refusals(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let (dmabuf, Connection { receiver, sender }) = prepare()?;
    let binding = Binding::transmit("eth0", &dmabuf)?;
    let fails = |label: &str, result: io::Result<usize>, errno: i32| match result {
        Err(error) if error.raw_os_error() == Some(errno) => {
            transcript.sees(label, &error);
            Ok(())
        }
        other => bail!("{label}: {other:?}"),
    };
    let id = binding.id();
    let zerocopy = libc::MSG_ZEROCOPY;
    fails(
        "without MSG_ZEROCOPY",
        send(&receiver, id, 0, CALL, 0),
        libc::EINVAL,
    )?;
    fails(
        "beyond its end",
        send(&receiver, id, BYTES, CALL, zerocopy),
        libc::EFAULT,
    )?;
    fails(
        "a dmabuf that is not bound",
        send(&receiver, id + 1, 0, CALL, zerocopy),
        libc::EINVAL,
    )?;
    allow_zerocopy(&sender)?;
    fails(
        "on another interface than its binding's",
        send(&sender, id, 0, CALL, zerocopy),
        libc::ENODEV,
    )?;
    drop(binding);
    fails(
        "after its binding was closed",
        send(&receiver, id, 0, CALL, zerocopy),
        libc::EINVAL,
    )
}
