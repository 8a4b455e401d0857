//! Numbers of queue pairs and rings.
//!
//! A port has [`MAX_PAIRS`] queue pairs. Pair `p` consists of receive ring `2p` and transmit ring
//! `2p + 1` (virtio 1.3, 5.1.2); the device and the control protocol call it queue `p` in either
//! direction. This arithmetic stands here only.

use std::fmt::{self, Display};

use crate::config::MAX_PAIRS;

/// Rings of a port.
pub(crate) const MAX_RINGS: usize = 2 * MAX_PAIRS;

/// A queue pair of a port, below [`MAX_PAIRS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PairIndex(u16);

impl PairIndex {
    /// The first pair of a port.
    pub(crate) const FIRST: Self = Self(0);

    /// The pair of the device's queue number `queue`, if a port has it.
    #[inline]
    pub(crate) fn from_queue(queue: u16) -> Option<Self> {
        (usize::from(queue) < MAX_PAIRS).then_some(Self(queue))
    }

    /// All pairs of a port in ascending order.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..MAX_PAIRS as u16).map(Self)
    }

    /// The number that the device and the control protocol give its queues.
    #[inline]
    pub(crate) fn queue(self) -> u16 {
        self.0
    }

    /// Its position among a port's pairs.
    #[inline]
    pub(crate) fn position(self) -> usize {
        self.0.into()
    }

    /// The ring on which the driver posts receive buffers.
    #[inline]
    pub(crate) fn rx_ring(self) -> RingIndex {
        RingIndex(2 * self.0)
    }

    /// The ring on which the driver makes frames and commands available.
    #[inline]
    pub(crate) fn tx_ring(self) -> RingIndex {
        RingIndex(2 * self.0 + 1)
    }
}

impl Display for PairIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A ring of a port, below [`MAX_RINGS`]: its number in vhost-user messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RingIndex(u16);

impl RingIndex {
    /// Ring `number`, if a port has it.
    #[inline]
    pub(crate) fn new(number: usize) -> Option<Self> {
        (number < MAX_RINGS).then_some(Self(number as u16))
    }

    /// All rings of a port in ascending order.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..MAX_RINGS as u16).map(Self)
    }

    /// Its number as vhost-user and the control protocol write it.
    #[inline]
    pub(crate) fn number(self) -> u16 {
        self.0
    }

    /// Its position among a port's rings.
    #[inline]
    pub(crate) fn position(self) -> usize {
        self.0.into()
    }

    /// The pair that it belongs to.
    #[inline]
    pub(crate) fn pair(self) -> PairIndex {
        PairIndex(self.0 / 2)
    }

    /// Whether it carries receive buffers.
    #[inline]
    pub(crate) fn is_rx(self) -> bool {
        self.0.is_multiple_of(2)
    }
}

impl Display for RingIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_has_an_even_receive_ring_and_the_odd_transmit_ring_behind_it() {
        for (number, pair) in PairIndex::all().enumerate() {
            assert_eq!(pair.position(), number);
            assert_eq!(pair.rx_ring().position(), 2 * number);
            assert_eq!(pair.tx_ring().position(), 2 * number + 1);
            assert!(pair.rx_ring().is_rx() && !pair.tx_ring().is_rx());
            assert_eq!([pair.rx_ring().pair(), pair.tx_ring().pair()], [pair; 2]);
        }
        assert_eq!(RingIndex::all().count(), MAX_RINGS);
        assert!(RingIndex::new(MAX_RINGS).is_none());
        assert!(PairIndex::from_queue(MAX_PAIRS as u16).is_none());
    }
}
