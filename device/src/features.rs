//! The feature words that HELLO negotiates.

use zerocopy::little_endian::U64;

use crate::abi;

/// One negotiable feature: its bit number in the feature words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Feature {
    /// Verdict on received L4 checksums.
    RxCsum = abi::F_RX_CSUM,
    /// Checksum insertion.
    TxCsum = abi::F_TX_CSUM,
    /// TCP segmentation over IPv4.
    Tso4 = abi::F_TSO4,
    /// TCP segmentation over IPv6.
    Tso6 = abi::F_TSO6,
    /// UDP segmentation.
    Uso = abi::F_USO,
    /// Hash in the receive header.
    RxHash = abi::F_RX_HASH,
    /// Split receive chains.
    Split = abi::F_SPLIT,
    /// Flow rules.
    Rules = abi::F_RULES,
    /// RSS contexts other than 0.
    RssContexts = abi::F_RSS_CONTEXTS,
    /// Symmetric hash input transforms.
    RssSymmetric = abi::F_RSS_SYMMETRIC,
    /// Hardware GRO.
    Gro = abi::F_GRO,
    /// A clock, and timestamps.
    Timestamp = abi::F_TIMESTAMP,
    /// VLAN tags are stripped.
    Vlan = abi::F_VLAN,
    /// Interrupt moderation.
    Coalesce = abi::F_COALESCE,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::RxCsum,
        Self::TxCsum,
        Self::Tso4,
        Self::Tso6,
        Self::Uso,
        Self::RxHash,
        Self::Split,
        Self::Rules,
        Self::RssContexts,
        Self::RssSymmetric,
        Self::Gro,
        Self::Timestamp,
        Self::Vlan,
        Self::Coalesce,
    ];
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
