//! Guests that write malformed chains into their rings.

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zcnic_model::{
    Driver, Shape, Transport,
    frames::{Flow, broadcast, pattern},
    in_process::RING_SIZE,
    ring::{Ring, RingAddresses},
    vhost_user::Frontend,
};

use crate::attacked::{PAIRS, attack};

const COMMAND_PAIR: usize = PAIRS as usize - 1;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Bytes of the first region of a guest's memory.
const MEMORY: u64 = 16 << 20;

/// The address of attacks' tables and buffers, at the end of the first region, where nothing else
/// is.
const PLAYGROUND: GuestAddress = GuestAddress(MEMORY - 65536);
const NOWHERE: GuestAddress = GuestAddress(0x7000_0000);

/// Buffers that the peer of the attacker posts.
const BUFFERS: usize = 400;

/// Takes all frames that an attack sent, and posts as many buffers.
fn refill(peer: &mut Driver<Frontend>) {
    peer.receive_all();
    let posted = peer.posted(0);
    peer.post(0, Shape::SPLIT, BUFFERS - posted);
}

/// A ring that its driver misuses.
trait Forge {
    fn descriptor(&mut self, index: u16, to: GuestAddress, length: u32, flags: u16, next: u16);
    fn head(&mut self, head: u16);
    fn index(&mut self, index: u16);
    fn place(&self) -> RingAddresses;
}

impl<T> Forge for Ring<T> {
    fn descriptor(&mut self, index: u16, to: GuestAddress, length: u32, flags: u16, next: u16) {
        self.forge_descriptor(index, to, length, flags, next);
    }

    fn head(&mut self, head: u16) {
        self.forge_available_head(head);
    }

    fn index(&mut self, index: u16) {
        self.forge_available_index(index);
    }

    fn place(&self) -> RingAddresses {
        self.addresses()
    }
}

type Attack = fn(&mut dyn Forge, &GuestMemoryMmap);

/// One descriptor at index 7, made available.
fn single(ring: &mut dyn Forge, at: GuestAddress, length: u32, flags: u16, next: u16) {
    ring.descriptor(7, at, length, flags, next);
    ring.head(7);
}

/// Writes the entries of an indirect table.
fn write_table(memory: &GuestMemoryMmap, entries: &[(GuestAddress, u32, u16, u16)]) {
    for (index, (address, length, flags, next)) in entries.iter().enumerate() {
        let entry = GuestAddress(PLAYGROUND.0 + 16 * index as u64);
        let low = u64::from(*length) | u64::from(*flags) << 32 | u64::from(*next) << 48;
        memory
            .write_obj(address.0.to_le(), entry)
            .expect("in memory");
        memory
            .write_obj(low.to_le(), GuestAddress(entry.0 + 8))
            .expect("in memory");
    }
}

/// An indirect chain whose table holds the entries, made available.
fn table(
    ring: &mut dyn Forge,
    memory: &GuestMemoryMmap,
    entries: &[(GuestAddress, u32, u16, u16)],
) {
    write_table(memory, entries);
    single(ring, PLAYGROUND, 16 * entries.len() as u32, INDIRECT, 0);
}

/// A table of `count` entries that are linked in order, each of `length` bytes.
fn long_table(ring: &mut dyn Forge, memory: &GuestMemoryMmap, count: u16, length: u32) {
    let entry = |next| {
        (
            PLAYGROUND,
            length,
            if next < count { NEXT } else { 0 },
            next,
        )
    };
    table(ring, memory, &(1..=count).map(entry).collect::<Vec<_>>());
}

/// Attacks the first transmit ring, the ring of commands, and the receive rings of both pairs, each
/// from a frontend of its own whose peer is honest.
fn on_every_ring(forge: Attack) {
    attack(|target| {
        let mut peer = target.guest(0, BUFFERS);
        let frame = broadcast(&pattern(200));
        for pair in [0, COMMAND_PAIR] {
            let mut hostile = target.guest(1, 4);
            let memory = hostile.parts().0.memory();
            forge(hostile.pairs()[pair].transmit.ring_mut(), &memory);
            hostile.transport().kick(2 * pair + 1);
            if pair != COMMAND_PAIR {
                // After its worker's next turn: the effects of the attack have happened.
                hostile.enqueue(1, &frame);
                peer.receive(0);
                refill(&mut peer);
            }
            peer.status();
        }
        let mut hostile = target.guest(1, 0);
        let memory = hostile.parts().0.memory();
        for pair in [0, COMMAND_PAIR] {
            forge(hostile.pairs()[pair].receive.ring_mut(), &memory);
            hostile.transport().kick(2 * pair);
        }
        peer.send(0, &frame);
        peer.status();
    });
}

/// A test for each violation of a ring's rules by a driver.
macro_rules! malformed {
    ($($name:ident: $forge:expr;)*) => {
        $(#[test]
        fn $name() {
            on_every_ring($forge);
        })*
    };
}

malformed! {
    an_available_index_that_jumps: |ring, _| ring.index(0x7fff);
    an_available_index_that_goes_back: |ring, _| ring.index(0xfff0);
    an_available_index_one_beyond_the_ring: |ring, _| ring.index(RING_SIZE + 8);
    a_head_beyond_the_ring: |ring, _| ring.head(RING_SIZE);
    a_head_far_beyond_the_ring: |ring, _| ring.head(0xffff);
    a_loop_of_one: |ring, _| single(ring, PLAYGROUND, 64, NEXT, 7);
    a_loop_of_one_that_is_written: |ring, _| single(ring, PLAYGROUND, 64, NEXT | WRITE, 7);
    a_loop_of_two: |ring, _| {
        ring.descriptor(8, PLAYGROUND, 64, NEXT, 7);
        single(ring, PLAYGROUND, 64, NEXT, 8);
    };
    a_loop_of_the_whole_ring: |ring, _| {
        for index in 0..RING_SIZE {
            ring.descriptor(index, PLAYGROUND, 1, NEXT, (index + 1) % RING_SIZE);
        }
        ring.head(7);
    };
    a_successor_beyond_the_ring: |ring, _| single(ring, PLAYGROUND, 64, NEXT, 0xfff0);
    a_successor_one_beyond_the_ring: |ring, _| single(ring, PLAYGROUND, 64, NEXT, RING_SIZE);
    the_same_head_sixty_times: |ring, _| {
        for _ in 0..60 {
            single(ring, PLAYGROUND, 64, 0, 0);
        }
    };
    a_buffer_outside_memory: |ring, _| single(ring, NOWHERE, 64, 0, 0);
    a_writable_buffer_outside_memory: |ring, _| single(ring, NOWHERE, 64, WRITE, 0);
    a_buffer_that_leaves_memory: |ring, _| single(ring, GuestAddress(MEMORY - 10), 4096, WRITE, 0);
    a_buffer_that_leaves_memory_by_a_byte: |ring, _| {
        single(ring, GuestAddress(MEMORY - 63), 64, 0, 0);
    };
    a_buffer_that_ends_with_memory: |ring, _| single(ring, GuestAddress(MEMORY - 64), 64, 0, 0);
    a_buffer_that_wraps: |ring, _| single(ring, GuestAddress(u64::MAX - 9), 100, WRITE, 0);
    a_buffer_at_the_last_address: |ring, _| single(ring, GuestAddress(u64::MAX), 2, 0, 0);
    a_buffer_of_4_gibibytes: |ring, _| single(ring, PLAYGROUND, u32::MAX, 0, 0);
    a_writable_buffer_of_4_gibibytes: |ring, _| single(ring, PLAYGROUND, u32::MAX, WRITE, 0);
    a_buffer_of_no_bytes: |ring, _| single(ring, PLAYGROUND, 0, 0, 0);
    a_writable_buffer_of_no_bytes: |ring, _| single(ring, PLAYGROUND, 0, WRITE, 0);
    unknown_flags: |ring, _| single(ring, PLAYGROUND, 64, 0xfff8, 0);
    all_flags: |ring, _| single(ring, PLAYGROUND, 64, 0xffff, 0);
    readable_behind_writable: |ring, _| {
        ring.descriptor(8, PLAYGROUND, 64, 0, 0);
        single(ring, PLAYGROUND, 64, WRITE | NEXT, 8);
    };
    a_buffer_that_is_the_used_ring: |ring, _| {
        let used = ring.place().used;
        single(ring, used, 512, WRITE, 0);
    };
    a_buffer_that_is_the_descriptor_table: |ring, _| {
        let descriptors = ring.place().descriptors;
        single(ring, descriptors, 512, WRITE, 0);
    };
    a_buffer_that_is_the_available_ring: |ring, _| {
        let available = ring.place().available;
        single(ring, available, 100, WRITE, 0);
    };
    a_table_outside_memory: |ring, _| single(ring, NOWHERE, 64, INDIRECT, 0);
    a_table_that_leaves_memory: |ring, _| single(ring, GuestAddress(MEMORY - 8), 16, INDIRECT, 0);
    a_table_of_no_entries: |ring, _| single(ring, PLAYGROUND, 0, INDIRECT, 0);
    half_a_table_entry: |ring, _| single(ring, PLAYGROUND, 8, INDIRECT, 0);
    one_and_a_half_table_entries: |ring, _| single(ring, PLAYGROUND, 24, INDIRECT, 0);
    an_endless_table: |ring, _| single(ring, PLAYGROUND, !15, INDIRECT, 0);
    a_table_with_a_successor: |ring, _| single(ring, PLAYGROUND, 64, INDIRECT | NEXT, 8);
    a_table_that_is_the_ring: |ring, _| {
        let descriptors = ring.place().descriptors;
        single(ring, descriptors, 16 * u32::from(RING_SIZE), INDIRECT, 0);
    };
    a_table_in_a_table: |ring, memory| table(ring, memory, &[(PLAYGROUND, 16, INDIRECT, 0)]);
    a_table_that_is_its_own_buffer: |ring, memory| {
        table(ring, memory, &[(PLAYGROUND, 16, WRITE, 0)]);
    };
    a_loop_in_a_table: |ring, memory| {
        let entry = (PLAYGROUND, 64, NEXT, 0);
        table(ring, memory, &[entry, entry, entry]);
    };
    a_successor_beyond_the_table: |ring, memory| table(ring, memory, &[(PLAYGROUND, 64, NEXT, 1)]);
    a_successor_far_beyond_the_table: |ring, memory| {
        table(ring, memory, &[(PLAYGROUND, 64, NEXT, 0xffff), (PLAYGROUND, 64, 0, 0)]);
    };
    an_entry_of_no_bytes: |ring, memory| {
        table(ring, memory, &[(PLAYGROUND, 64, NEXT, 1), (PLAYGROUND, 0, 0, 0)]);
    };
    a_writable_entry_behind_a_readable_one: |ring, memory| {
        table(ring, memory, &[(PLAYGROUND, 72, NEXT, 1), (PLAYGROUND, 10, WRITE, 0)]);
    };
    a_table_of_as_many_entries_as_a_ring_may_have: |ring, memory| {
        long_table(ring, memory, 1024, 10);
    };
    a_table_of_one_entry_more_than_a_ring_may_have: |ring, memory| {
        long_table(ring, memory, 1025, 10);
    };
    a_table_of_four_thousand_entries_of_one_byte: |ring, memory| long_table(ring, memory, 4000, 1);
    a_chain_of_a_byte_more_than_a_mebibyte: |ring, memory| {
        let half = |length, flags| (GuestAddress(0x1_0000_0000), length, flags, 1);
        table(ring, memory, &[half(0x8_0000, NEXT), half(0x8_0001, 0)]);
    };
    four_gibibytes_in_a_table: |ring, memory| {
        let big = |next| (GuestAddress(0x1_0000_0000), 48 << 20, NEXT, next);
        let entries: Vec<_> = (1..90).map(big).chain([(PLAYGROUND, 64, 0, 0)]).collect();
        table(ring, memory, &entries);
    };
}

#[test]
fn noise_in_all_rings() {
    attack(|target| {
        let mut peer = target.guest(0, BUFFERS);
        let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        for round in 0..40 {
            let mut hostile = target.guest(1, 4);
            let memory = hostile.parts().0.memory();
            for ring in 0..2 * usize::from(PAIRS) {
                let addresses = hostile.transport().ring(ring);
                // Addresses mostly in memory, so that some chains are valid.
                for index in 0..64u64 {
                    let mut entry = [0; 16];
                    rng.fill_bytes(&mut entry);
                    entry[3..8].fill(0);
                    if index % 3 > 0 {
                        entry[9..12].fill(0);
                    }
                    if index % 4 > 0 {
                        entry[13..16].fill(0);
                    }
                    let at = GuestAddress(addresses.descriptors.0 + 16 * index);
                    memory.write_slice(&entry, at).expect("in memory");
                    let head = if round % 2 == 0 {
                        index as u16 % 50
                    } else {
                        rng.next_u32() as u16
                    };
                    let at = GuestAddress(addresses.available.0 + 4 + 2 * index);
                    memory.write_obj(head.to_le(), at).expect("in memory");
                }
                let index = GuestAddress(addresses.available.0 + 2);
                memory
                    .write_obj((rng.next_u32() as u16 % 64).to_le(), index)
                    .expect("in memory");
                hostile.transport().kick(ring);
            }
            for _ in 0..5 {
                peer.send(0, Flow::udp4().frame(&pattern(2000)));
            }
            refill(&mut peer);
        }
    });
}
