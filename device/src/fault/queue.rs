//! Faults of a queue as a whole.

/// What is wrong with a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueFault {
    /// From this frame on, which is its first victim, the queue does nothing: receive queues drop frames,
    /// transmit queues take none.
    Stall {
        /// For this long; `None`: until the rule is removed or the queue stopped.
        nanoseconds: Option<u64>,
    },
    /// With the interrupt of the batch that the frame is in.
    Interrupt(InterruptFault),
}

/// What is wrong with an interrupt.
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
