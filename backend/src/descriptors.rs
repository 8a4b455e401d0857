//! How many file descriptors each port may hold.
//!
//! The limit of open files (RLIMIT_NOFILE) is divided when the backend starts: what it has opened by
//! then, a reserve for the control socket, and equal shares of the rest for the ports. A frontend
//! that needs more than its port's share is disconnected, so no other port and no client ever finds
//! the limit exhausted.

use std::{io, os::fd::AsRawFd};

use rustix::{
    event::{EventfdFlags, eventfd},
    process::{Resource, getrlimit},
};
use thiserror::Error;

use crate::index::MAX_RINGS;

/// Connections to a port's socket that wait for their first message or for the port.
pub(crate) const WAITING: usize = 8;

/// Sockets of one connection, on its way from the listener to the daemon.
const CONNECTION: usize = 8;

/// Messages whose descriptors may be open at once: one in the relay, one in the daemon, and the
/// memory table that the second one replaces.
const MESSAGES: usize = 3;

/// Descriptors of a ring: its call descriptor, and its kick descriptor twice.
pub(crate) const PER_RING: usize = 3;

/// What a frontend can keep open at most: all rings and a memory table.
const HELD: usize = MAX_RINGS * PER_RING + Share::PER_MESSAGE;

/// The least that makes a port useful: two rings and a region of memory.
const LEAST_HELD: usize = 2 * PER_RING + 2;

/// For what the process opens for a moment.
const SPARE: usize = 16;

/// The limit of open files is too low.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "The limit of open files is {limit}, too low for {ports} ports and their clients; they need \
     {needed} at least (ulimit -n, LimitNOFILE=)"
)]
pub struct TooFewDescriptors {
    limit: usize,
    ports: usize,
    needed: usize,
}

/// The descriptors that one port's frontend may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Those of one message.
    pub(crate) per_message: usize,
    /// Those that stay open.
    pub(crate) held: usize,
}

impl Share {
    /// Descriptors that a message may carry at most: a memory table of 32 regions.
    pub(crate) const PER_MESSAGE: usize = 32;

    /// What a frontend can use at most.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) const FULL: Self = Self {
        per_message: Self::PER_MESSAGE,
        held: HELD,
    };

    /// The share of a port that gets `all` descriptors, waiting connections included.
    fn of(all: usize) -> Option<Self> {
        let rest = all.checked_sub(WAITING + CONNECTION)?;
        let per_message = (rest / (3 * MESSAGES)).clamp(1, Self::PER_MESSAGE);
        let held = rest.checked_sub(MESSAGES * per_message)?.min(HELD);
        (held >= LEAST_HELD).then_some(Self { per_message, held })
    }

    /// The share of each of `ports` ports, beside `reserved` descriptors for others. Called when
    /// everything is open that stays open.
    ///
    /// # Errors
    ///
    /// There are too few, or none at all.
    pub(crate) fn divide(
        ports: usize,
        reserved: usize,
    ) -> io::Result<Result<Self, TooFewDescriptors>> {
        // The kernel gives the lowest free number: all below are open.
        let open = eventfd(0, EventfdFlags::CLOEXEC)?.as_raw_fd();
        let open = usize::try_from(open).unwrap_or(0);
        let limit = getrlimit(Resource::Nofile).current;
        let limit = limit.map_or(usize::MAX, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        });
        Ok(Self::divide_up(limit, open + reserved + SPARE, ports))
    }

    fn divide_up(limit: usize, others: usize, ports: usize) -> Result<Self, TooFewDescriptors> {
        let each = limit.saturating_sub(others) / ports.max(1);
        Self::of(each).ok_or_else(|| {
            let least = (0..).find(|&each| Self::of(each).is_some());
            TooFewDescriptors {
                limit,
                ports,
                needed: others + ports * least.unwrap_or(0),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_add_up_to_more_than_the_limit() {
        for limit in 0..3000 {
            for ports in [1, 2, 4, 16] {
                let Ok(share) = Share::divide_up(limit, 60, ports) else {
                    continue;
                };
                let one = WAITING + CONNECTION + MESSAGES * share.per_message + share.held;
                assert!(60 + ports * one <= limit, "{ports} ports, limit {limit}");
            }
        }
    }

    #[test]
    fn usual_limits_allow_every_ring() {
        assert_eq!(Share::divide_up(1 << 20, 60, 16), Ok(Share::FULL));
        assert_eq!(Share::divide_up(usize::MAX, 60, 2), Ok(Share::FULL));
        let low = Share::divide_up(1024, 60, 2).expect("enough for two ports");
        assert!(low.held >= 64 * PER_RING, "{low:?}");
    }

    #[test]
    fn a_limit_that_is_too_low_is_refused_with_the_one_that_suffices() {
        let refused = Share::divide_up(100, 60, 4).expect_err("too low");
        let TooFewDescriptors { needed, .. } = refused;
        assert!(Share::divide_up(needed, 60, 4).is_ok());
        assert!(Share::divide_up(needed - 1, 60, 4).is_err());
    }
}
