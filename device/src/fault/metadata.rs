//! Faults of the receive header's metadata.

pub use crate::receive::faulty::WrongVerdict;
use crate::{abi::HashType, rss::Hash};

/// The fault of a frame's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataFault {
    /// The hash is not that of the frame. A frame without a hash gets one.
    WrongHash {
        /// The reported value; `None`: drawn.
        value: Option<u32>,
    },
    /// The checksum verdict is not that of the frame.
    WrongChecksum {
        /// The reported verdict.
        verdict: WrongVerdict,
    },
}

/// The hash to report instead of `hash`.
pub(super) fn wrong_hash(hash: Option<Hash>, value: Option<u32>, draw: u64) -> Hash {
    let right = hash.map(|hash| hash.value);
    // A drawn value must differ from the valid one.
    let value = value.unwrap_or(match draw as u32 {
        drawn if Some(drawn) == right => !drawn,
        drawn => drawn,
    });
    let kind = hash.map_or(HashType::Ipv4, |hash| hash.kind);
    Hash { value, kind }
}
