//! The wire `stream`: a connection to QEMU's `-netdev stream`, to passt or to another zcnic.
//!
//! The peer is not trusted. It may send any bytes, at any pace, and read or not: frames to a peer
//! that does not read fill the outlet and are dropped there.

use std::{
    collections::VecDeque,
    io,
    net::TcpListener,
    ops::Range,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::PollFlags,
    io::{Errno, read, writev},
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, connect, getpeername,
        getsockname, socket_with, sockopt,
    },
};

use super::{
    WireError,
    framing::{Deframer, Framer, MAX_LENGTH, TooLong},
    wait::wait,
};
use crate::{
    config::{SocketMode, StreamAddress, StreamConfig, StreamRole},
    control::admin,
    datapath::ingress::{FRAMES, IncomingFrame, Ingress, Patience},
    port::{
        Port,
        line::{Line, LineCounters, Outlet},
    },
    ring::raw::Span,
    socket::Socket,
};

/// Time between two attempts to connect, and the most that one attempt takes.
const RETRY: Duration = Duration::from_secs(1);

/// Time between the end of a connection and the next one that is accepted: a peer can't make the
/// carrier flap faster.
const SETTLE: Duration = Duration::from_millis(100);

/// After a TCP peer has been silent for so long, the kernel asks whether it still exists.
const SILENCE: Duration = Duration::from_secs(30);

/// Why a connection ended.
enum End {
    Stopping,
    Closed,
    Failed(Errno),
    TooLong(u32),
}

/// The listening socket of a stream.
enum Listener {
    Unix(Socket),
    Tcp(TcpListener),
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(socket) => socket.listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// A `stream` wire.
pub(super) struct Stream {
    port: Arc<Port>,
    line: Arc<Line>,
    address: StreamAddress,
    /// `None`: it connects.
    listener: Option<Listener>,
}

impl Stream {
    /// Makes the listening socket if there is one.
    ///
    /// # Errors
    ///
    /// That can't be made.
    pub(super) fn open(
        port: &Arc<Port>,
        line: &Arc<Line>,
        config: &StreamConfig,
        mode: SocketMode,
    ) -> Result<Self, WireError> {
        let address = config.address.clone();
        let listener = match (config.role, &address) {
            (StreamRole::Connect, _) => None,
            (StreamRole::Listen, StreamAddress::Unix(path)) => {
                let socket = Socket::listen(path, mode)?;
                socket.listener.set_nonblocking(true)?;
                Some(Listener::Unix(socket))
            }
            (StreamRole::Listen, StreamAddress::Tcp(ip)) => {
                let listener = TcpListener::bind(ip)
                    .map_err(|error| WireError::Listen(address.to_string(), error))?;
                listener.set_nonblocking(true)?;
                Some(Listener::Tcp(listener))
            }
        };
        Ok(Self {
            port: Arc::clone(port),
            line: Arc::clone(line),
            address,
            listener,
        })
    }

    fn outlet(&self) -> &Outlet {
        &self.line.outlets[0]
    }

    /// Serves one peer after the other until the line is stopped.
    ///
    /// # Errors
    ///
    /// Waiting failed.
    pub(super) fn run(self) -> io::Result<()> {
        let context = &self.port.context;
        let mut complaint = None;
        while !self.line.is_stopping() {
            let peer = match &self.listener {
                Some(listener) => self.accept(listener)?,
                None => self.connect()?,
            };
            let socket = match peer {
                Ok(socket) => socket,
                Err(errno) => {
                    // A peer that stays away is reported once.
                    if complaint.replace(errno) != Some(errno) && errno != Errno::AGAIN {
                        context.warn(format_args!("stream {}: {errno}", self.address));
                    }
                    if self.listener.is_none() || errno != Errno::AGAIN {
                        self.pause(RETRY)?;
                    }
                    continue;
                }
            };
            complaint = None;
            self.prepare(&socket);
            LineCounters::add(&self.line.counters.connections, 1);
            context.info(format_args!("stream {}: connected", self.address));
            admin::set_line(&self.port, &self.line, true);
            let end = self.carry(&socket)?;
            drop(socket);
            admin::set_line(&self.port, &self.line, false);
            let dropped = self.outlet().clear();
            LineCounters::add(&self.line.counters.send_dropped, dropped);
            match end {
                End::Stopping => break,
                End::Closed => {
                    context.info(format_args!("stream {}: closed by the peer", self.address));
                }
                End::Failed(errno) => {
                    context.info(format_args!("stream {}: ended: {errno}", self.address));
                }
                End::TooLong(length) => context.warn(format_args!(
                    "stream {}: ended: the peer sends a frame of {length} bytes, {MAX_LENGTH} are \
                     allowed",
                    self.address
                )),
            }
            self.pause(match self.listener {
                Some(_) => SETTLE,
                None => RETRY,
            })?;
        }
        Ok(())
    }

    /// Waits for this time, or until the line is stopped.
    fn pause(&self, time: Duration) -> io::Result<()> {
        let until = Instant::now() + time;
        while !self.line.is_stopping() && Instant::now() < until {
            wait((&self.port, self.outlet()), false, [], Some(until))?;
        }
        Ok(())
    }

    /// Waits for a peer; `EAGAIN`: there is none yet.
    fn accept(&self, listener: &Listener) -> io::Result<Result<OwnedFd, Errno>> {
        let outlet = (&*self.port, self.outlet());
        wait(outlet, false, [(listener.as_fd(), PollFlags::IN)], None)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(accept_with(listener, flags))
    }

    /// Connects, or reports why that failed.
    fn connect(&self) -> io::Result<Result<OwnedFd, Errno>> {
        let begin = || {
            let family = match &self.address {
                StreamAddress::Unix(_) => AddressFamily::UNIX,
                StreamAddress::Tcp(ip) if ip.is_ipv4() => AddressFamily::INET,
                StreamAddress::Tcp(_) => AddressFamily::INET6,
            };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(family, SocketType::STREAM, flags, None)?;
            match &self.address {
                StreamAddress::Unix(path) => connect(&socket, &SocketAddrUnix::new(path)?),
                StreamAddress::Tcp(ip) => connect(&socket, ip),
            }
            .or_else(|errno| match errno {
                Errno::INPROGRESS => Ok(()),
                errno => Err(errno),
            })?;
            Ok(socket)
        };
        let socket: OwnedFd = match begin() {
            Ok(socket) => socket,
            Err(errno) => return Ok(Err(errno)),
        };
        let until = Instant::now() + RETRY;
        while !self.line.is_stopping() && Instant::now() < until {
            let writable = (socket.as_fd(), PollFlags::OUT);
            let outlet = (&*self.port, self.outlet());
            let [ready] = wait(outlet, false, [writable], Some(until))?;
            if !ready.is_empty() {
                let outcome = sockopt::socket_error(&socket).and_then(|outcome| outcome);
                let outcome = match outcome {
                    Ok(()) if self.is_connected_to_itself(&socket) => Err(Errno::CONNREFUSED),
                    outcome => outcome,
                };
                return Ok(outcome.map(|()| socket));
            }
        }
        Ok(Err(Errno::TIMEDOUT))
    }

    /// Whether TCP made a connection without a listener: the kernel may choose the port that it
    /// connects to as its own.
    fn is_connected_to_itself(&self, socket: &OwnedFd) -> bool {
        matches!(self.address, StreamAddress::Tcp(_))
            && getsockname(socket).is_ok_and(|own| getpeername(socket) == Ok(Some(own)))
    }

    /// Sets the options of a TCP connection: no delay, and an end if the peer's host is gone.
    fn prepare(&self, socket: &OwnedFd) {
        if let StreamAddress::Tcp(_) = self.address {
            let set = sockopt::set_tcp_nodelay(socket, true)
                .and_then(|()| sockopt::set_socket_keepalive(socket, true))
                .and_then(|()| sockopt::set_tcp_keepidle(socket, SILENCE));
            if let Err(errno) = set {
                let address = &self.address;
                let context = &self.port.context;
                context.warn(format_args!("stream {address}: can't set options: {errno}"));
            }
        }
    }

    /// Carries frames in both directions until the connection ends.
    fn carry(&self, socket: &OwnedFd) -> io::Result<End> {
        let outlet = self.outlet();
        let mut incoming = Incoming::default();
        let mut framer = Framer::default();
        let mut may_read = false;
        let end = loop {
            if self.line.is_stopping() {
                break End::Stopping;
            }
            if framer.frames.is_empty() && outlet.take(0, FRAMES, &mut framer.frames) {
                self.port.wakers.retry();
            }
            let is_blocked = match self.write(socket, &mut framer) {
                Ok(()) => false,
                Err(Errno::AGAIN) => true,
                Err(errno) => break End::Failed(errno),
            };
            if may_read && incoming.is_empty() {
                match read(socket, incoming.deframer.room()) {
                    Ok(0) => break End::Closed,
                    Ok(count) => incoming.deframer.filled(count),
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(errno) => break End::Failed(errno),
                }
            }
            let waits = match incoming.deliver(&self.port, &self.line) {
                Ok(waits) => waits,
                Err(TooLong(length)) => break End::TooLong(length),
            };
            let mut interest = PollFlags::empty();
            interest.set(PollFlags::OUT, is_blocked);
            interest.set(PollFlags::IN, waits.is_none());
            // A connection that ended would end each wait at once.
            let none = (outlet.descriptor(), PollFlags::empty());
            let peer = match interest {
                interest if interest.is_empty() => none,
                interest => (socket.as_fd(), interest),
            };
            let listener = self.listener.as_ref();
            let next = listener.map_or(none, |listener| (listener.as_fd(), PollFlags::IN));
            let events = wait((&self.port, outlet), !is_blocked, [peer, next], waits)?;
            let [ready, more] = events;
            may_read = !ready.is_empty();
            if let Some(listener) = listener.filter(|_| !more.is_empty()) {
                self.refuse(listener)?;
            }
        };
        let dropped = framer.frames.len() as u64;
        LineCounters::add(&self.line.counters.send_dropped, dropped);
        Ok(end)
    }

    fn write(&self, socket: &OwnedFd, framer: &mut Framer) -> Result<(), Errno> {
        while !framer.frames.is_empty() {
            let prefixes = framer.prefixes();
            let written = match writev(socket, &framer.slices(&prefixes)) {
                Err(Errno::INTR) => continue,
                written => written?,
            };
            LineCounters::add(&self.line.counters.sent, framer.advance(written));
        }
        Ok(())
    }

    /// Closes the connection of a second peer.
    fn refuse(&self, listener: &Listener) -> io::Result<()> {
        match accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(_) => self.port.context.warn(format_args!(
                "stream {}: refused a peer: another one is connected",
                self.address
            )),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            // There are no more descriptors, as a rule, and no event reports when there are.
            Err(_) => self.pause(RETRY)?,
        }
        Ok(())
    }
}

/// Frames from a peer.
#[derive(Default)]
struct Incoming {
    deframer: Deframer,
    /// The places of frames that were not delivered yet.
    frames: VecDeque<Range<usize>>,
    ingress: Ingress,
}

impl Incoming {
    fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Delivers all complete frames, or those before one that has to wait; returns until when.
    fn deliver(&mut self, port: &Port, line: &Line) -> Result<Option<Instant>, TooLong> {
        let mut header = [0; 12];
        loop {
            while self.frames.len() < FRAMES {
                match self.deframer.next() {
                    Ok(Some(place)) => self.frames.push_back(place),
                    Ok(None) => break,
                    // The frames before it are delivered first.
                    Err(error) if self.frames.is_empty() => return Err(error),
                    Err(_) => break,
                }
            }
            if self.frames.is_empty() {
                return Ok(None);
            }
            let header = Span::own(&mut header);
            let bytes = Span::own(self.deframer.buffer());
            let sources: Vec<IncomingFrame<'_>> = self
                .frames
                .iter()
                .filter_map(|place| Some([header, bytes.part(place.start, place.len())?]))
                .collect();
            let patience = Patience::Of(line.flow_control);
            let delivery = self.ingress.deliver(port, line, &sources, patience);
            self.frames.drain(..delivery.done);
            if delivery.wait.is_some() {
                return Ok(delivery.wait);
            }
        }
    }
}
