//! Shared by all ports of a backend: the timer, the event bus, the list of captures, the rules for the
//! memory of frontends, and the notifier.

use std::{io, sync::Arc};

use crate::{
    captures::Captures, events::Events, memory::MemoryRules, notifier::Notifier, timer::Timer,
};

/// Shared by all ports and the control server. Each part has a lock of its own, taken last, but for
/// the notifier, which needs none.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) timer: Timer,
    pub(crate) events: Events,
    pub(crate) captures: Captures,
    pub(crate) memory: MemoryRules,
    pub(crate) notifier: Arc<Notifier>,
}

impl Services {
    /// Services of ports whose frontends have memory by these rules.
    ///
    /// # Errors
    ///
    /// As for [`Notifier::new`].
    pub(crate) fn new(memory: MemoryRules) -> io::Result<Self> {
        Ok(Self {
            timer: Timer::default(),
            events: Events::default(),
            captures: Captures::default(),
            memory,
            notifier: Arc::new(Notifier::new()?),
        })
    }
}
