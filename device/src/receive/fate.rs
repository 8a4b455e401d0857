//! The end of one received segment, for captures.

use super::{Delivered, ReceiveQueue, layout::split_point};
use crate::train::Train;

/// The end of a segment that was offered to a receive queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// In receive buffers.
    Placed {
        /// Bytes of it in the header buffer; `None`: it was not split. A stripped VLAN tag is in
        /// neither part.
        split: Option<usize>,
    },
    /// With hardware GRO, which places it alone or in an aggregate.
    Coalesced,
    /// Held back by a fault rule.
    Held,
    /// In the buffers of another queue, where a fault rule put it.
    Redirected {
        /// That queue.
        queue: u16,
    },
    /// Dropped: the ring had too few buffers.
    NoBuffer,
    /// Dropped: the queue is stopped.
    Stopped,
    /// Dropped: it needs more buffers than a frame may take.
    TooLong,
    /// Dropped by a fault rule.
    Faulted,
}

impl ReceiveQueue {
    /// The fate of segments of `train` that [`coalesce`](Self::coalesce) took with this result.
    #[must_use]
    pub fn coalesced_fate<S: ?Sized>(&self, train: &Train<'_, S>, delivered: &Delivered) -> Fate {
        let Some(layout) = self.layout else {
            return Fate::Stopped;
        };
        if delivered.dropped > 0 {
            Fate::TooLong
        } else if train.segments() == 1 && delivered.frames == 1 {
            let split = split_point(layout, train.headers(), train.length);
            Fate::Placed {
                split: split.filter(|_| delivered.split > 0),
            }
        } else {
            Fate::Coalesced
        }
    }
}
