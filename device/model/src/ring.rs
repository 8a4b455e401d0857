//! The driver's end of a split ring (virtio 1.3, 2.7).

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::guest::Guest;

const DESCRIPTOR: u64 = 16;
const FLAG_NEXT: u16 = 1;
const FLAG_WRITE: u16 = 2;
const FLAG_INDIRECT: u16 = 4;

/// The addresses of a ring, which a driver sets up at its device.
#[derive(Clone, Copy, Debug)]
pub struct RingAddresses {
    /// Descriptors; a power of two.
    pub size: u16,
    /// Descriptor table.
    pub descriptors: GuestAddress,
    /// Available ring.
    pub available: GuestAddress,
    /// Used ring.
    pub used: GuestAddress,
}

/// One descriptor of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The address of its buffer.
    pub address: GuestAddress,
    /// Bytes.
    pub length: u32,
    /// The device writes it.
    pub writable: bool,
}

/// A ring with a `T` per chain that the device has.
#[derive(Debug)]
pub struct Ring<T> {
    memory: Arc<GuestMemoryMmap>,
    addresses: RingAddresses,
    /// Descriptors that no chain uses. Taken from the front and given back to the end, so that
    /// chains soon have descriptors in no particular order.
    free: VecDeque<u16>,
    next_available: u16,
    /// The available index that the device was shown.
    published: u16,
    next_used: u16,
    /// Chains that the device has, in the order in which they were made available.
    outstanding: VecDeque<Outstanding<T>>,
}

#[derive(Debug)]
struct Outstanding<T> {
    descriptors: Vec<u16>,
    token: T,
}

impl<T> Ring<T> {
    /// A ring of `size` descriptors in fresh memory of the guest.
    pub fn new(guest: &mut Guest, size: u16) -> Self {
        let entries = usize::from(size);
        let addresses = RingAddresses {
            size,
            descriptors: guest.allocate_ring(16 * entries),
            available: guest.allocate_ring(6 + 2 * entries),
            used: guest.allocate_ring(6 + 8 * entries),
        };
        Self {
            memory: guest.memory(),
            addresses,
            free: (0..size).collect(),
            next_available: 0,
            published: 0,
            next_used: 0,
            outstanding: VecDeque::new(),
        }
    }

    /// Where the ring is.
    #[must_use]
    pub fn addresses(&self) -> RingAddresses {
        self.addresses
    }

    /// Chains that the device has.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Descriptors that no chain uses.
    #[must_use]
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// Adds a chain, with its descriptors in the ring or in a `table` with room for them;
    /// [`publish`](Self::publish) makes it available.
    ///
    /// # Panics
    ///
    /// The ring has no room for it.
    pub fn add(&mut self, chain: &[Piece], table: Option<GuestAddress>, token: T) {
        let needed = if table.is_some() { 1 } else { chain.len() };
        assert!(
            needed <= self.free.len(),
            "no room for a chain of {needed} descriptors"
        );
        let descriptors: Vec<u16> = self.free.drain(..needed).collect();
        let head = descriptors[0];
        if let Some(table) = table {
            let order: Vec<u16> = (0..chain.len() as u16).collect();
            self.write_chain(table, chain, &order);
            let length = table_length(chain.len()) as u32;
            self.write_descriptor(
                self.addresses.descriptors,
                head,
                table,
                length,
                FLAG_INDIRECT,
                0,
            );
        } else {
            self.write_chain(self.addresses.descriptors, chain, &descriptors);
        }
        self.make_available(head);
        self.outstanding
            .push_back(Outstanding { descriptors, token });
    }

    /// Makes all added chains available; returns whether the device wants a kick
    /// (`VIRTIO_F_EVENT_IDX`, which is always negotiated).
    pub fn publish(&mut self) -> bool {
        let old = self.published;
        self.published = self.next_available;
        self.store(self.addresses.available, 2, self.next_available);
        // The index store must be seen before the event index is read (virtio 1.3, 2.7.13.4.1).
        std::sync::atomic::fence(Ordering::SeqCst);
        let event = self.load(self.addresses.used, 4 + 8 * u64::from(self.addresses.size));
        let new = self.next_available;
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
    }

    /// Chains that the device has returned and that were not taken yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        usize::from(self.used_index().wrapping_sub(self.next_used))
    }

    /// Takes the oldest returned chain and its used length.
    ///
    /// # Panics
    ///
    /// The device returned another chain than the oldest one.
    pub fn take(&mut self) -> Option<(u32, T)> {
        let pending = self.pending();
        if pending == 0 {
            return None;
        }
        let outstanding = self.outstanding.len();
        assert!(
            pending <= outstanding,
            "{pending} chains returned, only {outstanding} are out"
        );
        let slot = u64::from(self.next_used % self.addresses.size);
        let element = GuestAddress(self.addresses.used.0 + 4 + 8 * slot);
        let [id, length]: [u32; 2] = [0, 4].map(|offset| {
            let mut bytes = [0; 4];
            self.memory
                .read_slice(&mut bytes, GuestAddress(element.0 + offset))
                .expect("rings lie in memory");
            u32::from_le_bytes(bytes)
        });
        let oldest = self.outstanding.pop_front().expect("checked above");
        let head = oldest.descriptors[0];
        assert_eq!(
            id,
            u32::from(head),
            "chains are to be completed in available order"
        );
        self.next_used = self.next_used.wrapping_add(1);
        // Ask for an interrupt at the next one.
        let used_event = 4 + 2 * u64::from(self.addresses.size);
        self.store(self.addresses.available, used_event, self.next_used);
        std::sync::atomic::fence(Ordering::SeqCst);
        self.free.extend(oldest.descriptors);
        Some((length, oldest.token))
    }

    /// The tokens of the chains that the device has, oldest first.
    pub fn tokens(&self) -> impl Iterator<Item = &T> {
        self.outstanding.iter().map(|chain| &chain.token)
    }

    /// The used index, at which a restarted device resumes: all chains before it are done.
    #[must_use]
    pub fn used_index(&self) -> u16 {
        self.load(self.addresses.used, 2)
    }

    /// Stores an invalid available index, for tests of hostile drivers.
    pub fn forge_available_index(&mut self, index: u16) {
        self.store(self.addresses.available, 2, index);
    }

    /// Makes any `head` available, for tests of hostile drivers.
    pub fn forge_available_head(&mut self, head: u16) {
        self.make_available(head);
        self.published = self.next_available;
        self.store(self.addresses.available, 2, self.next_available);
    }

    /// Stores any descriptor, for tests of hostile drivers.
    pub fn forge_descriptor(
        &mut self,
        index: u16,
        to: GuestAddress,
        length: u32,
        flags: u16,
        next: u16,
    ) {
        self.write_descriptor(self.addresses.descriptors, index, to, length, flags, next);
    }

    fn make_available(&mut self, head: u16) {
        let slot = u64::from(self.next_available % self.addresses.size);
        self.store(self.addresses.available, 4 + 2 * slot, head);
        self.next_available = self.next_available.wrapping_add(1);
    }

    fn write_chain(&self, table: GuestAddress, chain: &[Piece], order: &[u16]) {
        for (at, (piece, index)) in chain.iter().zip(order).enumerate() {
            let next = order.get(at + 1).copied();
            let flags = if piece.writable { FLAG_WRITE } else { 0 }
                | if next.is_some() { FLAG_NEXT } else { 0 };
            let next = next.unwrap_or(0xffff);
            self.write_descriptor(table, *index, piece.address, piece.length, flags, next);
        }
    }

    fn write_descriptor(
        &self,
        table: GuestAddress,
        index: u16,
        to: GuestAddress,
        length: u32,
        flags: u16,
        next: u16,
    ) {
        let mut bytes = [0; DESCRIPTOR as usize];
        bytes[..8].copy_from_slice(&to.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        let address = GuestAddress(table.0 + u64::from(index) * DESCRIPTOR);
        self.memory
            .write_slice(&bytes, address)
            .expect("rings lie in memory");
    }

    fn load(&self, base: GuestAddress, offset: u64) -> u16 {
        let address = GuestAddress(base.0 + offset);
        u16::from_le(
            self.memory
                .load(address, Ordering::Acquire)
                .expect("rings lie in memory"),
        )
    }

    fn store(&self, base: GuestAddress, offset: u64, value: u16) {
        let address = GuestAddress(base.0 + offset);
        self.memory
            .store(value.to_le(), address, Ordering::Release)
            .expect("rings lie in memory");
    }
}

/// Bytes of an indirect table for a chain of `pieces` descriptors.
#[must_use]
pub fn table_length(pieces: usize) -> usize {
    pieces * DESCRIPTOR as usize
}
