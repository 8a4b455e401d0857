//! Shared by all ports of a backend: the timer, the event bus, the list of captures, and the rules
//! for the memory of frontends.

use crate::{captures::Captures, events::Events, memory::MemoryRules, timer::Timer};

/// Shared by all ports and the control server. Each part has a lock of its own, taken last.
#[derive(Debug, Default)]
pub(crate) struct Services {
    pub(crate) timer: Timer,
    pub(crate) events: Events,
    pub(crate) captures: Captures,
    pub(crate) memory: MemoryRules,
}

impl Services {
    /// Services of ports whose frontends have memory by these rules.
    pub(crate) fn new(memory: MemoryRules) -> Self {
        Self {
            memory,
            ..Self::default()
        }
    }
}
