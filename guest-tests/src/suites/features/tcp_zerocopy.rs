//! Zero copy of TCP sockets: pages mapped by `TCP_ZEROCOPY_RECEIVE`, memory sent by `MSG_ZEROCOPY`
//! and `IORING_OP_SEND_ZC`, and received pages sent back.

use std::{
    io::Write,
    net::TcpStream,
    num::NonZeroU32,
    thread::{self, ScopedJoinHandle},
};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::{
    net::{AddressFamily, Protocol, SocketType, socket},
    pipe::{SpliceFlags, pipe, splice},
};

use super::{
    case::FeatureCase,
    zerocopy_send::{Flagged, Requested, SendCounts, ZeroCopy},
};
use crate::{
    fixture::{
        connection::{Sender, connect, read_all},
        lab::Lab,
        settings::{with_mtu, without_split},
        traffic::ZERO_COPY,
        transcript::Transcript,
    },
    kit::mapped::Mapping,
    runtime::ports::{PEER, in_netns},
    traffic::pattern::Pattern,
};

const PORT: u16 = ZERO_COPY.1;
const BYTES: u64 = 4 << 20;
const SEED: u64 = 11;
/// An MTU with which the payload of a segment is a page: 20 bytes of IPv4, 20 of TCP, 12 of its
/// timestamps.
pub(super) const PAGES: &str = "4148";
pub(super) const PAGE: u64 = 4096;

pub(super) const CASES: &[FeatureCase] = &[
    FeatureCase {
        name: "tcp zero copy: with header split every page is mapped (TCP_ZEROCOPY_RECEIVE)",
        run: mapped_with_split,
    },
    FeatureCase {
        name: "tcp zero copy: without header split no page is mapped (TCP_ZEROCOPY_RECEIVE)",
        run: mapped_without_split,
    },
    FeatureCase {
        name: "tcp zero copy: data sent by MSG_ZEROCOPY is not copied, and each send completes",
        run: |_, transcript| {
            sent(transcript, "calls", |socket| {
                Ok(Box::new(Flagged::new(socket)?))
            })
        },
    },
    FeatureCase {
        name: "tcp zero copy: data sent by SEND_ZC of io_uring is not copied, and each request notifies",
        run: |_, transcript| {
            sent(transcript, "requests", |socket| {
                Ok(Box::new(Requested::new(socket)?))
            })
        },
    },
    FeatureCase {
        name: "tcp zero copy: data that a packet socket sees is copied, and MSG_ZEROCOPY reports it",
        run: |_, transcript| watched(transcript, |socket| Ok(Box::new(Flagged::new(socket)?))),
    },
    FeatureCase {
        name: "tcp zero copy: data that a packet socket sees is copied, and SEND_ZC reports it",
        run: |_, transcript| watched(transcript, |socket| Ok(Box::new(Requested::new(socket)?))),
    },
    FeatureCase {
        name: "tcp zero copy: received pages that are mapped are sent back by MSG_ZEROCOPY",
        run: |_, transcript| looped(transcript, |socket| Ok(Box::new(Flagged::new(socket)?))),
    },
    FeatureCase {
        name: "tcp zero copy: received pages that are mapped are sent back by SEND_ZC",
        run: |_, transcript| looped(transcript, |socket| Ok(Box::new(Requested::new(socket)?))),
    },
    FeatureCase {
        name: "tcp zero copy: received pages are sent back by splice",
        run: |_, transcript| with_mtu(PAGES, || spliced(transcript)),
    },
];

/// Opens a zero-copy sender on a socket.
type OpenSender = for<'s> fn(&'s TcpStream) -> Result<Box<dyn ZeroCopy + 's>>;

/// Receives by `TCP_ZEROCOPY_RECEIVE`, and verifies. Returns the number of mapped bytes, and the
/// result of `then`, which runs while all of them are still mapped.
pub(super) fn map<T>(bytes: u64, then: impl FnOnce() -> Result<T>) -> Result<(u64, T)> {
    let connection = connect(PORT, 1)?.pop().context("one connection")?;
    let sender = Sender::start(connection.sender, SEED, bytes);
    let pattern = Pattern::new(SEED);
    let (mut received, mut mapped) = (0, 0);
    let mut mapping = Mapping::keeping(&connection.receiver, bytes as usize)?;
    let mut buffer = vec![0; 64 << 10];
    while let Some(piece) = mapping.next(&mut buffer)? {
        for bytes in [piece.mapped, piece.copied] {
            pattern.verify(received, bytes)?;
            received += bytes.len() as u64;
        }
        mapped += piece.mapped.len() as u64;
    }
    sender.finish()?;
    ensure!(received == bytes, "{received} bytes arrived, not {bytes}");
    Ok((mapped, then()?))
}

fn mapped_with_split(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let mapped = with_mtu(PAGES, || map(BYTES, || Ok(())))?.0;
    transcript.sees("bytes received and right", BYTES);
    // Where a retransmission segments the stream differently, pages are not full.
    transcript.within(
        "pages mapped",
        mapped / PAGE,
        BYTES / PAGE * 97 / 100..=BYTES / PAGE,
    )?;
    transcript.sees("of", BYTES / PAGE);
    Ok(())
}

fn mapped_without_split(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let mapped = without_split(|| with_mtu(PAGES, || map(BYTES, || Ok(()))))?.0;
    transcript.sees("bytes received and right", BYTES);
    // can_map_frag() (net/ipv4/tcp.c) wants whole pages, and these also have headers.
    transcript.is("pages mapped", mapped / PAGE, 0)
}

/// A thread that verifies the whole stream.
fn verifier<'t>(
    scope: &'t thread::Scope<'t, '_>,
    socket: TcpStream,
) -> ScopedJoinHandle<'t, Result<u64>> {
    scope.spawn(move || read_all(&socket, SEED))
}

/// Sends the stream from one buffer, some pages at a time, to a thread that verifies it.
fn send_all(transcript: &Transcript, open: OpenSender) -> Result<SendCounts> {
    let connection = connect(PORT, 1)?.pop().context("one connection")?;
    let mut memory = vec![0; BYTES as usize];
    Pattern::new(SEED).fill(0, &mut memory);
    thread::scope(|scope| {
        let verifier = verifier(scope, connection.receiver);
        let sender = connection.sender;
        let mut send = open(&sender)?;
        memory
            .chunks(64 << 10)
            .try_for_each(|chunk| send.send(chunk))?;
        let sent = send.finish()?;
        drop(send);
        drop(sender);
        transcript.is("bytes received and right", finished(verifier)?, BYTES)?;
        Ok(sent)
    })
}

fn finished<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

fn sent(transcript: &Transcript, calls: &str, open: OpenSender) -> Result<()> {
    let sent = send_all(transcript, open)?;
    transcript.at_least(calls, sent.sends, BYTES / (64 << 10))?;
    transcript.is("completed", sent.completed, sent.sends)?;
    transcript.is("of them with data that was copied", sent.copied, 0)
}

/// A packet socket gets a clone, and the kernel copies data that may loop to a receiver before that
/// (`skb_orphan_frags_rx()` in `dev_queue_xmit_nit()`, net/core/dev.c).
fn watched(transcript: &Transcript, open: OpenSender) -> Result<()> {
    /// `ETH_P_ALL`, in network byte order.
    const ALL: NonZeroU32 = NonZeroU32::new(0x0003_u16.to_be() as u32).unwrap();
    let watcher = in_netns(Some(PEER), || {
        let protocol = Protocol::from_raw(ALL);
        Ok(socket(
            AddressFamily::PACKET,
            SocketType::RAW,
            Some(protocol),
        )?)
    })?;
    let sent = send_all(transcript, open)?;
    drop(watcher);
    transcript.at_least("sends", sent.sends, BYTES / (64 << 10))?;
    transcript.is("completed", sent.completed, sent.sends)?;
    transcript.is("of them with data that was copied", sent.copied, sent.sends)
}

/// Sends pages back while they are mapped, and maps the next ones in their place: the sending
/// socket has its own references to them.
fn looped(transcript: &Transcript, open: OpenSender) -> Result<()> {
    let (mapped, sent) = with_mtu(PAGES, || {
        let connection = connect(PORT, 1)?.pop().context("one connection")?;
        let back = connection.sender.try_clone()?;
        let sender = Sender::start(connection.sender, SEED, BYTES);
        let socket = connection.receiver;
        thread::scope(|scope| {
            let verifier = verifier(scope, back);
            let mut send = open(&socket)?;
            let mut mapping = Mapping::new(&socket)?;
            let mut buffer = vec![0; 64 << 10];
            let mut mapped = 0;
            while let Some(piece) = mapping.next(&mut buffer)? {
                if !piece.mapped.is_empty() {
                    send.send(piece.mapped)?;
                    mapped += piece.mapped.len() as u64;
                }
                (&socket).write_all(piece.copied)?;
            }
            let sent = send.finish()?;
            drop(send);
            socket.shutdown(std::net::Shutdown::Write)?;
            sender.finish()?;
            transcript.is(
                "bytes that came back and are right",
                finished(verifier)?,
                BYTES,
            )?;
            Ok((mapped, sent))
        })
    })?;
    transcript.at_least(
        "pages mapped and sent back",
        mapped / PAGE,
        BYTES / PAGE * 90 / 100,
    )?;
    transcript.at_least("sends", sent.sends, 1)?;
    transcript.is("completed", sent.completed, sent.sends)?;
    transcript.is("of them with data that was copied", sent.copied, 0)
}

fn spliced(transcript: &Transcript) -> Result<()> {
    let connection = connect(PORT, 1)?.pop().context("one connection")?;
    let back = connection.sender.try_clone()?;
    let sender = Sender::start(connection.sender, SEED, BYTES);
    let socket = connection.receiver;
    let (from, to) = pipe()?;
    thread::scope(|scope| {
        let verifier = verifier(scope, back);
        let mut passed = 0;
        loop {
            let mut length = splice(&socket, None, &to, None, 1 << 20, SpliceFlags::MOVE)?;
            if length == 0 {
                break;
            }
            passed += length as u64;
            while length > 0 {
                length -= splice(&from, None, &socket, None, length, SpliceFlags::MOVE)?;
            }
        }
        socket.shutdown(std::net::Shutdown::Write)?;
        sender.finish()?;
        transcript.is("bytes passed on", passed, BYTES)?;
        transcript.is(
            "bytes that came back and are right",
            finished(verifier)?,
            BYTES,
        )
    })
}
