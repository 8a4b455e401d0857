//! A connection of the process with itself, for the vhost-user crate, which accepts its frontend
//! from a listening socket only.
//!
//! No file is involved: the kernel chooses an abstract name (unix(7), "Autobind feature"). Nothing
//! can be planted where the socket will be, and a sandboxed process needs no path for it.

use std::{
    io,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, getsockname, listen,
        socket_with,
    },
};

/// Listening sockets that are tried, if another process connects to each first.
const ATTEMPTS: usize = 16;

/// Makes a listening socket on which exactly one connection waits, and that connection's other end.
///
/// # Errors
///
/// The system has no more descriptors, or another process takes every socket that is made.
pub(super) fn pair() -> io::Result<(UnixListener, UnixStream)> {
    for _ in 0..ATTEMPTS {
        let listener = socket(SocketFlags::CLOEXEC)?;
        bind(&listener, &SocketAddrUnix::new_unnamed())?;
        // One connection fits. If ours does, no other one is before it, and none comes later.
        listen(&listener, 0)?;
        let near = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        match connect(&near, &getsockname(&listener)?) {
            Ok(()) => {
                let near = UnixStream::from(near);
                near.set_nonblocking(false)?;
                return Ok((listener.into(), near));
            }
            // Another process was faster.
            Err(Errno::AGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::Error::other(
        "another process connects to every private socket",
    ))
}

fn socket(flags: SocketFlags) -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn no_other_connection_is_accepted() {
        let (listener, mut near) = pair().expect("a pair");
        let intruder = socket(SocketFlags::NONBLOCK).expect("a socket");
        let address = getsockname(&listener).expect("a name");
        assert_eq!(connect(&intruder, &address), Err(Errno::AGAIN));
        let (mut far, _) = listener.accept().expect("ours");
        near.write_all(b"ours").expect("write");
        drop(near);
        let mut received = String::new();
        far.read_to_string(&mut received).expect("read");
        assert_eq!(received, "ours");
    }
}
