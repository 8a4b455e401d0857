//! The Internet checksum (RFC 1071), summed over any sequence of runs.

/// Bytes summed per step of the inner loop: four accumulators of eight bytes each.
const STEP: usize = 32;

/// A ones' complement sum over a sequence of bytes that arrives in runs of any length.
///
/// The sum knows whether an odd number of bytes has gone in so far, so runs may be split anywhere. Sums of
/// separate runs are joined with [`add_checksum`](Self::add_checksum).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checksum {
    /// Sum of 16-bit words in network order, carries not yet folded in.
    sum: u64,
    /// An odd number of bytes was added: the next byte is the low half of a word.
    odd: bool,
}

impl Checksum {
    /// The sum of nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { sum: 0, odd: false }
    }

    /// Adds `bytes`, which follow what was added before.
    #[inline]
    pub fn add(&mut self, bytes: &[u8]) {
        self.add_word(u16::from_be(sum_native(bytes)));
        self.odd ^= bytes.len() % 2 == 1;
    }

    /// Adds the two bytes that `value` has in network order.
    #[inline]
    pub fn add_u16(&mut self, value: u16) {
        self.add_word(value);
    }

    /// Adds the bytes that `other` summed as if they followed what was added before. `other` must have been
    /// started at its own first byte, as every sum is that began with [`new`](Self::new).
    #[inline]
    pub fn add_checksum(&mut self, other: Self) {
        self.add_word(other.fold());
        self.odd ^= other.odd;
    }

    /// The sum in 16 bits, not inverted: what a packet holds whose checksum is still to be inserted
    /// (virtio `VIRTIO_NET_HDR_F_NEEDS_CSUM`). Over bytes that include a right checksum it is 0xffff. It is
    /// 0 only if every byte was 0.
    #[must_use]
    #[inline]
    pub const fn fold(&self) -> u16 {
        let mut sum = self.sum;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// The checksum as it stands in a header. UDP sends 0xffff where this is 0 (RFC 768).
    #[must_use]
    #[inline]
    pub const fn finish(&self) -> u16 {
        !self.fold()
    }

    /// Adds a word that starts at the current position. A word at an odd position straddles two words of
    /// the sum, which equals adding it byte-swapped (RFC 1071, section 2B).
    #[inline]
    fn add_word(&mut self, word: u16) {
        let word = if self.odd { word.swap_bytes() } else { word };
        self.sum += u64::from(word);
    }
}

/// The pseudo header of TCP and UDP over IPv4 (RFC 793, RFC 768). `length` is that of the L4 header and its
/// payload in bytes.
#[must_use]
pub fn pseudo_header_v4(
    source: [u8; 4],
    destination: [u8; 4],
    protocol: u8,
    length: u16,
) -> Checksum {
    let mut sum = Checksum::new();
    sum.add(&source);
    sum.add(&destination);
    sum.add_u16(u16::from(protocol));
    sum.add_u16(length);
    sum
}

/// The pseudo header of TCP and UDP over IPv6 (RFC 8200, section 8.1). `length` is that of the L4 header
/// and its payload in bytes.
#[must_use]
pub fn pseudo_header_v6(
    source: [u8; 16],
    destination: [u8; 16],
    protocol: u8,
    length: u32,
) -> Checksum {
    let mut sum = Checksum::new();
    sum.add(&source);
    sum.add(&destination);
    sum.add(&length.to_be_bytes());
    sum.add_u16(u16::from(protocol));
    sum
}

/// The folded sum of `bytes` as 16-bit words in the machine's own byte order; an odd last byte is padded
/// with a zero. The ones' complement sum of wider words folds to that of narrower ones.
#[inline]
fn sum_native(bytes: &[u8]) -> u16 {
    let (steps, rest) = bytes.as_chunks::<STEP>();
    let mut lanes = [0u128; STEP / 8];
    for step in steps {
        let (words, _) = step.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u128::from(u64::from_ne_bytes(*word));
        }
    }
    let mut sum = lanes.iter().sum::<u128>();
    let (words, rest) = rest.as_chunks::<8>();
    for word in words {
        sum += u128::from(u64::from_ne_bytes(*word));
    }
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        sum += u128::from(u32::from_ne_bytes(*word));
    }
    let (words, rest) = rest.as_chunks::<2>();
    for word in words {
        sum += u128::from(u16::from_ne_bytes(*word));
    }
    if let [last] = rest {
        sum += u128::from(u16::from_ne_bytes([*last, 0]));
    }
    // 128 -> 64+ -> 32+ -> 16+ bits, then the carries.
    let sum = (sum & u128::from(u64::MAX)) + (sum >> 64);
    let sum = (sum & u128::from(u32::MAX)) + ((sum >> 32) & u128::from(u32::MAX)) + (sum >> 64);
    let mut sum = sum as u64;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
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

    #[test]
    fn pseudo_headers_are_those_of_the_rfcs() {
        let (source, destination) = ([10, 1, 2, 3], [192, 168, 255, 254]);
        let mut bytes = Vec::new();
        bytes.extend(source);
        bytes.extend(destination);
        bytes.extend([0, 17, 0x12, 0x34]);
        assert_eq!(
            pseudo_header_v4(source, destination, 17, 0x1234),
            of(&bytes)
        );

        let (source, destination) = ([0x20; 16], [0xfe; 16]);
        let mut bytes = Vec::new();
        bytes.extend(source);
        bytes.extend(destination);
        bytes.extend([0, 1, 0x12, 0x34, 0, 0, 0, 6]);
        assert_eq!(
            pseudo_header_v6(source, destination, 6, 0x11234).fold(),
            of(&bytes).fold()
        );
    }

    proptest! {
        #[test]
        fn any_split_gives_the_naive_sum(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut added = Checksum::new();
            let mut joined = Checksum::new();
            for pair in cuts.windows(2) {
                let run = &bytes[pair[0]..pair[1]];
                added.add(run);
                joined.add_checksum(of(run));
            }
            prop_assert_eq!(added.fold(), naive(&bytes));
            prop_assert_eq!(joined.fold(), naive(&bytes));
            prop_assert_eq!(added.odd, bytes.len() % 2 == 1);
            prop_assert_eq!(joined.odd, added.odd);
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
