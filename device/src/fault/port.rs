//! Faults of a whole port. The port's owner executes them when no ring is locked.

/// The fault of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortFault {
    /// The carrier is lost and returns.
    LinkFlap {
        /// Nanoseconds without a carrier.
        nanoseconds: u64,
    },
    /// The device loses its session and its configuration, as after a firmware crash.
    DeviceReset,
    /// The connection to the virtual machine monitor breaks.
    Disconnect,
}
