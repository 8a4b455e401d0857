//! The head of a frame: what its sender wrote, and the words in which the frame on the wire differs from that.
//!
//! They are kept apart until they are in the receiver's buffer. What is stored in small pieces and loaded in larger
//! ones has the processor wait for all stores before, and these are a payload on its way to memory that no cache has.

/// Words that may differ: length, identification and checksum of an IPv4 header; sequence number, flags and checksum
/// of a TCP header.
const CHANGES: usize = 7;

/// The first bytes of a frame.
#[derive(Debug)]
pub struct HeaderBytes<'h> {
    sent: &'h [u8],
    changes: &'h mut Changes,
}

/// Room for what a [`HeaderBytes`] has of its own, which is not moved with it.
#[derive(Debug, Default)]
pub struct Changes {
    words: [Change; CHANGES],
    count: usize,
}

/// A word that differs.
#[derive(Clone, Copy, Debug, Default)]
struct Change {
    offset: u16,
    value: u16,
}

impl<'h> HeaderBytes<'h> {
    /// A head that is as it was sent.
    #[inline]
    pub(crate) fn new(sent: &'h [u8], changes: &'h mut Changes) -> Self {
        changes.count = 0;
        Self { sent, changes }
    }

    /// The bytes as the sender wrote them.
    #[inline]
    pub(crate) fn sent(&self) -> &'h [u8] {
        self.sent
    }

    /// Where words differ from what was sent, and what is there instead.
    #[inline]
    pub(crate) fn changes(&self) -> impl Iterator<Item = (usize, [u8; 2])> + '_ {
        self.changes.words[..self.changes.count]
            .iter()
            .map(|change| (change.offset.into(), change.value.to_be_bytes()))
    }

    /// Has the two bytes at `offset` be `value` in network order. They are inside, and overlap no others that were
    /// changed.
    #[inline]
    pub(crate) fn change(&mut self, offset: usize, value: u16) {
        debug_assert!(
            offset + 2 <= self.sent.len(),
            "a word is in the header_bytes"
        );
        let Changes { words, count } = &mut *self.changes;
        debug_assert!(*count < CHANGES, "no frame has as many changes");
        if let Some(free) = words.get_mut(*count) {
            *free = Change {
                offset: offset as u16,
                value,
            };
            *count += 1;
        }
    }

    /// Writes it to the start of `into`, which has room for it.
    pub(crate) fn write(&self, into: &mut [u8]) {
        into[..self.sent.len()].copy_from_slice(self.sent);
        for (offset, word) in self.changes() {
            into[offset..offset + 2].copy_from_slice(&word);
        }
    }
}
