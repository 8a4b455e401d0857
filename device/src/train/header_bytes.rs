//! The header bytes of a frame: the bytes from its sender, and the words that differ on the wire.
//!
//! The two are kept apart until they are in the receiver's buffer. Loading larger pieces than were
//! stored is a store-to-load forwarding stall, and here it would wait for the stores of a payload
//! to uncached memory.

/// The most words that may differ: length, identification and checksum of an IPv4 header; sequence
/// number, flags and checksum of a TCP header.
const CHANGES: usize = 7;

/// The first bytes of a frame.
#[derive(Debug)]
pub struct HeaderBytes<'h> {
    sent: &'h [u8],
    changes: &'h mut Changes,
}

/// The changed words of a [`HeaderBytes`], which are not moved with it.
#[derive(Debug, Default)]
pub struct Changes {
    words: [Change; CHANGES],
    count: usize,
}

/// A changed word.
#[derive(Clone, Copy, Debug, Default)]
struct Change {
    offset: u16,
    value: u16,
}

impl<'h> HeaderBytes<'h> {
    /// Header bytes without changes.
    #[inline]
    pub(crate) fn new(sent: &'h [u8], changes: &'h mut Changes) -> Self {
        changes.count = 0;
        Self { sent, changes }
    }

    /// The bytes from the sender.
    #[inline]
    pub(crate) fn sent(&self) -> &'h [u8] {
        self.sent
    }

    /// Offsets and values of the changed words.
    #[inline]
    pub(crate) fn changes(&self) -> impl Iterator<Item = (usize, [u8; 2])> + '_ {
        self.changes.words[..self.changes.count]
            .iter()
            .map(|change| (change.offset.into(), change.value.to_be_bytes()))
    }

    /// Changes the two bytes at `offset` to `value` in network order. They lie within the header
    /// bytes and overlap no other change.
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

    /// Writes the changed header bytes to the start of `into`, which has room for them.
    pub(crate) fn write(&self, into: &mut [u8]) {
        into[..self.sent.len()].copy_from_slice(self.sent);
        for (offset, word) in self.changes() {
            into[offset..offset + 2].copy_from_slice(&word);
        }
    }
}
