//! The event bus: events for clients of the control socket, without ever waiting for a client.
//!
//! Lock order: the list of outboxes, then one outbox.

use std::{
    collections::VecDeque,
    io::{self, Write},
    os::unix::net::UnixStream,
    sync::{
        Arc, Condvar, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;
use zcnic_ctl::protocol::event::{Event, EventKind, Lost};

use crate::sync::lock;

/// Lines that may be queued for a client.
const MAX_WAITING: usize = 1024;

/// Bytes that may be queued for a client before the last line.
const MAX_BYTES: usize = 4 << 20;

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    kinds: Vec<EventKind>,
    /// Events that were dropped for lack of room.
    lost: u64,
    /// No more lines are added.
    finished: bool,
    /// The client can't be written to.
    broken: bool,
}

/// The queue of lines to one client.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Waiting {
    fn has_room(&self) -> bool {
        self.lines.len() < MAX_WAITING && self.bytes < MAX_BYTES
    }

    fn push(&mut self, line: Vec<u8>) {
        self.bytes += line.len();
        self.lines.push_back(line);
    }

    /// Queues an event with the number of dropped events, if there are any.
    fn report_lost(&mut self) {
        let count = std::mem::take(&mut self.lost);
        if count > 0 {
            // Events consist of strings and numbers, which can always be serialized.
            self.push(line(&Event::Lost(Lost { count })).unwrap_or_default());
        }
    }
}

/// A message as a line.
pub(crate) fn line(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

impl Outbox {
    /// Queues `message`, behind the number of events that were dropped before it. Waits at most for
    /// `limit` if the client does not read.
    pub(crate) fn send(&self, message: &impl Serialize, limit: Duration) -> io::Result<()> {
        self.send_line(line(message)?, limit)
    }

    /// [Sends](Self::send) a message that is a [line] already.
    pub(crate) fn send_line(&self, line: Vec<u8>, limit: Duration) -> io::Result<()> {
        let waiting = lock(&self.waiting);
        let wait = self.changed.wait_timeout_while(waiting, limit, |waiting| {
            !waiting.has_room() && !waiting.broken
        });
        let (mut waiting, timeout) = wait.unwrap_or_else(PoisonError::into_inner);
        if waiting.broken || timeout.timed_out() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        waiting.report_lost();
        waiting.push(line);
        drop(waiting);
        self.changed.notify_all();
        Ok(())
    }

    /// Replaces the kinds of events that are sent.
    pub(crate) fn subscribe(&self, kinds: Vec<EventKind>) {
        lock(&self.waiting).kinds = kinds;
    }

    /// Ends the queue; queued lines are still sent.
    pub(crate) fn finish(&self) {
        lock(&self.waiting).finished = true;
        self.changed.notify_all();
    }

    /// Queues an event if the client subscribed to its kind and there is room.
    pub(crate) fn offer(&self, event: &Event) {
        if self.wants(event.kind()) {
            self.append(event);
        }
    }

    /// Queues an event that the client gets without a subscription. It is made only if there is
    /// room: a client that does not read costs the data path no more than a count.
    pub(crate) fn offer_with(&self, event: impl FnOnce() -> Event) {
        if self.wants(None) {
            self.append(&event());
        }
    }

    /// Whether the client subscribed to `kind` and there is room; counts a lost event if only room
    /// is missing.
    fn wants(&self, kind: Option<EventKind>) -> bool {
        let mut waiting = lock(&self.waiting);
        let subscribed = kind.is_none_or(|kind| waiting.kinds.contains(&kind));
        let room = waiting.has_room();
        waiting.lost += u64::from(subscribed && !room);
        subscribed && room
    }

    /// Queues an event that [is wanted](Self::wants). Others may have been queued since.
    fn append(&self, event: &Event) {
        let line = line(event).unwrap_or_default();
        let mut waiting = lock(&self.waiting);
        if !waiting.has_room() {
            waiting.lost += 1;
            return;
        }
        waiting.report_lost();
        waiting.push(line);
        drop(waiting);
        self.changed.notify_all();
    }

    /// The body of the thread that sends: ends when everything was sent after
    /// [`finish`](Self::finish), or when the client can't be written to.
    pub(crate) fn drain(&self, mut client: &UnixStream) {
        loop {
            let waiting = lock(&self.waiting);
            let wait = self.changed.wait_while(waiting, |waiting| {
                waiting.lines.is_empty() && !waiting.finished
            });
            let mut waiting = wait.unwrap_or_else(PoisonError::into_inner);
            let Some(line) = waiting.lines.pop_front() else {
                return;
            };
            waiting.bytes -= line.len();
            drop(waiting);
            self.changed.notify_all();
            if client.write_all(&line).is_err() {
                lock(&self.waiting).broken = true;
                self.changed.notify_all();
                return;
            }
        }
    }
}

/// The outboxes of all clients, and the wake-up of those that wait for fault hits.
#[derive(Debug, Default)]
pub(crate) struct Events {
    outboxes: Mutex<Vec<Weak<Outbox>>>,
    /// There has been a client.
    any: AtomicBool,
    /// Calls of [`wake`](Self::wake) so far.
    wakes: Mutex<u64>,
    woken: Condvar,
}

impl Events {
    /// Adds a client; returns its outbox.
    pub(crate) fn add_client(&self) -> Arc<Outbox> {
        let outbox = Arc::new(Outbox::default());
        let mut outboxes = lock(&self.outboxes);
        outboxes.retain(|outbox| outbox.strong_count() > 0);
        outboxes.push(Arc::downgrade(&outbox));
        self.any.store(true, Ordering::Release);
        outbox
    }

    /// Queues an event for all clients that subscribed to its kind. Never waits for a client.
    pub(crate) fn publish(&self, event: impl FnOnce() -> Event) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let event = event();
        for outbox in lock(&self.outboxes).iter().filter_map(Weak::upgrade) {
            outbox.offer(&event);
        }
    }

    /// Counts events of a kind that are not published, for the clients that subscribed to it.
    pub(crate) fn lose(&self, kind: EventKind, count: u64) {
        if count == 0 || !self.any.load(Ordering::Acquire) {
            return;
        }
        for outbox in lock(&self.outboxes).iter().filter_map(Weak::upgrade) {
            let mut waiting = lock(&outbox.waiting);
            if waiting.kinds.contains(&kind) {
                waiting.lost += count;
            }
        }
    }

    /// Makes all callers of [`wait`](Self::wait) look again. Never waits for one of them.
    pub(crate) fn wake(&self) {
        *lock(&self.wakes) += 1;
        self.woken.notify_all();
    }

    /// Waits until `look` returns something; `None`: it did not before `deadline`. `look` is called
    /// after each [`wake`](Self::wake), and at intervals, so that it can notice that the client is
    /// gone.
    pub(crate) fn wait<T>(
        &self,
        deadline: Instant,
        mut look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        /// The interval at which a client that is gone is noticed.
        const GLANCE: Duration = Duration::from_millis(500);
        loop {
            // A wake while it looks makes it look again.
            let seen = *lock(&self.wakes);
            if let Some(found) = look() {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let wakes = lock(&self.wakes);
            let waited = self
                .woken
                .wait_timeout_while(wakes, left.min(GLANCE), |wakes| *wakes == seen);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use zcnic_ctl::protocol::event::Link;

    use super::*;

    fn event(number: usize) -> Event {
        Event::Link(Link {
            port: number.to_string(),
            up: true,
        })
    }

    #[test]
    fn a_client_that_does_not_read_loses_events_and_learns_how_many() {
        let events = Events::default();
        let outbox = events.add_client();
        events.publish(|| event(0));
        outbox.subscribe(vec![EventKind::Link]);
        for number in 1..=MAX_WAITING + 5 {
            events.publish(|| event(number));
        }
        assert_eq!(
            outbox
                .send(&"x", Duration::from_millis(1))
                .map_err(|error| error.kind()),
            Err(io::ErrorKind::TimedOut),
            "answers have no more room than events"
        );
        let (client, server) = UnixStream::pair().expect("sockets");
        outbox.finish();
        let reader = std::thread::spawn(move || {
            let lines = BufReader::new(client).lines();
            lines.map(|line| line.expect("a line")).collect::<Vec<_>>()
        });
        outbox.drain(&server);
        events.publish(|| event(9999));
        outbox.drain(&server);
        drop(server);
        let lines = reader.join().expect("reader");
        assert_eq!(lines.len(), MAX_WAITING + 2);
        assert_eq!(
            lines[0],
            r#"{"event":"link","data":{"port":"1","up":true}}"#
        );
        assert_eq!(lines[MAX_WAITING], r#"{"event":"lost","data":{"count":5}}"#);
    }

    #[test]
    fn a_client_that_is_gone_is_noticed() {
        let outbox = Outbox::default();
        let (client, server) = UnixStream::pair().expect("sockets");
        drop(client);
        outbox.send(&"x", Duration::ZERO).expect("there is room");
        outbox.drain(&server);
        assert!(outbox.send(&"x", Duration::from_secs(60)).is_err());
    }

    #[test]
    fn waiting_ends() {
        let events = Events::default();
        assert_eq!(events.wait(Instant::now(), || None::<()>), None);
        assert_eq!(events.wait(Instant::now(), || Some(1)), Some(1));
        let flag = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                flag.store(true, Ordering::Release);
                events.wake();
            });
            let deadline = Instant::now() + Duration::from_secs(60);
            let found = events.wait(deadline, || flag.load(Ordering::Acquire).then_some(()));
            assert_eq!(found, Some(()));
        });
    }
}
