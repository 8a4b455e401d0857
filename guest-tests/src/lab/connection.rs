//! TCP connections from eth1 in its namespace to eth0, both ends of them ours, and what sends on them.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};

use crate::{
    pattern::Pattern,
    ports::{PEER, in_netns},
};

/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes per write or read.
const WRITE: usize = 64 << 10;

/// Both ends of a connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Where eth0 is.
    pub(crate) receiver: TcpStream,
    /// Where eth1 is.
    pub(crate) sender: TcpStream,
}

/// Connects so many times to a port of eth0.
pub(crate) fn connect(port: u16, count: usize) -> Result<Vec<Connection>> {
    let address = SocketAddr::from(([192, 0, 2, 1], port));
    let listener = TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
    // A namespace is a thread's; a socket belongs to the one that it was made in.
    in_netns(Some(PEER), || {
        let one = |_| {
            let sender = TcpStream::connect_timeout(&address, PATIENCE)
                .with_context(|| format!("connecting to {address}"))?;
            sender.set_write_timeout(Some(PATIENCE))?;
            let (receiver, _) = listener.accept()?;
            Ok(Connection { receiver, sender })
        };
        (0..count).map(one).collect()
    })
}

/// Reads until the stream ends, and verifies that it is the pattern of `seed`. Returns how many bytes came.
pub(crate) fn read_all(mut socket: &TcpStream, seed: u64) -> Result<u64> {
    socket.set_read_timeout(Some(PATIENCE))?;
    let pattern = Pattern::new(seed);
    let mut buffer = vec![0; WRITE];
    let mut received = 0;
    loop {
        let length = socket.read(&mut buffer)?;
        if length == 0 {
            return Ok(received);
        }
        pattern.verify(received, &buffer[..length])?;
        received += length as u64;
    }
}

/// A thread that sends the pattern of a seed.
#[derive(Debug)]
pub(crate) struct Sender(JoinHandle<Result<()>>);

impl Sender {
    /// Starts to send `bytes`; the stream ends with them.
    pub(crate) fn start(mut socket: TcpStream, seed: u64, bytes: u64) -> Self {
        Self(thread::spawn(move || {
            let pattern = Pattern::new(seed);
            let mut buffer = vec![0; WRITE];
            let mut sent = 0;
            while sent < bytes {
                let now = WRITE.min(usize::try_from(bytes - sent).unwrap_or(WRITE));
                pattern.fill(sent, &mut buffer[..now]);
                socket
                    .write_all(&buffer[..now])
                    .with_context(|| format!("sending after {sent} bytes"))?;
                sent += now as u64;
            }
            socket.shutdown(Shutdown::Write).context("closing")
        }))
    }

    /// Waits until everything is sent.
    pub(crate) fn finish(self) -> Result<()> {
        let ended = self.0.join();
        ended.map_err(|_| anyhow!("the sender panicked"))?
    }
}
