//! Which messages of a frontend reach the vhost-user crate.
//!
//! The crate trusts a frontend in more than zcnic does. It takes any file for a kick or call
//! descriptor and for memory, keeps as many as it gets, and waits for ever for a frontend that says
//! nothing.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use thiserror::Error;

use crate::{
    descriptors::{PER_RING, Share},
    index::MAX_RINGS,
    memory::{MemoryError, MemoryRules},
    notifier::Notifier,
};

pub(super) const GET_FEATURES: u32 = 1;
pub(super) const SET_FEATURES: u32 = 2;
pub(super) const SET_MEM_TABLE: u32 = 5;
const SET_LOG_BASE: u32 = 6;
const SET_LOG_FD: u32 = 7;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const SET_VRING_ERR: u32 = 14;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
const GET_QUEUE_NUM: u32 = 17;
const SET_VRING_ENABLE: u32 = 18;
const SET_BACKEND_REQ_FD: u32 = 21;

/// Why a message is refused.
#[derive(Debug, Error)]
pub(crate) enum GateError {
    #[error("Request {0} is not served by this backend")]
    Request(u32),
    #[error("The {kind} descriptor of ring {ring} is not an eventfd")]
    NotEventfd { kind: &'static str, ring: u8 },
    #[error(
        "Rings and memory would need {needed} file descriptors, and each port may use {allowed} \
         under the limit of open files (ulimit -n, LimitNOFILE=)"
    )]
    TooMany { needed: usize, allowed: usize },
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// Whether the daemon gets this request. The crate trusts that a frontend acknowledges only offered
/// protocol features, and panics on a log that it can't keep, so requests of features that are
/// never offered stay outside.
pub(crate) fn is_served(request: u32) -> bool {
    ((GET_FEATURES..=SET_VRING_ENABLE).contains(&request) || request == SET_BACKEND_REQ_FD)
        && !matches!(request, SET_LOG_BASE | SET_LOG_FD)
}

/// Whether bytes can be the start of a served message: request and flags, 32 bits each.
pub(crate) fn may_begin_message(start: &[u8]) -> bool {
    let is_prefix = |request: u32| {
        let header = [request, 1].map(u32::to_ne_bytes).concat();
        let flags_may_follow = start.len() > 4 && start.starts_with(&header[..4]);
        flags_may_follow || header.starts_with(start)
    };
    (GET_FEATURES..=SET_BACKEND_REQ_FD)
        .filter(|&request| is_served(request))
        .any(is_prefix)
}

/// The descriptors that a frontend has handed over for one ring.
#[derive(Clone, Copy, Default)]
struct RingDescriptors {
    kick: bool,
    call: bool,
}

/// Checks the messages of one frontend.
pub(super) struct Gate<'a> {
    notifier: Arc<Notifier>,
    rules: &'a MemoryRules,
    share: Share,
    rings: [RingDescriptors; MAX_RINGS],
    memory: usize,
    /// The frontend has set something up, so it is one.
    introduced: bool,
}

impl<'a> Gate<'a> {
    pub(super) fn new(notifier: Arc<Notifier>, rules: &'a MemoryRules, share: Share) -> Self {
        Self {
            notifier,
            rules,
            share,
            rings: [RingDescriptors::default(); MAX_RINGS],
            memory: 0,
            introduced: false,
        }
    }

    /// Descriptors that one message may carry.
    pub(super) fn per_message(&self) -> usize {
        self.share.per_message
    }

    /// Whether the frontend did more than to ask what it is connected to.
    pub(super) fn is_introduced(&self) -> bool {
        self.introduced
    }

    /// Checks a message before the daemon gets it.
    ///
    /// # Errors
    ///
    /// The daemon must not get it.
    pub(super) fn check(
        &mut self,
        request: u32,
        body: &[u8],
        fds: &[OwnedFd],
    ) -> Result<(), GateError> {
        if !is_served(request) {
            return Err(GateError::Request(request));
        }
        self.introduced |= !matches!(
            request,
            GET_FEATURES | GET_PROTOCOL_FEATURES | SET_PROTOCOL_FEATURES | GET_QUEUE_NUM
        );
        // The number of a ring is in the lowest 8 bits of these messages. The crate refuses those
        // that are too short.
        let number = body.first().copied().unwrap_or(0);
        let kind = match request {
            SET_VRING_KICK => "kick",
            SET_VRING_CALL => "call",
            SET_VRING_ERR => "error",
            _ => "",
        };
        let is_eventfd = |fd: &OwnedFd| self.notifier.is_eventfd(fd.as_fd());
        if !kind.is_empty() && !fds.iter().all(is_eventfd) {
            return Err(GateError::NotEventfd { kind, ring: number });
        }
        let ring = &mut self.rings[usize::from(number) % MAX_RINGS];
        match request {
            SET_VRING_KICK => ring.kick = !fds.is_empty(),
            SET_VRING_CALL => ring.call = !fds.is_empty(),
            GET_VRING_BASE => *ring = RingDescriptors::default(),
            SET_MEM_TABLE => self.memory = fds.len(),
            _ => return Ok(()),
        }
        let of_ring = |ring: &RingDescriptors| {
            usize::from(ring.call) + (PER_RING - 1) * usize::from(ring.kick)
        };
        if request == SET_MEM_TABLE {
            self.rules.check(body, fds)?;
        }
        let needed = self.memory + self.rings.iter().map(of_ring).sum::<usize>();
        let allowed = self.share.held;
        if needed > allowed {
            return Err(GateError::TooMany { needed, allowed });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustix::{
        event::{EventfdFlags, eventfd},
        fs::{MemfdFlags, ftruncate, memfd_create},
    };

    use super::*;

    fn gate(rules: &MemoryRules, held: usize) -> Gate<'_> {
        let share = Share {
            held,
            ..Share::FULL
        };
        Gate::new(Arc::new(Notifier::new().expect("AIO")), rules, share)
    }

    /// A memory table of one page.
    fn table() -> ([u8; 40], OwnedFd) {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("guest", flags).expect("memfd");
        ftruncate(&file, 4096).expect("size");
        let body = [1, 0, 4096, 0, 0].map(u64::to_ne_bytes);
        (body.as_flattened().try_into().expect("40 bytes"), file)
    }

    fn eventfds(count: usize) -> Vec<OwnedFd> {
        let eventfd = || eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd");
        (0..count).map(|_| eventfd()).collect()
    }

    #[test]
    fn requests_of_features_that_are_not_offered_are_refused() {
        let rules = MemoryRules::default();
        let mut gate = gate(&rules, 10);
        for request in [0, SET_LOG_BASE, SET_LOG_FD, SET_VRING_ENABLE + 1, u32::MAX] {
            let refused = gate.check(request, &[], &[]);
            assert!(matches!(refused, Err(GateError::Request(r)) if r == request));
        }
    }

    #[test]
    fn first_bytes_of_other_protocols_are_recognised() {
        let first = |request: u32| [request, 1, 0].map(u32::to_ne_bytes).concat();
        for request in (0..64).chain([u32::MAX, 0x0100_0001]) {
            let header = first(request);
            for length in 0..=header.len() {
                let expected = is_served(request) || length == 0;
                let may = may_begin_message(&header[..length]);
                assert!(may >= expected, "request {request}, {length} bytes");
            }
            assert_eq!(may_begin_message(&header[..8]), is_served(request));
        }
        for text in [" \n", "{\"execute\"", "GET / HTTP/1.1", "\n\n"] {
            assert!(!may_begin_message(text.as_bytes()), "{text:?}");
        }
    }

    #[test]
    fn descriptors_are_counted_while_they_are_held() {
        let rules = MemoryRules::default();
        let mut gate = gate(&rules, 2 * PER_RING + 1);
        let body = |ring: u64| ring.to_ne_bytes();
        let (regions, file) = table();
        gate.check(SET_MEM_TABLE, &regions, &[file])
            .expect("a region");
        let mut set = |request, ring, count| gate.check(request, &body(ring), &eventfds(count));
        for ring in [0, 1] {
            set(SET_VRING_KICK, ring, 1).expect("kick");
            set(SET_VRING_CALL, ring, 1).expect("call");
        }
        set(SET_VRING_KICK, 1, 1).expect("replaces one");
        set(GET_VRING_BASE, 1, 0).expect("gives two back");
        set(SET_VRING_KICK, 2, 1).expect("kick");
        set(SET_VRING_CALL, 2, 1).expect("call");
        let refused = set(SET_VRING_CALL, 3, 1);
        assert!(matches!(
            refused,
            Err(GateError::TooMany {
                needed: 8,
                allowed: 7
            })
        ));
    }

    #[test]
    fn descriptors_of_rings_are_eventfds() {
        let rules = MemoryRules::default();
        let mut gate = gate(&rules, 100);
        for request in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
            gate.check(request, &[5; 8], &eventfds(1)).expect("eventfd");
            let (reader, _writer) = rustix::pipe::pipe().expect("pipe");
            let refused = gate.check(request, &[5; 8], &[reader]);
            assert!(matches!(
                refused,
                Err(GateError::NotEventfd { ring: 5, .. })
            ));
        }
    }
}
