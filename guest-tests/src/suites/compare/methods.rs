//! The compared receive methods.

use std::{
    io::{ErrorKind, Read},
    net::TcpStream,
    os::fd::AsFd,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::event::epoll;

use crate::{
    fixture::{receiver::bind_patiently, traffic::ZERO_COPY},
    kit::{
        mapped::Mapping,
        zcrx::{CompletionKind, Options, Zcrx},
    },
    traffic::pattern::Pattern,
};

/// Bytes per call of `recv()`.
const READ: usize = 256 << 10;
/// Bytes of a large page.
const LARGE: u32 = 32 << 10;
/// Time limit for every wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// A receive method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// `recv()` in a loop.
    Recv,
    /// `recv()` when `epoll_wait()` reports data.
    Epoll,
    /// Pages mapped by `TCP_ZEROCOPY_RECEIVE`.
    Mapped,
    /// Zero-copy receive of `io_uring` into pages of 4 KiB.
    Zcrx,
    /// The same into pages of 32 KiB, with hardware GRO, which fills them.
    ZcrxLarge,
}

/// Bytes received so far.
pub(super) struct ByteCounts<'p> {
    pub(super) bytes: u64,
    /// Bytes that the kernel copied.
    pub(super) copied: u64,
    /// The pattern to verify the stream with, if at all.
    pub(super) pattern: Option<&'p Pattern>,
}

impl ByteCounts<'_> {
    /// Counts the next bytes of the stream.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(pattern) = self.pattern {
            pattern.verify(self.bytes, bytes)?;
        }
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Counts the next bytes, which the kernel copied.
    fn take_copied(&mut self, bytes: &[u8]) -> Result<()> {
        self.copied += bytes.len() as u64;
        self.take(bytes)
    }
}

/// State that a method needs before the connection exists.
pub(super) enum MethodReceiver {
    Recv,
    Epoll,
    Mapped,
    Zcrx(Box<Zcrx>),
}

impl Method {
    pub(super) const ALL: [Self; 5] = [
        Self::Recv,
        Self::Epoll,
        Self::Mapped,
        Self::Zcrx,
        Self::ZcrxLarge,
    ];

    /// Name of its figure.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Recv => "recv",
            Self::Epoll => "guest_epoll",
            Self::Mapped => "guest_tcp_zerocopy_receive",
            Self::Zcrx => "guest_zcrx",
            Self::ZcrxLarge => "guest_zcrx_32k_gro",
        }
    }

    /// Whether the NIC coalesces segments (hardware GRO).
    pub(super) fn coalesces(self) -> bool {
        self == Self::ZcrxLarge
    }

    pub(super) fn open(self) -> Result<MethodReceiver> {
        let bind = |buf_len| -> Result<MethodReceiver> {
            let options = Options {
                buf_len,
                ..Options::default()
            };
            let (zcrx, _) = bind_patiently(ZERO_COPY.0, &options)?;
            Ok(MethodReceiver::Zcrx(Box::new(zcrx)))
        };
        match self {
            Self::Recv => Ok(MethodReceiver::Recv),
            Self::Epoll => Ok(MethodReceiver::Epoll),
            Self::Mapped => Ok(MethodReceiver::Mapped),
            Self::Zcrx => bind(None),
            Self::ZcrxLarge => bind(Some(LARGE)),
        }
    }
}

impl MethodReceiver {
    /// Receives until the stream ends.
    pub(super) fn receive(
        &mut self,
        socket: &TcpStream,
        received: &mut ByteCounts<'_>,
    ) -> Result<()> {
        match self {
            Self::Recv => {
                socket.set_read_timeout(Some(PATIENCE))?;
                read_all(socket, received).map(drop)
            }
            Self::Epoll => wait_and_read(socket, received),
            Self::Mapped => {
                let mut mapping = Mapping::new(socket)?;
                let mut buffer = vec![0; READ];
                while let Some(piece) = mapping.next(&mut buffer)? {
                    received.take(piece.mapped)?;
                    received.take_copied(piece.copied)?;
                }
                Ok(())
            }
            Self::Zcrx(zcrx) => take_completions(zcrx, socket, received),
        }
    }
}

/// Reads until there is no more data for now; returns whether the stream has ended.
fn read_all(mut socket: &TcpStream, received: &mut ByteCounts<'_>) -> Result<bool> {
    let mut buffer = vec![0; READ];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(length) => received.take_copied(&buffer[..length])?,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("receiving"),
        }
    }
}

fn wait_and_read(socket: &TcpStream, received: &mut ByteCounts<'_>) -> Result<()> {
    socket.set_nonblocking(true)?;
    let waiter = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let data = epoll::EventData::new_u64(0);
    epoll::add(&waiter, socket, data, epoll::EventFlags::IN)?;
    let timeout = PATIENCE.try_into()?;
    let mut events = Vec::with_capacity(1);
    loop {
        events.clear();
        let spare = rustix::buffer::spare_capacity(&mut events);
        if epoll::wait(&waiter, spare, Some(&timeout))? == 0 {
            bail!("no data for {PATIENCE:?}");
        }
        if read_all(socket, received)? {
            return Ok(());
        }
    }
}

fn take_completions(
    zcrx: &mut Zcrx,
    socket: &TcpStream,
    received: &mut ByteCounts<'_>,
) -> Result<()> {
    let copied = |zcrx: &Zcrx| zcrx.stats().map_or(0, |stats| stats.copy_bytes);
    let before = copied(zcrx);
    zcrx.ring.receive(socket.as_fd(), 0, 0)?;
    loop {
        zcrx.ring.wait(PATIENCE)?;
        let at = received.bytes;
        while let Some(completion) = zcrx.ring.next_completion() {
            match completion.kind {
                CompletionKind::Data(buffer) => {
                    let bytes = zcrx.bytes(buffer);
                    received.take(bytes.context("a buffer is not in the area")?)?;
                    zcrx.recycle(buffer);
                }
                CompletionKind::End if completion.result == 0 => {
                    received.copied += copied(zcrx) - before;
                    return Ok(());
                }
                CompletionKind::End => bail!("receiving ended with {}", completion.result),
                CompletionKind::Notification => {}
            }
        }
        if received.bytes == at {
            bail!("no data for {PATIENCE:?}");
        }
        zcrx.publish();
    }
}
