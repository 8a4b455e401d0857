//! The bytes that sender and receiver agree on: each 8-byte word depends on its position in the
//! stream and on a seed, so that lost, repeated, swapped or shifted data never looks right.
//!
//! A word is an entry of a random table, by the low bits of its index, XORed with the high bits
//! spread over the word. That costs a load and an XOR per word, which matters in an emulated guest.

/// Words in the table.
const TABLE: usize = 512;
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of pseudo-random bytes with random access.
#[derive(Debug, Clone)]
pub struct Pattern {
    table: Box<[u64; TABLE]>,
}

/// The first byte that is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("byte {position} of the stream is {found:#04x} and should be {expected:#04x}")]
pub struct Mismatch {
    /// Position in the stream.
    pub position: u64,
    /// The expected byte.
    pub expected: u8,
    /// The received byte.
    pub found: u8,
}

impl Pattern {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut state = seed;
        // splitmix64
        let table = Box::new(std::array::from_fn(|_| {
            state = state.wrapping_add(SPREAD);
            let mut word = state;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ (word >> 31)
        }));
        Self { table }
    }

    /// Fills `buffer` with the stream from `position` on.
    pub fn fill(&self, position: u64, buffer: &mut [u8]) {
        let mut at = position;
        let mut rest = buffer;
        while !rest.is_empty() {
            let (words, block, skip) = self.run(at, rest.len());
            if skip == 0 && !words.is_empty() && rest.len() >= 8 {
                let bytes = words.len() * 8;
                let (now, later) = rest.split_at_mut(bytes);
                for (chunk, word) in now.chunks_exact_mut(8).zip(words) {
                    chunk.copy_from_slice(&(word ^ block).to_le_bytes());
                }
                at += bytes as u64;
                rest = later;
            } else {
                let part = self.part(at, rest.len());
                let (now, later) = rest.split_at_mut(part);
                now.copy_from_slice(&self.word(at / 8).to_le_bytes()[skip..skip + part]);
                at += part as u64;
                rest = later;
            }
        }
    }

    /// Checks that `bytes` are the stream from `position` on.
    pub fn verify(&self, position: u64, bytes: &[u8]) -> Result<(), Mismatch> {
        let mut at = position;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (words, block, skip) = self.run(at, rest.len());
            let (now, later, good);
            if skip == 0 && !words.is_empty() && rest.len() >= 8 {
                (now, later) = rest.split_at(words.len() * 8);
                let wrong = now
                    .chunks_exact(8)
                    .zip(words)
                    .fold(0, |wrong, (chunk, word)| {
                        let found = u64::from_le_bytes(chunk.try_into().unwrap_or_default());
                        wrong | (found ^ word ^ block)
                    });
                good = wrong == 0;
            } else {
                let part = self.part(at, rest.len());
                (now, later) = rest.split_at(part);
                good = *now == self.word(at / 8).to_le_bytes()[skip..skip + part];
            }
            if !good {
                return Err(self.first_mismatch(at, now));
            }
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// From `position`: the whole words up to the end of the table or of `len`, the word to XOR
    /// them with, and the bytes by which `position` is off a word.
    fn run(&self, position: u64, len: usize) -> (&[u64], u64, usize) {
        let word = position / 8;
        let first = (word % TABLE as u64) as usize;
        let last = TABLE.min(first + len / 8);
        let block = (word / TABLE as u64).wrapping_mul(SPREAD);
        (&self.table[first..last], block, (position % 8) as usize)
    }

    /// Bytes of the word at `position` that are wanted.
    fn part(&self, position: u64, len: usize) -> usize {
        len.min(8 - (position % 8) as usize)
    }

    fn word(&self, index: u64) -> u64 {
        let table = self.table[(index % TABLE as u64) as usize];
        table ^ (index / TABLE as u64).wrapping_mul(SPREAD)
    }

    fn byte(&self, position: u64) -> u8 {
        self.word(position / 8).to_le_bytes()[(position % 8) as usize]
    }

    /// `bytes` from `position` on are known to differ.
    fn first_mismatch(&self, position: u64, bytes: &[u8]) -> Mismatch {
        let differs = |(at, found): &(u64, u8)| self.byte(*at) != *found;
        let (position, found) = (position..)
            .zip(bytes.iter().copied())
            .find(differs)
            .unwrap_or((position, 0));
        Mismatch {
            position,
            expected: self.byte(position),
            found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        Pattern::new(1).fill(0, &mut bytes);
        bytes
    }

    #[test]
    fn any_segmentation_gives_the_same_bytes() {
        let pattern = Pattern::new(1);
        let whole = stream(20_000);
        for (start, len) in [
            (0, 1),
            (1, 7),
            (3, 6),
            (7, 30),
            (4090, 12),
            (4093, 9000),
            (8192, 0),
        ] {
            let mut part = vec![0; len];
            pattern.fill(start as u64, &mut part);
            assert_eq!(part, whole[start..start + len], "{start}+{len}");
            pattern.verify(start as u64, &part).unwrap();
        }
    }

    #[test]
    fn every_flipped_bit_is_found_at_its_position() {
        let pattern = Pattern::new(1);
        let mut bytes = stream(9000);
        for at in [0, 5, 8, 4095, 4096, 8191, 8999] {
            bytes[at] ^= 0x10;
            let found = pattern.verify(0, &bytes).unwrap_err();
            assert_eq!(found.position, at as u64);
            assert_eq!(found.found ^ 0x10, found.expected);
            bytes[at] ^= 0x10;
        }
        pattern.verify(0, &bytes).unwrap();
    }

    #[test]
    fn moved_data_and_other_seeds_are_found() {
        let pattern = Pattern::new(1);
        let bytes = stream(3 * 4096);
        // A faulty NIC would mix up whole pages, among them pages a period of the table apart.
        for position in [4096, 8192, 1, 8, 1460, 1 << 40] {
            assert!(
                pattern.verify(position, &bytes[..4096]).is_err(),
                "{position}"
            );
        }
        assert!(Pattern::new(2).verify(0, &bytes).is_err());
    }
}
