//! The relay between a frontend's socket and the vhost-user crate's daemon.
//!
//! QEMU's virtio-net sends SET_VRING_ENABLE when the device is realized, before any SET_FEATURES,
//! and the crate refuses it unless VHOST_USER_F_PROTOCOL_FEATURES was acknowledged. So the relay
//! first sends one SET_FEATURES with that bit alone, without asking for a reply. Before that it asks
//! for the features itself: the crate honours REPLY_ACK only of a frontend that did so, and
//! cloud-hypervisor sends SET_PROTOCOL_FEATURES first when it restores a machine. From then on the
//! relay passes on the messages that the [gate](super::gate) lets through, unchanged. It passes whole
//! messages: a relay of bytes could attach a file descriptor to the wrong one.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::Shutdown,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    panic::resume_unwind,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};
use thiserror::Error;

use super::gate::{GET_FEATURES, Gate, GateError, SET_FEATURES};
use crate::descriptors::Share;

/// Request, flags and size of the body, each 32 bits (vhost-user, "Header").
pub(super) const HEADER: usize = 12;

/// The largest body that the crate accepts. Served messages are far smaller.
pub(super) const MAX_BODY: usize = 4096;

/// The most file descriptors that one message may carry: a memory table of 32 regions.
const MAX_FDS: usize = Share::PER_MESSAGE;

/// How long a frontend may take to set something up. QEMU sends SET_OWNER at once.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Why a relay ended before its frontend went away.
#[derive(Debug, Error)]
pub(crate) enum RelayError {
    #[error("Message {request} has a body of {size} bytes, more than {MAX_BODY}")]
    Oversized { request: u32, size: usize },
    #[error(transparent)]
    Refused(#[from] GateError),
    #[error("Message with more than {0} file descriptors")]
    TooManyFds(usize),
    #[error("It set nothing up within {} s", HANDSHAKE.as_secs())]
    Silent,
    #[error("Can't start a thread")]
    Thread(#[source] io::Error),
    #[error("Connection ended inside a message")]
    Truncated,
    #[error("Socket failed")]
    Io(#[from] io::Error),
}

/// One message of the vhost-user protocol.
struct Message {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Message {
    /// A message of protocol version 1 that wants no reply.
    fn new(request: u32, body: &[u8]) -> Self {
        let header = [request, 1, body.len() as u32].map(u32::to_ne_bytes);
        Self {
            bytes: [header.as_flattened(), body].concat(),
            fds: Vec::new(),
        }
    }

    /// SET_FEATURES(1 << 30).
    fn acknowledge_protocol_features() -> Self {
        Self::new(SET_FEATURES, &(1u64 << 30).to_ne_bytes())
    }

    fn request(&self) -> u32 {
        word(&self.bytes, 0)
    }

    fn body(&self) -> &[u8] {
        &self.bytes[HEADER..]
    }

    /// The next message, or `None` at the end of the stream. It may carry `fds` descriptors.
    fn receive(
        from: &UnixStream,
        fds: usize,
        deadline: Option<Instant>,
    ) -> Result<Option<Self>, RelayError> {
        let mut message = Self {
            bytes: vec![0; HEADER],
            fds: Vec::new(),
        };
        let mut have = 0;
        while have < HEADER {
            match message.read(from, have, fds, deadline)? {
                0 if have == 0 => return Ok(None),
                0 => return Err(RelayError::Truncated),
                n => have += n,
            }
        }
        let size = word(&message.bytes, 8) as usize;
        if size > MAX_BODY {
            return Err(RelayError::Oversized {
                request: message.request(),
                size,
            });
        }
        message.bytes.resize(HEADER + size, 0);
        while have < HEADER + size {
            match message.read(from, have, fds, deadline)? {
                0 => return Err(RelayError::Truncated),
                n => have += n,
            }
        }
        Ok(Some(message))
    }

    fn read(
        &mut self,
        from: &UnixStream,
        offset: usize,
        fds: usize,
        deadline: Option<Instant>,
    ) -> Result<usize, RelayError> {
        if let Some(deadline) = deadline {
            wait(from, deadline)?;
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        // The kernel closes descriptors that do not fit.
        let room = rustix::cmsg_space!(ScmRights(fds)).min(space.len());
        let mut control = RecvAncillaryBuffer::new(&mut space[..room]);
        let received = retry(|| {
            recvmsg(
                from,
                &mut [IoSliceMut::new(&mut self.bytes[offset..])],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )
        })?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) || self.fds.len() > fds {
            return Err(RelayError::TooManyFds(fds));
        }
        Ok(received.bytes)
    }

    fn send(&self, to: &UnixStream) -> io::Result<()> {
        let fds: Vec<BorrowedFd<'_>> = self.fds.iter().map(AsFd::as_fd).collect();
        let mut done = 0;
        while done < self.bytes.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if done == 0 && !fds.is_empty() {
                // There is room: `receive` bounds the number.
                control.push(SendAncillaryMessage::ScmRights(&fds));
            }
            let part = [IoSlice::new(&self.bytes[done..])];
            done += retry(|| sendmsg(to, &part, &mut control, SendFlags::NOSIGNAL))?;
        }
        Ok(())
    }
}

/// Passes messages between `frontend` and `daemon` until one of them goes away; then both are shut
/// down.
///
/// # Errors
///
/// The frontend violated the protocol. That it left is not an error.
pub(super) fn relay(
    frontend: &UnixStream,
    daemon: &UnixStream,
    gate: &mut Gate,
) -> Result<(), RelayError> {
    thread::scope(|scope| {
        let result = introduce(daemon).and_then(|()| {
            let replies = thread::Builder::new()
                .name("relay".into())
                .spawn_scoped(scope, || {
                    // Errors follow from the side that hung up, which the other direction reports.
                    let _ = pass_replies(daemon, frontend);
                    hang_up(frontend, daemon);
                })
                .map_err(RelayError::Thread)?;
            let result = pass_requests(frontend, daemon, gate);
            hang_up(frontend, daemon);
            if let Err(panic) = replies.join() {
                resume_unwind(panic);
            }
            result
        });
        hang_up(frontend, daemon);
        match result {
            Err(RelayError::Io(error)) if is_hang_up(&error) => Ok(()),
            result => result,
        }
    })
}

/// Sends what the crate needs to hear before the frontend's first message.
fn introduce(daemon: &UnixStream) -> Result<(), RelayError> {
    Message::new(GET_FEATURES, &[]).send(daemon)?;
    Message::receive(daemon, 0, None)?;
    Message::acknowledge_protocol_features().send(daemon)?;
    Ok(())
}

fn pass_replies(daemon: &UnixStream, frontend: &UnixStream) -> Result<(), RelayError> {
    while let Some(message) = Message::receive(daemon, MAX_FDS, None)? {
        message.send(frontend)?;
    }
    Ok(())
}

/// Passes a frontend's messages on until it leaves.
pub(super) fn pass_requests(
    frontend: &UnixStream,
    daemon: &UnixStream,
    gate: &mut Gate,
) -> Result<(), RelayError> {
    let deadline = Instant::now() + HANDSHAKE;
    loop {
        let deadline = (!gate.is_introduced()).then_some(deadline);
        let Some(message) = Message::receive(frontend, gate.per_message(), deadline)? else {
            return Ok(());
        };
        gate.check(message.request(), message.body(), &message.fds)?;
        message.send(daemon)?;
    }
}

/// Waits until a frontend sent something or left.
fn wait(frontend: &UnixStream, deadline: Instant) -> Result<(), RelayError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).map_err(|_| RelayError::Silent)?;
    let mut frontend = [PollFd::new(frontend, PollFlags::IN)];
    match retry(|| poll(&mut frontend, Some(&left)))? {
        0 => Err(RelayError::Silent),
        _ => Ok(()),
    }
}

fn hang_up(frontend: &UnixStream, daemon: &UnixStream) {
    // An error means that it is shut down already.
    let _ = frontend.shutdown(Shutdown::Both);
    let _ = daemon.shutdown(Shutdown::Both);
}

fn is_hang_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

fn word(bytes: &[u8], offset: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_ne_bytes(word)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Seek, Write},
        sync::Arc,
    };

    use super::*;
    use crate::memory::MemoryRules;
    use crate::notifier::Notifier;

    fn header(request: u32, size: u32) -> Vec<u8> {
        [request, 1, size]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect()
    }

    fn receive(from: &UnixStream) -> Message {
        let message = Message::receive(from, MAX_FDS, None).expect("receive");
        message.expect("message")
    }

    /// Runs a relay; returns the frontend's and the daemon's end and the relay itself.
    fn start() -> (
        UnixStream,
        UnixStream,
        thread::JoinHandle<Result<(), RelayError>>,
    ) {
        let (frontend, near) = UnixStream::pair().expect("socket pair");
        let (far, daemon) = UnixStream::pair().expect("socket pair");
        let handle = thread::spawn(move || {
            let notifier = Arc::new(Notifier::new().expect("AIO"));
            let rules = MemoryRules::default();
            relay(&near, &far, &mut Gate::new(notifier, &rules, Share::FULL))
        });
        // The daemon's answer to the relay's own GET_FEATURES, which the frontend does not see.
        assert_eq!(receive(&daemon).request(), GET_FEATURES);
        Message::new(GET_FEATURES, &[0; 8])
            .send(&daemon)
            .expect("send");
        (frontend, daemon, handle)
    }

    #[test]
    fn first_message_acknowledges_protocol_features() {
        let (frontend, daemon, handle) = start();
        let message = receive(&daemon);
        assert_eq!(message.request(), SET_FEATURES);
        assert_eq!(message.bytes[HEADER..], (1u64 << 30).to_ne_bytes());
        drop(frontend);
        let next = Message::receive(&daemon, MAX_FDS, None);
        assert!(next.expect("end of stream").is_none());
        handle
            .join()
            .expect("relay")
            .expect("a frontend that leaves is no error");
    }

    #[test]
    fn fds_stay_with_their_message() {
        let (frontend, daemon, handle) = start();
        receive(&daemon);

        let mut file: File = rustix::fs::memfd_create("fd", rustix::fs::MemfdFlags::CLOEXEC)
            .map(File::from)
            .expect("memfd");
        file.write_all(b"here").expect("write");
        let with = Message {
            bytes: [header(21, 8), vec![7; 8]].concat(),
            fds: vec![file.into()],
        };
        let without = Message {
            bytes: header(1, 0),
            fds: Vec::new(),
        };
        for message in [&without, &with, &without] {
            message.send(&frontend).expect("send");
        }
        let counts: Vec<usize> = (0..3)
            .map(|_| {
                let mut message = receive(&daemon);
                if let Some(fd) = message.fds.pop() {
                    let mut text = String::new();
                    let mut file = File::from(fd);
                    file.rewind().expect("seek");
                    file.read_to_string(&mut text).expect("read");
                    assert_eq!(text, "here");
                    1
                } else {
                    0
                }
            })
            .collect();
        assert_eq!(counts, [0, 1, 0]);

        // And in the other direction.
        Message {
            bytes: header(1, 0),
            fds: vec![daemon.try_clone().expect("dup").into()],
        }
        .send(&daemon)
        .expect("send");
        assert_eq!(receive(&frontend).fds.len(), 1);
        drop((frontend, daemon));
        handle.join().expect("relay").expect("no error");
    }

    #[test]
    fn oversized_message_ends_the_connection() {
        let (mut frontend, daemon, handle) = start();
        frontend.write_all(&header(2, 1 << 20)).expect("write");
        let error = handle.join().expect("relay").expect_err("oversized");
        assert!(matches!(
            error,
            RelayError::Oversized {
                request: 2,
                size: 0x10_0000
            }
        ));
        assert_eq!(frontend.read(&mut [0; 1]).expect("read"), 0);
        drop(daemon);
    }

    #[test]
    fn refused_request_ends_the_connection() {
        let (mut frontend, daemon, handle) = start();
        frontend.write_all(&header(u32::MAX, 0)).expect("write");
        let error = handle.join().expect("relay").expect_err("not served");
        assert!(matches!(
            error,
            RelayError::Refused(GateError::Request(u32::MAX))
        ));
        drop(daemon);
    }

    #[test]
    fn half_a_message_ends_the_connection() {
        let (mut frontend, _daemon, handle) = start();
        frontend.write_all(&header(2, 8)).expect("write");
        drop(frontend);
        assert!(matches!(
            handle.join().expect("relay"),
            Err(RelayError::Truncated)
        ));
    }
}
