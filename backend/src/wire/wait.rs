//! Waiting for the events of a line's thread.

use std::{
    io,
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use crate::port::{Port, line::Outlet};

/// Waits until one of `others` is ready, the outlet is woken, `until` has passed or, with
/// `for_frames`, a frame of the outlet is due. Returns the events of `others`.
///
/// # Errors
///
/// Waiting itself failed.
pub(super) fn wait<const N: usize>(
    (port, outlet): (&Port, &Outlet),
    for_frames: bool,
    others: [(BorrowedFd<'_>, PollFlags); N],
    until: Option<Instant>,
) -> io::Result<[PollFlags; N]> {
    let due = if for_frames { outlet.sleep() } else { None };
    let due = due.map(|due| Duration::from_nanos(due.saturating_sub(port.context.now())));
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    let limit = due.into_iter().chain(left).min();
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    let mut events = Vec::with_capacity(N + 1);
    events.push(PollFd::from_borrowed_fd(outlet.descriptor(), PollFlags::IN));
    let interesting = |(fd, flags)| PollFd::from_borrowed_fd(fd, flags);
    events.extend(others.into_iter().map(interesting));
    match poll(&mut events, limit.as_ref()) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok([PollFlags::empty(); N]),
        Err(errno) => return Err(errno.into()),
    }
    if !events[0].revents().is_empty() {
        outlet.woken();
    }
    Ok(std::array::from_fn(|other| events[other + 1].revents()))
}
