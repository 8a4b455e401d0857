//! Seeded bugs of the driver or of a program, and what must find them.

/// A bug, the load of the guest, and the finder.
#[derive(Debug)]
pub(super) struct Bug {
    pub(super) seed: Seed,
    pub(super) load: Load,
    /// The finder, and a part of its message; None if nothing may be found.
    pub(super) finder: Option<(Finder, &'static str)>,
}

/// The place of a bug.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seed {
    /// There is no bug.
    None,
    /// In the driver: the name and the text of a patch.
    Driver(&'static str, &'static str),
    /// In the receiving program: an option.
    Program(&'static str),
}

/// The load of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// Zero-copy receive; then the queue gets its own memory back.
    ZeroCopy,
    /// Zero-copy receive until the stream stalls.
    Stall,
    /// More data than fits the receiver's buffers, all of which it keeps.
    Exhaustion,
    /// Plain reads, where every DMA mapping is a bounce buffer.
    Bounce,
    /// Plain reads of frames, some with a used length that is too short.
    ShortBuffers,
}

/// A finder of bugs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finder {
    /// The ledger of the device.
    Ledger,
    /// The device, which refuses commands.
    Commands,
    /// The guest's page pools: buffers are missing.
    PagePools,
    /// The guest's log.
    Log,
    /// A test that armed a fault and sees no effect.
    Faults,
    /// A program in the guest: bytes are wrong or missing, or a request is refused.
    Program,
}

impl Finder {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::Commands => "device",
            Self::PagePools => "page pools",
            Self::Log => "guest's log",
            Self::Faults => "fault rule",
            Self::Program => "program",
        }
    }
}
