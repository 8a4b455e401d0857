//! The address filter of a port.

use std::mem::offset_of;
use std::sync::Arc;

use crate::abi::{Address, Invalid, RX_MODE_ALLMULTI, RX_MODE_PROMISC, RxMode};

const BROADCAST: [u8; 6] = [0xff; 6];
/// Set in the first octet of group addresses (IEEE 802.3).
const GROUP: u8 = 0x01;

/// The destination addresses that a port accepts. Broadcast always passes; the default filter
/// accepts nothing else.
///
/// ```
/// use zcnic_device::filter::AddressFilter;
///
/// let filter = AddressFilter::default();
/// assert!(filter.accepts([0xff; 6]) && !filter.accepts([2, 0, 0, 0, 0, 1]));
/// assert!(AddressFilter::promiscuous().accepts([2, 0, 0, 0, 0, 1]));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressFilter {
    promisc: bool,
    allmulti: bool,
    /// Unicast and multicast, sorted.
    addresses: Arc<[[u8; 6]]>,
}

impl AddressFilter {
    /// The filter that accepts every frame.
    #[must_use]
    pub fn promiscuous() -> Self {
        Self {
            promisc: true,
            ..Self::default()
        }
    }

    /// The filter that RX_MODE asks for.
    ///
    /// # Errors
    /// A flag is unknown.
    pub fn from_request(mode: &RxMode, addresses: &[Address]) -> Result<Self, Invalid> {
        let flags = mode.flags.get();
        if flags & !(RX_MODE_PROMISC | RX_MODE_ALLMULTI) != 0 {
            return Err(Invalid {
                offset: offset_of!(RxMode, flags),
            });
        }
        let mut addresses: Vec<_> = addresses.iter().map(|address| address.octets).collect();
        addresses.sort_unstable();
        addresses.dedup();
        Ok(Self {
            promisc: flags & RX_MODE_PROMISC != 0,
            allmulti: flags & RX_MODE_ALLMULTI != 0,
            addresses: addresses.into(),
        })
    }

    /// Whether every frame passes.
    #[must_use]
    pub fn promisc(&self) -> bool {
        self.promisc
    }

    /// Whether every multicast frame passes.
    #[must_use]
    pub fn allmulti(&self) -> bool {
        self.allmulti
    }

    /// The addresses that pass, sorted.
    #[must_use]
    pub fn addresses(&self) -> &[[u8; 6]] {
        &self.addresses
    }

    /// Whether a frame to `destination` passes.
    #[must_use]
    #[inline]
    pub fn accepts(&self, destination: [u8; 6]) -> bool {
        self.promisc
            || destination == BROADCAST
            || (self.allmulti && destination[0] & GROUP != 0)
            || self.addresses.binary_search(&destination).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [u8; 6] = [0x5a, 0x43, 0x4e, 0, 0, 1];
    const OTHER: [u8; 6] = [0x5a, 0x43, 0x4e, 0, 0, 2];
    const ALL_HOSTS: [u8; 6] = [0x01, 0x00, 0x5e, 0, 0, 1];
    const ALL_ROUTERS: [u8; 6] = [0x01, 0x00, 0x5e, 0, 0, 2];

    fn filter(flags: u16, addresses: &[[u8; 6]]) -> Result<AddressFilter, Invalid> {
        let mode = RxMode {
            flags: flags.into(),
            ..RxMode::default()
        };
        let addresses: Vec<_> = addresses
            .iter()
            .map(|octets| Address { octets: *octets })
            .collect();
        AddressFilter::from_request(&mode, &addresses)
    }

    #[test]
    fn only_listed_addresses_pass() {
        let accepted = |filter: &AddressFilter| {
            [OWN, OTHER, ALL_HOSTS, ALL_ROUTERS, BROADCAST].map(|address| filter.accepts(address))
        };
        let cases = [
            (0, &[][..], [false, false, false, false, true]),
            (0, &[OWN], [true, false, false, false, true]),
            (
                0,
                &[OTHER, ALL_ROUTERS, OWN, OWN],
                [true, true, false, true, true],
            ),
            (RX_MODE_ALLMULTI, &[OWN], [true, false, true, true, true]),
            (RX_MODE_PROMISC, &[], [true; 5]),
        ];
        for (flags, addresses, expected) in cases {
            let filter = filter(flags, addresses).unwrap();
            assert_eq!(accepted(&filter), expected, "{flags} {addresses:?}");
        }
        assert_eq!(
            accepted(&AddressFilter::default()),
            [false, false, false, false, true]
        );
        assert_eq!(accepted(&AddressFilter::promiscuous()), [true; 5]);
    }

    #[test]
    fn unknown_flags_are_refused() {
        assert_eq!(filter(0x0004, &[]), Err(Invalid { offset: 24 }));
    }
}
