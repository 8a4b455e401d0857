//! The Internet checksum (RFC 1071), summed over any sequence of runs.

/// Bytes summed per step of the inner loop: eight accumulators of eight bytes each.
const STEP: usize = 64;

/// A ones' complement sum over a sequence of bytes that arrives in runs of any length.
///
/// The sum tracks whether an odd number of bytes was added, so runs may be split anywhere.
/// [`add_checksum`](Self::add_checksum) combines the sums of separate runs.
///
/// All of the state is in one word: a sum is copied often, and a copy right after a store to a part
/// of it would be a store-to-load forwarding stall.
///
/// ```
/// use zcnic_device::checksum::Checksum;
///
/// let mut sum = Checksum::new();
/// sum.add(&[0x00, 0x01, 0xf2]);
/// sum.add(&[0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
/// assert_eq!(sum.finish(), 0x220d);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checksum(u64);

/// Set if an odd number of bytes was added, so that the next byte is the second one of a word. The
/// bits below hold the sum of words in the machine's own byte order, carries not yet folded in (RFC
/// 1071, section 2B: the same sum with its bytes swapped). The sum can't grow into this bit.
const ODD: u64 = 1 << 63;

impl Checksum {
    /// The sum of no bytes.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds `bytes`, which follow the bytes added before.
    #[inline]
    pub fn add(&mut self, bytes: &[u8]) {
        self.add_native(sum_native(bytes), bytes.len());
    }

    /// Adds a run of `length` bytes that the caller summed to `sum` while it copied them: 16-, 32-
    /// or 64-bit words in the machine's own byte order, an odd end padded with zeroes, 64-bit words
    /// as their two halves.
    #[inline]
    pub fn add_native(&mut self, sum: u64, length: usize) {
        self.add_sum(sum);
        self.0 ^= (length as u64) << 63;
    }

    /// Adds the two bytes that `value` has in network order.
    #[inline]
    pub fn add_u16(&mut self, value: u16) {
        self.add_sum(u64::from(value.to_be()));
    }

    /// Adds the bytes of `other` as if they followed the bytes added before. `other` must have been
    /// started with [`new`](Self::new) at its own first byte.
    #[inline]
    pub fn add_checksum(&mut self, other: Self) {
        self.add_sum(other.0 & !ODD);
        self.0 ^= other.0 & ODD;
    }

    /// The sum in 16 bits, not inverted: the content of a partial checksum's field (virtio
    /// `VIRTIO_NET_HDR_F_NEEDS_CSUM`). Over bytes that include a valid checksum it is 0xffff. It is
    /// 0 only if every byte was 0.
    #[must_use]
    #[inline]
    pub const fn fold(&self) -> u16 {
        u16::from_be(fold_wide(self.0 & !ODD))
    }

    /// The checksum for a header's field. UDP sends 0xffff where this is 0 (RFC 768).
    #[must_use]
    #[inline]
    pub const fn finish(&self) -> u16 {
        !self.fold()
    }

    /// Adds a sum of words, the first of which starts at the current position. Words at an odd
    /// position straddle two words of the sum, so their sum is added byte-swapped (RFC 1071,
    /// section 2B).
    #[inline]
    fn add_sum(&mut self, sum: u64) {
        self.0 += if self.0 & ODD == 0 {
            halves(sum)
        } else {
            u64::from(fold_wide(sum).swap_bytes())
        };
    }
}

/// The sum of `bytes` as words in the machine's own byte order, as [`Checksum::add_native`] takes
/// it. The ones' complement sum of wider words folds to that of narrower ones.
#[inline]
fn sum_native(bytes: &[u8]) -> u64 {
    let (steps, rest) = bytes.as_chunks::<STEP>();
    let mut sum = if steps.is_empty() {
        0
    } else {
        sum_steps(steps)
    };
    let (words, rest) = rest.as_chunks::<8>();
    for word in words {
        let (added, carry) = sum.overflowing_add(u64::from_ne_bytes(*word));
        // A ones' complement sum adds the carry at the other end.
        sum = added + u64::from(carry);
    }
    let mut sum = halves(sum);
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        sum += u64::from(u32::from_ne_bytes(*word));
    }
    let (words, rest) = rest.as_chunks::<2>();
    for word in words {
        sum += u64::from(u16::from_ne_bytes(*word));
    }
    if let [last] = rest {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    sum
}

/// Sums 32-bit halves in 64-bit lanes, without carries between them, so that the compiler uses
/// vector instructions. A lane overflows after 32 GiB.
fn sum_steps(steps: &[[u8; STEP]]) -> u64 {
    let mut lanes = [0u64; STEP / 8];
    for step in steps {
        let (words, _) = step.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += halves(u64::from_ne_bytes(*word));
        }
    }
    lanes.iter().sum()
}

/// The sum of the two halves of `word`.
#[inline]
const fn halves(word: u64) -> u64 {
    (word & 0xffff_ffff) + (word >> 32)
}

/// Folds a sum of 32-bit words to 16 bits. It is 0 only if `sum` is.
#[inline]
const fn fold_wide(sum: u64) -> u16 {
    // 64 -> 33 -> 32+ -> 17 -> 16 bits.
    let sum = halves(sum);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071's definition, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u64;
        for pair in bytes.chunks(2) {
            sum += u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    fn of(bytes: &[u8]) -> Checksum {
        let mut sum = Checksum::new();
        sum.add(bytes);
        sum
    }

    #[test]
    fn rfc_1071_example() {
        // RFC 1071, section 3.
        let sum = of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.fold(), 0xddf2);
        assert_eq!(sum.finish(), 0x220d);
    }

    #[test]
    fn a_header_with_its_checksum_sums_to_ffff() {
        // IPv4 header, 192.168.0.1 to 192.168.0.199, checksum 0xb861.
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8,
            0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7,
        ];
        assert_eq!(of(&header).fold(), 0xffff);
    }

    #[test]
    fn only_zeroes_sum_to_zero() {
        assert_eq!(Checksum::new().fold(), 0);
        assert_eq!(of(&[0; 77]).fold(), 0);
        assert_eq!(of(&[0xff; 64]).fold(), 0xffff);
        assert_eq!(of(&[0xff; 1 << 16]).fold(), 0xffff);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_naive_sum(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            splits in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut splits: Vec<usize> = splits.iter().map(|split| split.index(bytes.len() + 1)).collect();
            splits.extend([0, bytes.len()]);
            splits.sort_unstable();
            let mut added = Checksum::new();
            let mut merged = Checksum::new();
            for pair in splits.windows(2) {
                let run = &bytes[pair[0]..pair[1]];
                added.add(run);
                merged.add_checksum(of(run));
            }
            prop_assert_eq!(added.fold(), naive(&bytes));
            prop_assert_eq!(merged.fold(), naive(&bytes));
            prop_assert_eq!(added.0 & ODD != 0, bytes.len() % 2 == 1);
            prop_assert_eq!(merged.0 & ODD, added.0 & ODD);
        }

        #[test]
        fn a_word_is_its_two_bytes(
            before in proptest::collection::vec(any::<u8>(), 0..5), word: u16,
        ) {
            let mut by_word = of(&before);
            by_word.add_u16(word);
            let mut by_bytes = of(&before);
            by_bytes.add(&word.to_be_bytes());
            prop_assert_eq!(by_word, by_bytes);
        }
    }
}
