//! A learning switch: which port has which address.
//!
//! The lock of the table is a leaf.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, Weak, atomic::AtomicU64},
};

use super::Port;
use crate::sync::lock;

/// Time after which an address is forgotten that no frame came from, in nanoseconds (IEEE 802.1D:
/// 300 s).
const AGE: u64 = 300_000_000_000;

/// Addresses that are learned from one port: a port that invents addresses can't displace those of
/// the others.
const ADDRESSES: usize = 1024;

type Address = [u8; 6];

/// The ports that a frame goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// One member, by its number.
    Member(usize),
    /// All members but the sender.
    Flood,
    /// None: the receiver is where the frame comes from, or it is too short.
    Nowhere,
}

/// An address that was learned.
#[derive(Clone, Copy, Debug)]
struct Learned {
    member: usize,
    seen: u64,
}

/// Learned addresses.
#[derive(Debug)]
struct AddressTable {
    learned: HashMap<Address, Learned>,
    /// How many of them each member has.
    counts: Vec<usize>,
}

impl AddressTable {
    fn new(members: usize) -> Self {
        Self {
            learned: HashMap::new(),
            counts: vec![0; members],
        }
    }

    /// Learns the source address of a frame that `member` sent at `now`, and looks up its
    /// destination.
    fn switch(&mut self, now: u64, member: usize, header_bytes: &[u8]) -> Destination {
        let [to, from, ..] = header_bytes.as_chunks::<6>().0 else {
            return Destination::Nowhere;
        };
        if !is_group(from) {
            self.learn(now, member, *from);
        }
        if is_group(to) {
            return Destination::Flood;
        }
        match self.learned.get(to) {
            Some(learned) if now.saturating_sub(learned.seen) > AGE => Destination::Flood,
            Some(learned) if learned.member == member => Destination::Nowhere,
            Some(learned) => Destination::Member(learned.member),
            None => Destination::Flood,
        }
    }

    fn learn(&mut self, now: u64, member: usize, address: Address) {
        if let Some(learned) = self.learned.get_mut(&address)
            && learned.member == member
        {
            learned.seen = now;
            return;
        }
        if self.counts[member] >= ADDRESSES {
            self.forget_old(now);
            if self.counts[member] >= ADDRESSES {
                return;
            }
        }
        self.counts[member] += 1;
        let moved = self.learned.insert(address, Learned { member, seen: now });
        if let Some(before) = moved {
            self.counts[before.member] -= 1;
        }
    }

    fn forget_old(&mut self, now: u64) {
        let counts = &mut self.counts;
        self.learned.retain(|_, learned| {
            let stays = now.saturating_sub(learned.seen) <= AGE;
            counts[learned.member] -= usize::from(!stays);
            stays
        });
    }
}

/// Whether an address is that of a group: multicast or broadcast.
fn is_group(address: &Address) -> bool {
    address[0] & 1 != 0
}

/// A learning switch between ports.
#[derive(Debug)]
pub(crate) struct Switch {
    members: OnceLock<Vec<Weak<Port>>>,
    table: Mutex<AddressTable>,
    /// Frames that went to one port.
    pub(crate) forwarded: AtomicU64,
    /// Frames that went to all.
    pub(crate) flooded: AtomicU64,
}

impl Switch {
    /// Connects `ports`, each of which is plugged into nothing yet.
    pub(crate) fn connect(ports: &[&Arc<Port>]) -> Arc<Self> {
        let switch = Arc::new(Self {
            members: OnceLock::new(),
            table: Mutex::new(AddressTable::new(ports.len())),
            forwarded: AtomicU64::new(0),
            flooded: AtomicU64::new(0),
        });
        let members = ports.iter().map(|port| Arc::downgrade(port)).collect();
        // It was empty.
        let _ = switch.members.set(members);
        for (member, port) in ports.iter().enumerate() {
            port.plug_switch(&switch, member);
        }
        switch
    }

    /// The destinations of frames that `member` sends at `now`, by their header bytes.
    pub(crate) fn destinations<'h>(
        &self,
        now: u64,
        member: usize,
        frames: impl Iterator<Item = &'h [u8]>,
        destinations: &mut Vec<Destination>,
    ) {
        let mut table = lock(&self.table);
        destinations.clear();
        destinations.extend(frames.map(|frame| table.switch(now, member, frame)));
    }

    /// Member `number`, while the backend runs.
    pub(crate) fn member(&self, number: usize) -> Option<Arc<Port>> {
        self.members.get()?.get(number)?.upgrade()
    }

    /// The members with their numbers.
    pub(crate) fn members(&self) -> impl Iterator<Item = (usize, Arc<Port>)> {
        let members = self.members.get().into_iter().flatten().enumerate();
        members.filter_map(|(number, port)| Some((number, port.upgrade()?)))
    }

    /// Addresses that are known at `now`.
    pub(crate) fn addresses(&self, now: u64) -> usize {
        let mut table = lock(&self.table);
        table.forget_old(now);
        table.learned.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BROADCAST: Address = [0xff; 6];

    fn address(number: usize) -> Address {
        let [.., a, b, c] = number.to_be_bytes();
        [2, 0, 0, a, b, c]
    }

    fn send(
        table: &mut AddressTable,
        now: u64,
        member: usize,
        from: Address,
        to: Address,
    ) -> Destination {
        table.switch(now, member, &[to, from].concat())
    }

    #[test]
    fn unknown_and_group_addresses_are_flooded_and_known_ones_are_not() {
        let mut table = AddressTable::new(3);
        let [a, b] = [1, 2].map(address);
        assert_eq!(send(&mut table, 0, 0, a, b), Destination::Flood);
        assert_eq!(send(&mut table, 0, 1, b, a), Destination::Member(0));
        assert_eq!(send(&mut table, 0, 0, a, b), Destination::Member(1));
        assert_eq!(send(&mut table, 0, 0, a, BROADCAST), Destination::Flood);
        assert_eq!(
            send(&mut table, 0, 0, a, [1, 0, 0x5e, 0, 0, 1]),
            Destination::Flood
        );
        // Both behind one port.
        assert_eq!(send(&mut table, 0, 0, address(3), a), Destination::Nowhere);
        assert_eq!(table.switch(0, 0, &[0; 11]), Destination::Nowhere);
    }

    #[test]
    fn an_address_moves_with_its_sender_and_ages() {
        let mut table = AddressTable::new(3);
        let [a, b] = [1, 2].map(address);
        send(&mut table, 0, 0, a, b);
        send(&mut table, 1, 2, a, b);
        assert_eq!(send(&mut table, 1, 1, b, a), Destination::Member(2));
        assert_eq!(table.counts, [0, 1, 1]);
        assert_eq!(send(&mut table, AGE + 1, 1, b, a), Destination::Member(2));
        assert_eq!(send(&mut table, AGE + 2, 1, b, a), Destination::Flood);
    }

    #[test]
    fn group_addresses_are_not_learned_as_senders() {
        let mut table = AddressTable::new(2);
        send(&mut table, 0, 0, BROADCAST, address(1));
        assert!(table.learned.is_empty());
    }

    #[test]
    fn a_port_that_invents_addresses_does_not_displace_those_of_others() {
        let mut table = AddressTable::new(2);
        for number in 0..10 * ADDRESSES {
            send(&mut table, 0, 0, address(number), BROADCAST);
        }
        assert_eq!(table.learned.len(), ADDRESSES);
        let own = [6; 6];
        send(&mut table, 0, 1, own, BROADCAST);
        assert_eq!(
            send(&mut table, 0, 0, address(0), own),
            Destination::Member(1)
        );
        // Old ones make room.
        send(&mut table, AGE + 1, 0, address(ADDRESSES), BROADCAST);
        assert_eq!(table.counts, [1, 0]);
    }
}
