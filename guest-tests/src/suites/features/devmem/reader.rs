//! Receives a connection's bytes by devmem TCP, verifies each, and keeps or returns fragments as
//! the case asks.

use std::{collections::BTreeSet, net::TcpStream, os::fd::AsFd, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    kit::{
        devmem::{Binding, Fragment, PayloadPiece, dont_need, receive},
        dmabuf::Dmabuf,
    },
    traffic::pattern::Pattern,
};

/// A buffer, unless it is a larger one.
pub(super) const PAGE: u64 = 4096;

/// Time limit without data.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes per call.
const READ: usize = 256 << 10;

/// One connection.
pub(super) struct Reader<'m> {
    pub(super) socket: TcpStream,
    pattern: Pattern,
    /// Dmabufs by the ids of their bindings, present or former.
    memories: Vec<(u32, &'m Dmabuf)>,
    /// Whether to keep fragments instead of returning them.
    pub(super) keeps: bool,
    /// Fragments that were not returned.
    pub(super) held: Vec<Fragment>,
    /// Bytes received in a dmabuf.
    pub(super) in_dmabuf: u64,
    /// Linear bytes of frames whose other bytes are in a dmabuf.
    pub(super) linear: u64,
    /// Bytes received in memory that the kernel reads.
    pub(super) readable: u64,
    ended: bool,
}

impl<'m> Reader<'m> {
    /// Receives the pattern of `seed`.
    pub(super) fn new(
        socket: TcpStream,
        seed: u64,
        memories: &[(&Binding, &'m Dmabuf)],
    ) -> Result<Self> {
        socket.set_read_timeout(Some(PATIENCE))?;
        let memories = memories
            .iter()
            .map(|(binding, dmabuf)| (binding.id(), *dmabuf));
        Ok(Self {
            socket,
            pattern: Pattern::new(seed),
            memories: memories.collect(),
            keeps: false,
            held: Vec::new(),
            in_dmabuf: 0,
            linear: 0,
            readable: 0,
            ended: false,
        })
    }

    /// Bytes verified.
    pub(super) fn received(&self) -> u64 {
        self.in_dmabuf + self.linear + self.readable
    }

    /// Number of buffers that the fragments are in; parts of a buffer that two calls received are
    /// two fragments.
    pub(super) fn buffers(&self) -> u64 {
        let place = |fragment: &Fragment| (fragment.dmabuf, fragment.offset / PAGE);
        self.held.iter().map(place).collect::<BTreeSet<_>>().len() as u64
    }

    /// Returns all kept fragments; returns the number that the kernel knew.
    pub(super) fn give_back(&mut self) -> Result<u64> {
        let tokens: Vec<_> = self.held.drain(..).map(|fragment| fragment.token).collect();
        Ok(dont_need(self.socket.as_fd(), &tokens)? as u64)
    }

    /// Receives until there are `bytes` bytes or more.
    pub(super) fn until(&mut self, bytes: u64) -> Result<()> {
        while self.received() < bytes {
            self.receive()?;
            ensure!(!self.ended, "the stream ended after {}", self.received());
        }
        Ok(())
    }

    /// Receives until the stream ends; fails unless it has `bytes` bytes.
    pub(super) fn finish(&mut self, bytes: u64) -> Result<()> {
        while !self.ended {
            self.receive()?;
        }
        let received = self.received();
        ensure!(received == bytes, "{received} bytes arrived, not {bytes}");
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        let mut buffer = vec![0; READ];
        let came = receive(self.socket.as_fd(), &mut buffer)
            .with_context(|| format!("receiving after {} bytes", self.received()))?;
        self.ended = came.bytes == 0;
        if came.pieces.is_empty() {
            self.pattern
                .verify(self.received(), &buffer[..came.bytes])?;
            self.readable += came.bytes as u64;
            return Ok(());
        }
        let before = self.received();
        let mut linear = buffer.as_slice();
        for piece in came.pieces {
            match piece {
                PayloadPiece::Linear(len) => {
                    let (now, later) = linear
                        .split_at_checked(len as usize)
                        .context("more linear data than the buffer holds")?;
                    self.pattern.verify(self.received(), now)?;
                    self.linear += u64::from(len);
                    linear = later;
                }
                PayloadPiece::Dmabuf(fragment) => {
                    self.take(fragment)?;
                }
            }
        }
        let described = self.received() - before;
        ensure!(
            described == came.bytes as u64,
            "{} bytes arrived, and control messages describe {described}",
            came.bytes
        );
        if !self.keeps {
            let given = self.held.len() as u64;
            let known = self.give_back()?;
            ensure!(known == given, "the kernel knew {known} of {given} tokens");
        }
        Ok(())
    }

    fn take(&mut self, fragment: Fragment) -> Result<()> {
        let mut memories = self.memories.iter();
        let memory = memories.find(|(id, _)| *id == fragment.dmabuf);
        let (_, dmabuf) =
            memory.with_context(|| format!("{fragment:?} is in an unknown dmabuf"))?;
        let bytes = dmabuf
            .memory()
            .bytes(fragment.offset, fragment.len as usize);
        let bytes = bytes.with_context(|| format!("{fragment:?} is not in the dmabuf"))?;
        self.pattern.verify(self.received(), bytes)?;
        self.in_dmabuf += u64::from(fragment.len);
        self.held.push(fragment);
        Ok(())
    }
}
