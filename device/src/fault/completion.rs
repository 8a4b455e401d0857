//! Faults of how chains are returned.

use std::num::NonZeroU32;

/// What goes wrong when a frame's chains are returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompletionFault {
    /// The device could not use the chain: it comes back with length 0 and the frame is lost.
    DescriptorError,
    /// The used ring names a descriptor that does not exist; the chains themselves come back when the queue
    /// stops.
    BadUsedId {
        /// How far beyond the ring's last descriptor.
        beyond: u32,
    },
    /// The last chain is returned twice.
    Duplicate,
    /// The chains are returned later.
    Withhold {
        /// Behind this many more frames of the queue; `None`: when the rule is removed or the queue
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

/// What completion faults need of a ring beyond the order that it is made for.
pub trait RawRing {
    /// Descriptors of the ring.
    fn size(&self) -> u32;

    /// Takes the next `written.len()` chains (of a receive ring: reserved ones, and gives the rest back as
    /// available) without returning them. What would have been returned is appended to `held`.
    fn hold(&mut self, written: &[u32], held: &mut Vec<UsedElement>);

    /// Puts an element into the used ring, whatever it names.
    fn put_used(&mut self, element: UsedElement);
}

/// Takes the next chains of `ring` and returns them as `fault` says. What is to be held back is returned.
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
