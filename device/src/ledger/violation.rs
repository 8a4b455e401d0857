//! Violations of the ownership of receive buffers.

use std::fmt;

/// A range of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestRange {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes.
    pub length: u32,
}

impl GuestRange {
    pub(super) const fn end(self) -> u64 {
        self.address.saturating_add(self.length as u64)
    }
}

impl fmt::Display for GuestRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {:#x}", self.length, self.address)
    }
}

/// A violation of the ownership of buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The driver posted a buffer that the device owned already.
    PostedTwice {
        /// The buffer.
        range: GuestRange,
        /// The chain that it is in now.
        head: u16,
        /// The chain that it was posted with before.
        other: u16,
    },
    /// The driver posted a buffer that shares bytes with one that the device owned.
    Overlap {
        /// The buffer.
        range: GuestRange,
        /// Its chain.
        head: u16,
        /// The buffer that the device owned.
        with: GuestRange,
        /// The chain of that buffer.
        other: u16,
    },
    /// The driver posted an unusable chain: for example, a descriptor outside of guest memory.
    Unusable {
        /// The chain.
        head: u16,
    },
    /// The driver posted a chain that the device owned already.
    ChainPostedTwice {
        /// The chain.
        head: u16,
    },
    /// The device returned a chain that it did not own.
    NotPosted {
        /// The chain.
        head: u16,
    },
    /// At a stop of the queue, the device still owned a chain.
    NotReturned {
        /// The chain.
        head: u16,
    },
    /// At a stop of the queue, the counts differed.
    Count {
        /// Chains posted since the queue started.
        posted: u64,
        /// Chains returned since then.
        returned: u64,
    },
    /// The driver kept a filled buffer for too long.
    Overdue {
        /// The buffer.
        range: GuestRange,
        /// The time of its return.
        since: u64,
    },
    /// The guest wrote to a buffer that the device owned.
    Written {
        /// The buffer.
        range: GuestRange,
        /// Its chain.
        head: u16,
        /// The first byte that was changed.
        offset: u32,
    },
}

impl Violation {
    /// The buffers that it names.
    pub fn ranges(&self) -> impl Iterator<Item = GuestRange> {
        let (range, with) = match *self {
            Self::PostedTwice { range, .. }
            | Self::Overdue { range, .. }
            | Self::Written { range, .. } => (Some(range), None),
            Self::Overlap { range, with, .. } => (Some(range), Some(with)),
            Self::Unusable { .. }
            | Self::ChainPostedTwice { .. }
            | Self::NotPosted { .. }
            | Self::NotReturned { .. }
            | Self::Count { .. } => (None, None),
        };
        range.into_iter().chain(with)
    }

    /// The name in the control protocol.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::PostedTwice { .. } => "posted-twice",
            Self::Overlap { .. } => "overlap",
            Self::Unusable { .. } => "unusable",
            Self::ChainPostedTwice { .. } => "chain-posted-twice",
            Self::NotPosted { .. } => "not-posted",
            Self::NotReturned { .. } => "not-returned",
            Self::Count { .. } => "count",
            Self::Overdue { .. } => "overdue",
            Self::Written { .. } => "written",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::PostedTwice { range, head, other } => {
                write!(
                    f,
                    "{range} posted with chain {head} while still posted with chain {other}"
                )
            }
            Self::Overlap {
                range,
                head,
                with,
                other,
            } => write!(
                f,
                "{range} posted with chain {head} overlap {with} of chain {other}"
            ),
            Self::Unusable { head } => {
                write!(
                    f,
                    "chain {head} was posted with memory that is not the guest's"
                )
            }
            Self::ChainPostedTwice { head } => {
                write!(f, "chain {head} was posted while the device had it")
            }
            Self::NotPosted { head } => {
                write!(
                    f,
                    "chain {head} was returned while the device did not have it"
                )
            }
            Self::NotReturned { head } => write!(f, "chain {head} was not returned at the stop"),
            Self::Count { posted, returned } => {
                write!(f, "{posted} chains were posted and {returned} returned")
            }
            Self::Overdue { range, since } => {
                write!(f, "{range}, filled at {since} ns, were not posted again")
            }
            Self::Written {
                range,
                head,
                offset,
            } => write!(
                f,
                "byte {offset} of {range} was written while the device owned it with chain {head}"
            ),
        }
    }
}
