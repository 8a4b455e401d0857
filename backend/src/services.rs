//! Shared by all ports of a backend: the timer, the event bus and the list of captures.

use crate::{captures::Captures, events::Events, timer::Timer};

/// Shared by all ports and the control server. Each part has a lock of its own, taken last.
#[derive(Debug, Default)]
pub(crate) struct Services {
    pub(crate) timer: Timer,
    pub(crate) events: Events,
    pub(crate) captures: Captures,
}
