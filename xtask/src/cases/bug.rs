//! A bug that is put into the driver or into a program, and what must find it.

/// What is wrong, what the guest does meanwhile, and who must find it.
#[derive(Debug)]
pub(super) struct Bug {
    pub(super) seed: Seed,
    pub(super) load: Load,
    /// None: nobody finds anything. Otherwise what is found contains this.
    pub(super) finder: Option<(Finder, &'static str)>,
}

/// Where a bug is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seed {
    /// Nowhere.
    None,
    /// In the driver: a patch of its name, and its text.
    Driver(&'static str, &'static str),
    /// In the receiving program, by an option.
    Program(&'static str),
}

/// What the guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// Zero-copy receive; then the queue gets its own memory back.
    ZeroCopy,
    /// Zero-copy receive until nothing moves any more.
    Stall,
    /// More data than the receiver has buffers for, all of which it keeps.
    Exhaustion,
    /// Plain reads, where every mapping for the device is a copy.
    Bounce,
    /// Plain reads of frames of which some have a used length that is too short.
    ShortBuffers,
}

/// Who finds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finder {
    /// The ledger of the device.
    Ledger,
    /// The device, which refused commands.
    Commands,
    /// The guest's page pools: buffers are missing.
    PagePools,
    /// The guest's log.
    Log,
    /// Who armed a fault and sees no trace of it.
    Faults,
    /// A program in the guest: bytes are wrong or missing, or something is refused.
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
