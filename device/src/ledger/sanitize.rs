//! Poison in buffers that the device owns, to detect other writers.

/// Access to posted buffers.
pub trait Inspect {
    /// One descriptor of a chain.
    type Target;

    /// Bytes of a buffer.
    fn length(&self, target: &Self::Target) -> usize;

    /// Reads from a buffer; `offset` and length are within it.
    fn read(&self, target: &Self::Target, offset: usize, into: &mut [u8]);

    /// Writes to a buffer; `offset` and length are within it.
    fn write(&self, target: &Self::Target, offset: usize, bytes: &[u8]);
}

/// Bytes handled at once.
const CHUNK: usize = 512;

/// Fills a buffer at `address` with poison.
pub fn poison<I: Inspect>(memory: &I, target: &I::Target, address: u64) {
    chunks(memory.length(target), |offset, length| {
        memory.write(target, offset, &pattern(address, offset)[..length]);
        None::<()>
    });
}

/// The first changed byte of a buffer with poison; `None`: it is intact.
#[must_use]
pub fn intact<I: Inspect>(memory: &I, target: &I::Target, address: u64) -> Option<usize> {
    chunks(memory.length(target), |offset, length| {
        let mut bytes = [0; CHUNK];
        memory.read(target, offset, &mut bytes[..length]);
        let expected = pattern(address, offset);
        let differs = (0..length).find(|&at| bytes[at] != expected[at]);
        differs.map(|at| offset + at)
    })
}

fn chunks<T>(length: usize, mut visit: impl FnMut(usize, usize) -> Option<T>) -> Option<T> {
    (0..length)
        .step_by(CHUNK)
        .find_map(|offset| visit(offset, CHUNK.min(length - offset)))
}

/// Poison depends on the address, so that a copy of another poisoned buffer is detected, too.
fn pattern(address: u64, offset: usize) -> [u8; CHUNK] {
    let mut bytes = [0; CHUNK];
    let (words, _) = bytes.as_chunks_mut::<8>();
    for (index, word) in words.iter_mut().enumerate() {
        let at = address.wrapping_add((offset + 8 * index) as u64);
        // The odd constant is 2^64 divided by the golden ratio.
        *word = (at ^ 0x5a43_4e50)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .to_le_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::*;

    struct Vecs;

    impl Inspect for Vecs {
        type Target = RefCell<Vec<u8>>;

        fn length(&self, target: &Self::Target) -> usize {
            target.borrow().len()
        }

        fn read(&self, target: &Self::Target, offset: usize, into: &mut [u8]) {
            into.copy_from_slice(&target.borrow()[offset..offset + into.len()]);
        }

        fn write(&self, target: &Self::Target, offset: usize, bytes: &[u8]) {
            target.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
    }

    proptest! {
        #[test]
        fn one_changed_byte_is_found(length in 1..5000_usize, at: prop::sample::Index, address: u64, change in 1..=255_u8) {
            let buffer = RefCell::new(vec![0; length]);
            poison(&Vecs, &buffer, address);
            prop_assert_eq!(intact(&Vecs, &buffer, address), None);
            let at = at.index(length);
            buffer.borrow_mut()[at] ^= change;
            prop_assert_eq!(intact(&Vecs, &buffer, address), Some(at));
        }
    }

    #[test]
    fn poison_of_another_buffer_is_detected() {
        let buffer = RefCell::new(vec![0; 4096]);
        poison(&Vecs, &buffer, 0x1000);
        assert!(intact(&Vecs, &buffer, 0x2000).is_some());
    }
}
