//! Faults of a queue as a whole.

/// The fault of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueFault {
    /// From this frame on, which is the first victim, the queue is stalled: a receive queue drops
    /// frames, a transmit queue takes none.
    Stall {
        /// Duration; `None`: until the rule is removed or the queue stopped.
        nanoseconds: Option<u64>,
    },
    /// On the interrupt of the batch that the frame is in.
    Interrupt(InterruptFault),
}

/// The fault of an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptFault {
    /// It is not raised although the driver asked for it.
    Lost,
    /// It is raised although the driver did not ask for it.
    Spurious,
}

impl InterruptFault {
    /// Whether to raise an interrupt that is `wanted` or not.
    #[must_use]
    pub fn apply(fault: Option<Self>, wanted: bool) -> bool {
        match fault {
            None => wanted,
            Some(Self::Lost) => false,
            Some(Self::Spurious) => true,
        }
    }
}
