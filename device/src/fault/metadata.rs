//! Faults of what the receive header tells about a frame.

pub use crate::receive::faulty::WrongVerdict;
use crate::{abi::HashType, rss::Hash};

/// What is told wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataFault {
    /// The hash is not that of the frame. A frame without a hash gets one.
    WrongHash {
        /// What it is instead; `None`: a drawn value.
        value: Option<u32>,
    },
    /// The checksum verdict is not that of the frame.
    WrongChecksum {
        /// What it is instead.
        verdict: WrongVerdict,
    },
}

/// The hash that is told instead of `hash`.
pub(super) fn wrong_hash(hash: Option<Hash>, value: Option<u32>, draw: u64) -> Hash {
    let right = hash.map(|hash| hash.value);
    // A drawn value is another one for sure.
    let value = value.unwrap_or(match draw as u32 {
        drawn if Some(drawn) == right => !drawn,
        drawn => drawn,
    });
    let kind = hash.map_or(HashType::Ipv4, |hash| hash.kind);
    Hash { value, kind }
}
