//! What is known of a ring apart from guest memory: where it is, how far it got, why it is broken.

use std::{
    fmt::{self, Display, Formatter},
    io::ErrorKind,
};

use thiserror::Error;

/// Why a ring can't be used until it is set up again.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum RingError {
    #[error("Ring size {0} is not a power of two between 1 and 32768")]
    Size(u16),
    #[error("{part} at {address:#x} is not wholly inside one region of guest memory")]
    Outside { part: Part, address: u64 },
    #[error("{part} at {address:#x} is not aligned")]
    Misaligned { part: Part, address: u64 },
    #[error("{0} and {1} overlap; each needs bytes of its own (virtio 1.3, 2.7)")]
    Overlap(Part, Part),
    #[error("Driver made {available} chains available in a ring of {size}")]
    AvailableIndex { available: u16, size: u16 },
    #[error("Driver made head {head} available in a ring of {size}")]
    Head { head: u16, size: u16 },
    /// The ring is still served whenever something else schedules it.
    #[error("Kick descriptor can't be polled ({0})")]
    Kick(ErrorKind),
}

/// A part of a split ring (virtio 1.3, 2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Descriptors,
    Available,
    Used,
}

impl Display for Part {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Descriptors => "Descriptor table",
            Self::Available => "Available ring",
            Self::Used => "Used ring",
        })
    }
}

/// Where a ring is and how driver and device notify each other. Addresses are guest-physical.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Setup {
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    /// VIRTIO_F_EVENT_IDX was negotiated.
    pub(crate) event_idx: bool,
}

/// The device's progress in a ring. All indices count modulo 2^16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Indices {
    /// The next entry of the available ring to take.
    pub(crate) next_available: u16,
    /// The next entry of the used ring to write.
    pub(crate) next_used: u16,
    /// The used index that is published to the driver.
    pub(crate) published: u16,
    /// The used index of the last interrupt (last-signalled); `None`: raise the next one in any
    /// case.
    pub(crate) signalled: Option<u16>,
    /// The used flags that were last stored; `None`: unknown, as a previous backend left them.
    pub(crate) flags: Option<u16>,
}
