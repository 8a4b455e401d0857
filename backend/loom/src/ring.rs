//! A split ring whose words are loom's, and the driver's side of it.

pub(crate) mod raw;
#[path = "../../src/ring/split.rs"]
pub(crate) mod split;
#[path = "../../src/ring/state.rs"]
mod state;

use std::ops::Deref;

use loom::{cell::UnsafeCell, sync::Arc};

pub(crate) use self::state::{Indices, RingError};
use self::{raw::Mapping, split::SplitRing};

/// A ring, and the memory of the chains in it.
pub(crate) struct Ring {
    pub(crate) map: Mapping,
    /// The content of each chain: written before it is passed on, read afterwards. loom fails if
    /// the two are not ordered.
    pub(crate) content: Vec<UnsafeCell<u32>>,
    pub(crate) event_idx: bool,
}

/// Descriptors of a ring.
pub(crate) const SIZE: u16 = 2;

impl Ring {
    /// The device's view.
    pub(crate) fn device<'r>(&'r self, indices: &'r mut Indices) -> SplitRing<'r> {
        SplitRing::new(&self.map, self.event_idx, indices)
    }

    /// Reads what the other side wrote into a chain.
    pub(crate) fn read(&self, head: u16) -> u32 {
        // SAFETY: loom fails before it lets another thread write meanwhile.
        #[allow(unsafe_code, reason = "loom's cell checks each access")]
        self.content[usize::from(head)].with(|value| unsafe { *value })
    }

    /// Writes into a chain.
    pub(crate) fn write(&self, head: u16, value: u32) {
        // SAFETY: loom fails before it lets another thread access it meanwhile.
        #[allow(unsafe_code, reason = "loom's cell checks each access")]
        self.content[usize::from(head)].with_mut(|place| unsafe { *place = value });
    }
}

/// A ring that threads share.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Ring>);

impl Shared {
    /// An empty ring.
    pub(crate) fn new(event_idx: bool) -> Self {
        let content = (0..SIZE).map(|_| UnsafeCell::new(0)).collect();
        Self(Arc::new(Ring {
            map: Mapping::new(SIZE),
            content,
            event_idx,
        }))
    }
}

impl Deref for Shared {
    type Target = Ring;

    fn deref(&self) -> &Ring {
        &self.0
    }
}
