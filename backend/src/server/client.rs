//! A client while one of its commands is executed.

use std::{os::unix::net::UnixStream, sync::Arc};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{RecvFlags, recv},
};

use crate::events::Outbox;

/// The client whose command is executed.
pub(super) struct Client<'c> {
    pub(super) stream: &'c UnixStream,
    pub(super) outbox: &'c Arc<Outbox>,
    /// Bytes behind the request that is being executed, as far as they were read already.
    pub(super) more: &'c [u8],
}

impl Client<'_> {
    /// Whether the client no longer waits for the answer: it closed the connection, or its next
    /// line is empty. An empty line is how a program begins that takes over a serial port from
    /// another one.
    pub(super) fn gave_up(&self) -> bool {
        let mut next = [0];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let next = match self.more.first() {
            Some(byte) => Some(*byte),
            None => match recv(self.stream, &mut next, flags) {
                Ok((_, 1)) => Some(next[0]),
                _ => None,
            },
        };
        if next.is_some() {
            return next == Some(b'\n');
        }
        let mut fds = [PollFd::new(self.stream, PollFlags::RDHUP)];
        let now = Timespec::default();
        poll(&mut fds, Some(&now)).is_err()
            || fds[0]
                .revents()
                .intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
    }
}
