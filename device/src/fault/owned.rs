//! Frames that the device has a copy of.

use std::sync::Arc;

use super::RuleId;
use crate::{
    budget::{Budget, Charge},
    rss::Hash,
};

/// A copy of a frame, with final checksums, which is charged to the port's budget.
#[derive(Debug)]
pub struct OwnedFrame {
    bytes: Arc<Bytes>,
    /// Its hash, if one was computed.
    pub hash: Option<Hash>,
    touches: Arc<[Touch]>,
    _charge: Charge,
}

/// The bytes of a frame and of its duplicates.
#[derive(Debug)]
struct Bytes {
    bytes: Vec<u8>,
    _charge: Charge,
}

/// A rule that hit a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// The rule.
    pub rule: RuleId,
    /// The action's name.
    pub action: &'static str,
}

impl OwnedFrame {
    /// Bytes that a frame takes beside its own, approximately: without them a budget full of
    /// duplicates would take many times its size.
    pub const COST: usize = 192;

    /// A frame that `touches` hit; `None`: the budget has no room for it.
    #[must_use]
    pub fn new(
        budget: &Budget,
        bytes: Vec<u8>,
        hash: Option<Hash>,
        touches: Vec<Touch>,
    ) -> Option<Self> {
        let own = budget.charge(bytes.capacity())?;
        Some(Self {
            bytes: Arc::new(Bytes {
                bytes,
                _charge: own,
            }),
            hash,
            touches: touches.into(),
            _charge: budget.charge(Self::COST)?,
        })
    }

    /// The frame once more, which shares its bytes; `None`: the budget has no room for it.
    #[must_use]
    pub fn duplicate(&self, budget: &Budget) -> Option<Self> {
        Some(Self {
            bytes: Arc::clone(&self.bytes),
            hash: self.hash,
            touches: Arc::clone(&self.touches),
            _charge: budget.charge(Self::COST)?,
        })
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes.bytes
    }

    /// The sender's rules that hit it.
    #[must_use]
    pub fn touches(&self) -> &[Touch] {
        &self.touches
    }
}
