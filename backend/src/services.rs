//! Shared by all ports of a backend: the timer, the event bus, the list of captures and the
//! notifier.

use std::{io, sync::Arc};

use crate::{captures::Captures, events::Events, notifier::Notifier, timer::Timer};

/// Shared by all ports and the control server. Each part has a lock of its own, taken last, but for
/// the notifier, which needs none.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) timer: Timer,
    pub(crate) events: Events,
    pub(crate) captures: Captures,
    pub(crate) notifier: Arc<Notifier>,
}

impl Services {
    /// # Errors
    ///
    /// As for [`Notifier::new`].
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            timer: Timer::default(),
            events: Events::default(),
            captures: Captures::default(),
            notifier: Arc::new(Notifier::new()?),
        })
    }
}
