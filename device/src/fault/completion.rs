//! Faults of how chains are returned.

use std::num::NonZeroU32;

/// The fault of a frame's completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompletionFault {
    /// As if the device could not use the chain: it is returned with length 0 and the frame is
    /// lost.
    DescriptorError,
    /// The used ring names a descriptor that does not exist; the chains themselves are returned
    /// when the queue stops.
    BadUsedId {
        /// The distance from the ring's last descriptor.
        beyond: u32,
    },
    /// The last chain is returned twice.
    Duplicate,
    /// The chains are returned later.
    Withhold {
        /// After this many more frames of the queue; `None`: when the rule is removed or the queue
        /// stops.
        frames: Option<NonZeroU32>,
    },
}

/// An element of a used ring (virtio 1.3, 2.7.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsedElement {
    /// Head of the chain.
    pub id: u32,
    /// Bytes written to it.
    pub length: u32,
}

/// Ring operations of completion faults, which break the order of
/// [`ReceiveRing`](crate::memory::ReceiveRing).
pub trait RawRing {
    /// Descriptors of the ring.
    fn size(&self) -> u32;

    /// Takes the next `written.len()` chains without returning them, and appends their used
    /// elements to `held`. On a receive ring these are reserved chains, and the other reserved
    /// chains become available again.
    fn hold(&mut self, written: &[u32], held: &mut Vec<UsedElement>);

    /// Puts any element into the used ring.
    fn put_used(&mut self, element: UsedElement);
}

/// Takes the next chains of `ring` and returns them with `fault`. The result is the elements to
/// withhold.
pub(super) fn complete(
    ring: &mut impl RawRing,
    written: &[u32],
    fault: CompletionFault,
) -> Vec<UsedElement> {
    let mut elements = Vec::new();
    ring.hold(written, &mut elements);
    match fault {
        CompletionFault::DescriptorError => {
            for element in elements.drain(..) {
                ring.put_used(UsedElement {
                    length: 0,
                    ..element
                });
            }
        }
        CompletionFault::BadUsedId { beyond } => {
            let id = ring.size().saturating_add(beyond);
            let length = elements.first().map_or(0, |element| element.length);
            ring.put_used(UsedElement { id, length });
        }
        CompletionFault::Duplicate => {
            let again = elements.last().copied();
            for element in elements.drain(..).chain(again) {
                ring.put_used(element);
            }
        }
        CompletionFault::Withhold { .. } => {}
    }
    elements
}
