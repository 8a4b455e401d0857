//! The relay between a frontend's socket and the vhost-user crate's daemon.
//!
//! QEMU's virtio-net sends SET_VRING_ENABLE when the device is realized, before any SET_FEATURES,
//! and the crate refuses it unless VHOST_USER_F_PROTOCOL_FEATURES was acknowledged. So the relay
//! first sends one SET_FEATURES with that bit alone, without asking for a reply, and from then on
//! passes messages on unchanged. It passes whole messages: a relay of bytes could attach a file
//! descriptor to the wrong one.

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
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use thiserror::Error;

/// Request, flags and size of the body, each 32 bits (vhost-user, "Header").
pub(super) const HEADER: usize = 12;

/// The largest body that the crate accepts. Served messages are far smaller.
pub(super) const MAX_BODY: usize = 4096;

/// The most file descriptors that one message may carry: a memory table of 32 regions.
const MAX_FDS: usize = 32;

const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_LOG_BASE: u32 = 6;
const SET_LOG_FD: u32 = 7;
const SET_VRING_ENABLE: u32 = 18;
const SET_BACKEND_REQ_FD: u32 = 21;

/// Why a relay ended before its frontend went away.
#[derive(Debug, Error)]
pub(crate) enum RelayError {
    #[error("Message {request} has a body of {size} bytes, more than {MAX_BODY}")]
    Oversized { request: u32, size: usize },
    #[error("Request {0} is not served by this backend")]
    Request(u32),
    #[error("Message with more than {MAX_FDS} file descriptors")]
    TooManyFds,
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
    /// SET_FEATURES(1 << 30), protocol version 1, no reply wanted.
    fn acknowledge_protocol_features() -> Self {
        let mut bytes = Vec::with_capacity(HEADER + 8);
        bytes.extend_from_slice(&SET_FEATURES.to_ne_bytes());
        bytes.extend_from_slice(&1u32.to_ne_bytes());
        bytes.extend_from_slice(&8u32.to_ne_bytes());
        bytes.extend_from_slice(&(1u64 << 30).to_ne_bytes());
        Self {
            bytes,
            fds: Vec::new(),
        }
    }

    fn request(&self) -> u32 {
        word(&self.bytes, 0)
    }

    /// The next message, or `None` at the end of the stream.
    fn receive(from: &UnixStream) -> Result<Option<Self>, RelayError> {
        let mut message = Self {
            bytes: vec![0; HEADER],
            fds: Vec::new(),
        };
        let mut have = 0;
        while have < HEADER {
            match message.read(from, have)? {
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
            match message.read(from, have)? {
                0 => return Err(RelayError::Truncated),
                n => have += n,
            }
        }
        Ok(Some(message))
    }

    fn read(&mut self, from: &UnixStream, offset: usize) -> Result<usize, RelayError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
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
        if received.flags.contains(ReturnFlags::CTRUNC) || self.fds.len() > MAX_FDS {
            return Err(RelayError::TooManyFds);
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

/// Whether the daemon gets this request. The crate trusts that a frontend acknowledges only offered
/// protocol features, and panics on a log that it can't keep, so requests of features that are
/// never offered stay outside.
pub(super) fn is_served(request: u32) -> bool {
    ((GET_FEATURES..=SET_VRING_ENABLE).contains(&request) || request == SET_BACKEND_REQ_FD)
        && !matches!(request, SET_LOG_BASE | SET_LOG_FD)
}

/// Passes messages between `frontend` and `daemon` until one of them goes away; then both are shut
/// down.
///
/// # Errors
///
/// The frontend violated the protocol. That it left is not an error.
pub(crate) fn relay(frontend: &UnixStream, daemon: &UnixStream) -> Result<(), RelayError> {
    thread::scope(|scope| {
        let replies = thread::Builder::new()
            .name("relay".into())
            .spawn_scoped(scope, || {
                let result = pump(daemon, frontend, |_| true);
                hang_up(frontend, daemon);
                result
            })?;
        let result = Message::acknowledge_protocol_features()
            .send(daemon)
            .map_err(RelayError::from)
            .and_then(|()| pump(frontend, daemon, is_served));
        hang_up(frontend, daemon);
        // Errors of the other direction follow from the side that hung up, which is reported above.
        if let Err(panic) = replies.join() {
            resume_unwind(panic);
        }
        match result {
            Err(RelayError::Io(error)) if is_hang_up(&error) => Ok(()),
            result => result,
        }
    })
}

/// Passes messages on until `from` is at its end.
pub(super) fn pump(
    from: &UnixStream,
    to: &UnixStream,
    allowed: impl Fn(u32) -> bool,
) -> Result<(), RelayError> {
    while let Some(message) = Message::receive(from)? {
        if !allowed(message.request()) {
            return Err(RelayError::Request(message.request()));
        }
        message.send(to)?;
    }
    Ok(())
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
    };

    use super::*;

    fn header(request: u32, size: u32) -> Vec<u8> {
        [request, 1, size]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect()
    }

    /// Runs a relay; returns the frontend's and the daemon's end and the relay itself.
    fn start() -> (
        UnixStream,
        UnixStream,
        thread::JoinHandle<Result<(), RelayError>>,
    ) {
        let (frontend, near) = UnixStream::pair().expect("socket pair");
        let (far, daemon) = UnixStream::pair().expect("socket pair");
        let handle = thread::spawn(move || relay(&near, &far));
        (frontend, daemon, handle)
    }

    #[test]
    fn first_message_acknowledges_protocol_features() {
        let (frontend, daemon, handle) = start();
        let message = Message::receive(&daemon)
            .expect("receive")
            .expect("message");
        assert_eq!(message.request(), SET_FEATURES);
        assert_eq!(message.bytes[HEADER..], (1u64 << 30).to_ne_bytes());
        drop(frontend);
        assert!(Message::receive(&daemon).expect("end of stream").is_none());
        handle
            .join()
            .expect("relay")
            .expect("a frontend that leaves is no error");
    }

    #[test]
    fn fds_stay_with_their_message() {
        let (frontend, daemon, handle) = start();
        Message::receive(&daemon)
            .expect("receive")
            .expect("injected message");

        let mut file: File = rustix::fs::memfd_create("fd", rustix::fs::MemfdFlags::CLOEXEC)
            .map(File::from)
            .expect("memfd");
        file.write_all(b"here").expect("write");
        let with = Message {
            bytes: [header(12, 8), vec![7; 8]].concat(),
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
                let mut message = Message::receive(&daemon)
                    .expect("receive")
                    .expect("message");
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
        assert_eq!(
            Message::receive(&frontend)
                .expect("receive")
                .expect("message")
                .fds
                .len(),
            1
        );
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
    fn unknown_request_ends_the_connection() {
        for request in [0, SET_LOG_BASE, SET_LOG_FD, SET_VRING_ENABLE + 1, u32::MAX] {
            let (mut frontend, _daemon, handle) = start();
            frontend.write_all(&header(request, 0)).expect("write");
            let error = handle.join().expect("relay").expect_err("not served");
            assert!(matches!(error, RelayError::Request(r) if r == request));
        }
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
