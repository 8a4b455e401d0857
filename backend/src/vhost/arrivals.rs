//! Connections to a port's socket that are not served yet.
//!
//! A port has one frontend at a time. A connection becomes the frontend by its first message, so
//! that one which stays silent, or does not speak vhost-user, keeps no frontend out.

use std::{
    io,
    os::{fd::BorrowedFd, unix::net::UnixStream},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};

use super::gate::may_begin_message;
use crate::descriptors::WAITING;

/// How long a connection may wait for the previous frontend to leave.
const HANDOVER: Duration = Duration::from_secs(1);

/// How long a connection may stay silent.
pub(crate) const SILENCE: Duration = Duration::from_secs(5);

/// How long a silent connection is kept although newer ones need its place.
const GRACE: Duration = Duration::from_millis(100);

/// The interval at which the rest of a message's start is looked for: a poll would report what is
/// there already.
const GLANCE: Duration = Duration::from_millis(50);

/// Bytes of a message's start: request, flags and size.
const START: usize = 12;

/// What a connection said so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Nothing,
    Part,
    Message,
}

#[derive(Debug)]
struct Arrival {
    stream: UnixStream,
    since: Instant,
    heard: Heard,
    hung_up: bool,
}

/// Why a connection is closed before it is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dismissal {
    /// It closed the connection itself.
    Left,
    /// It sent no message in time.
    Silent,
    /// It sends something else than messages of vhost-user.
    Stranger,
    /// Another frontend is connected and does not leave.
    Occupied,
}

/// What happened while [`Arrivals::wait`] waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wakeup {
    /// There is a connection to accept.
    pub(crate) connection: bool,
    /// The previous frontend left.
    pub(crate) freed: bool,
}

/// The connections that wait, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Arrivals(Vec<Arrival>);

impl Arrivals {
    /// Adds a connection, when there is [room](Self::has_room).
    pub(crate) fn add(&mut self, stream: UnixStream) {
        self.0.push(Arrival {
            stream,
            since: Instant::now(),
            heard: Heard::Nothing,
            hung_up: false,
        });
    }

    fn is_full(&self) -> bool {
        self.0.len() >= WAITING
    }

    /// The oldest connection that had the time to say something, and did not.
    fn silent(&self, now: Instant) -> Option<usize> {
        let is_silent = |arrival: &Arrival| {
            arrival.heard != Heard::Message && now.saturating_duration_since(arrival.since) >= GRACE
        };
        self.0.iter().position(is_silent)
    }

    /// Whether one more connection can be accepted. Gives up a silent one for it.
    pub(crate) fn has_room(&mut self) -> bool {
        if self.is_full()
            && let Some(oldest) = self.silent(Instant::now())
        {
            self.0.remove(oldest);
        }
        !self.is_full()
    }

    /// Waits for `stopped`, `freed`, a connection at `listener`, if there is one, something that a
    /// waiting connection says, or the end of its time.
    ///
    /// # Errors
    ///
    /// Waiting itself failed.
    pub(crate) fn wait(
        &mut self,
        stopped: BorrowedFd<'_>,
        freed: BorrowedFd<'_>,
        listener: Option<BorrowedFd<'_>>,
        limit: Option<Duration>,
    ) -> io::Result<Wakeup> {
        let nothing = (stopped, PollFlags::empty());
        let listener = listener.map_or(nothing, |listener| (listener, PollFlags::IN));
        let own = [(stopped, PollFlags::IN), (freed, PollFlags::IN), listener];
        let mut sources: Vec<_> = own
            .into_iter()
            .map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags))
            .collect();
        sources.extend(self.0.iter().map(|arrival| {
            let flags = match arrival.heard {
                Heard::Nothing => PollFlags::IN,
                Heard::Part => PollFlags::RDHUP,
                Heard::Message => PollFlags::empty(),
            };
            PollFd::new(&arrival.stream, flags)
        }));
        let limit = self.next(Instant::now()).into_iter().chain(limit).min();
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        match poll(&mut sources, limit.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Wakeup::default()),
            Err(errno) => return Err(errno.into()),
        }
        let wakeup = Wakeup {
            connection: sources[2].revents().contains(PollFlags::IN),
            freed: !sources[1].revents().is_empty(),
        };
        let ended = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR;
        let ended: Vec<bool> = sources[own.len()..]
            .iter()
            .map(|source| source.revents().intersects(ended))
            .collect();
        for (arrival, ended) in self.0.iter_mut().zip(ended) {
            arrival.hung_up |= ended;
        }
        Ok(wakeup)
    }

    /// The time until the next connection has to be looked at although it said nothing.
    fn next(&self, now: Instant) -> Option<Duration> {
        let full = self.is_full();
        let of = |arrival: &Arrival| {
            let age = now.saturating_duration_since(arrival.since);
            // Ages at which something is decided.
            let mut ages = vec![HANDOVER, SILENCE];
            if full {
                ages.push(GRACE);
            }
            if arrival.heard == Heard::Part {
                ages.push(age + GLANCE);
            }
            let next = ages.into_iter().filter(|limit| *limit > age).min();
            next.map(|limit| limit - age)
        };
        self.0.iter().filter_map(of).min()
    }

    /// Looks at what the connections said. Closes and returns those that can't become the frontend,
    /// with the reason; `occupied`: there is one already.
    pub(crate) fn dismiss(&mut self, occupied: bool) -> Vec<(UnixStream, Dismissal)> {
        let now = Instant::now();
        let mut dismissed = Vec::new();
        for mut arrival in std::mem::take(&mut self.0) {
            let age = now.saturating_duration_since(arrival.since);
            let reason = match arrival.look() {
                Err(reason) => Some(reason),
                Ok(()) if occupied && age >= HANDOVER => Some(Dismissal::Occupied),
                Ok(()) if arrival.heard != Heard::Message && age >= SILENCE => {
                    Some(Dismissal::Silent)
                }
                Ok(()) => None,
            };
            match reason {
                Some(reason) => dismissed.push((arrival.stream, reason)),
                None => self.0.push(arrival),
            }
        }
        dismissed
    }

    /// Takes the oldest connection that sent the start of a message.
    pub(crate) fn take_frontend(&mut self) -> Option<UnixStream> {
        let mut arrivals = self.0.iter();
        let position = arrivals.position(|arrival| arrival.heard == Heard::Message)?;
        Some(self.0.remove(position).stream)
    }
}

impl Arrival {
    /// Looks at the first bytes and leaves them, with their descriptors, to the relay.
    fn look(&mut self) -> Result<(), Dismissal> {
        let mut start = [0; START];
        if self.heard != Heard::Message {
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            match recv(&self.stream, &mut start, flags) {
                Ok((_, 0)) => return Err(Dismissal::Left),
                Ok((_, length)) if !may_begin_message(&start[..length.min(START)]) => {
                    return Err(Dismissal::Stranger);
                }
                Ok((_, length)) if length < START => self.heard = Heard::Part,
                Ok(_) => self.heard = Heard::Message,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return Err(Dismissal::Left),
            }
        }
        if self.hung_up {
            return Err(Dismissal::Left);
        }
        Ok(())
    }
}

/// Sends `line` to a connection that is about to be closed, if it fits.
pub(crate) fn say(stream: &UnixStream, line: &[u8]) {
    // What it sent is read first: the peer of a connection that is closed with unread bytes gets an
    // error in place of the line.
    let _ = recv(stream, &mut [0; 4096], RecvFlags::DONTWAIT);
    let _ = send(stream, line, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::fd::AsFd};

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    fn arrive(arrivals: &mut Arrivals) -> UnixStream {
        let (frontend, stream) = UnixStream::pair().expect("pair");
        arrivals.add(stream);
        frontend
    }

    fn header(request: u32) -> Vec<u8> {
        [request, 1, 0].map(u32::to_ne_bytes).concat()
    }

    fn reasons(arrivals: &mut Arrivals, occupied: bool) -> Vec<Dismissal> {
        let dismissed = arrivals.dismiss(occupied);
        dismissed.into_iter().map(|(_, reason)| reason).collect()
    }

    #[test]
    fn who_speaks_first_is_the_frontend() {
        let mut arrivals = Arrivals::default();
        let _silent = arrive(&mut arrivals);
        let mut slow = arrive(&mut arrivals);
        let mut quick = arrive(&mut arrivals);
        slow.write_all(&header(1)[..11]).expect("sent");
        quick.write_all(&header(1)).expect("sent");
        assert_eq!(reasons(&mut arrivals, false), []);
        assert!(arrivals.take_frontend().is_some());
        assert!(arrivals.take_frontend().is_none());
        slow.write_all(&header(1)[11..]).expect("sent");
        assert_eq!(reasons(&mut arrivals, false), []);
        assert!(arrivals.take_frontend().is_some());
        assert_eq!(arrivals.0.len(), 1);
    }

    #[test]
    fn strangers_and_those_who_leave_are_dismissed_at_once() {
        let mut arrivals = Arrivals::default();
        let mut stranger = arrive(&mut arrivals);
        stranger.write_all(b" \n").expect("sent");
        drop(arrive(&mut arrivals));
        let mut half = arrive(&mut arrivals);
        half.write_all(&header(1)[..5]).expect("sent");
        let expected = [Dismissal::Stranger, Dismissal::Left];
        assert_eq!(reasons(&mut arrivals, true), expected);
        drop(half);
        let quiet = eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd");
        let woken = arrivals.wait(quiet.as_fd(), quiet.as_fd(), None, None);
        assert_eq!(woken.expect("poll"), Wakeup::default());
        assert_eq!(reasons(&mut arrivals, false), [Dismissal::Left]);
    }

    #[test]
    fn silent_connections_make_room_for_new_ones() {
        let mut arrivals = Arrivals::default();
        let mut held: Vec<_> = (0..WAITING).map(|_| arrive(&mut arrivals)).collect();
        held[0].write_all(&header(1)).expect("sent");
        assert_eq!(reasons(&mut arrivals, true), []);
        assert!(!arrivals.has_room(), "they get a little time");
        std::thread::sleep(GRACE);
        assert!(arrivals.has_room());
        assert!(arrivals.take_frontend().is_some(), "it spoke and stays");
        assert_eq!(arrivals.0.len(), WAITING - 2);
    }
}
