//! The feature words that HELLO negotiates.

use zerocopy::little_endian::U64;

use crate::abi::{self, wire_enum};

wire_enum! {
    /// One negotiable feature: its bit number in the feature words.
    Feature: u32 {
        /// Verdict on received L4 checksums.
        RxCsum = 0,
        /// Checksum insertion.
        TxCsum = 1,
        /// TCP segmentation over IPv4.
        Tso4 = 2,
        /// TCP segmentation over IPv6.
        Tso6 = 3,
        /// UDP segmentation over IPv4 and IPv6.
        Uso = 4,
        /// Hash value and type in the receive header.
        RxHash = 5,
        /// Split receive chains.
        Split = 6,
        /// Flow rules.
        Rules = 7,
        /// RSS contexts other than 0.
        RssContexts = 8,
        /// Symmetric hash input transforms.
        RssSymmetric = 9,
        /// Hardware GRO: received TCP segments are coalesced.
        Gro = 10,
        /// The clock, transmit timestamps, and, when switched on, receive timestamps.
        Timestamp = 11,
        /// VLAN tags are stripped from received frames.
        Vlan = 12,
        /// Interrupt moderation.
        Coalesce = 13,
        /// Of the frames of a split queue only TCP and UDP are split.
        SplitL4 = 14,
        /// Received frames that are longer than the MTU are dropped.
        Mtu = 15,
    }
}

/// A set of features. Aligned like a word, because the data path copies one with every frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(Rust, packed(8))]
pub struct FeatureSet(u128);

impl FromIterator<Feature> for FeatureSet {
    fn from_iter<I: IntoIterator<Item = Feature>>(features: I) -> Self {
        let bits = features.into_iter().map(|feature| 1 << feature as u32);
        Self(bits.fold(0, |all, bit: u128| all | bit))
    }
}

impl FeatureSet {
    /// All features of this device.
    pub const ALL: Self = Self((1 << Feature::ALL.len()) - 1);

    /// The features that can be switched on and off while the session lasts.
    pub const SWITCHABLE: Self = Self(
        1 << Feature::RxCsum as u32
            | 1 << Feature::RxHash as u32
            | 1 << Feature::Gro as u32
            | 1 << Feature::Timestamp as u32
            | 1 << Feature::Vlan as u32,
    );

    /// The features of a plain virtio-net driver, which can't switch offloads: frames arrive as
    /// they crossed the wire.
    pub const PLAIN: Self = Self(
        Self::ALL.0
            & !(1 << Feature::Gro as u32
                | 1 << Feature::Timestamp as u32
                | 1 << Feature::Vlan as u32),
    );

    /// Whether `feature` is a member.
    #[must_use]
    pub const fn has(self, feature: Feature) -> bool {
        self.0 & (1 << feature as u32) != 0
    }

    /// The members of both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The lowest member that is not in `other`, as its bit number.
    #[must_use]
    pub const fn first_outside(self, other: Self) -> Option<u32> {
        match self.0 & !other.0 {
            0 => None,
            rest => Some(rest.trailing_zeros()),
        }
    }

    /// From the words of the ABI.
    #[must_use]
    pub fn from_words(words: [U64; abi::FEATURE_WORDS]) -> Self {
        Self(u128::from(words[0].get()) | u128::from(words[1].get()) << 64)
    }

    /// To the words of the ABI.
    #[must_use]
    pub fn to_words(self) -> [U64; abi::FEATURE_WORDS] {
        [U64::new(self.0 as u64), U64::new((self.0 >> 64) as u64)]
    }
}
