//! Faults of a whole port. The port's owner carries them out once no ring is locked.

/// What happens to the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortFault {
    /// The carrier goes and comes back.
    LinkFlap {
        /// Nanoseconds without a carrier.
        nanoseconds: u64,
    },
    /// The device forgets its session and its configuration, as when its firmware crashes.
    DeviceReset,
    /// The connection to the virtual machine monitor breaks.
    Disconnect,
}
