//! Frontends that set rings up at places and with sizes that can't be, or at the wrong moment.

use std::{thread, time::Duration};

use vm_memory::{Bytes, GuestAddress};
use zcnic_model::frames::{broadcast, pattern};

use crate::attacked::{Target, attack};
use crate::raw::{
    FEATURES, GET_VRING_BASE, RawFrontend, RawMemory, RawRing, SET_FEATURES, SET_MEM_TABLE,
    SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_ENABLE, SET_VRING_KICK, halves, words,
};

/// Bytes of the guest's memory.
const MEMORY: u64 = 2 << 20;

/// The address of a plain frame.
const FRAME: u64 = 0x10_0000;

/// Time for a worker to serve a ring that it may refuse.
const TURN: Duration = Duration::from_millis(20);

/// A negotiated frontend on port 1 and its memory, with a plain frame in it.
fn frontend(target: &Target) -> (RawFrontend, RawMemory) {
    let frontend = RawFrontend::negotiated(&target.path(1));
    let memory = RawMemory::new(MEMORY);
    frontend
        .send_with(SET_MEM_TABLE, &memory.table(), &[&*memory.file])
        .expect("a listener");
    memory.write(FRAME, &[&[0; 12], &broadcast(&pattern(60))[..]].concat());
    (frontend, memory)
}

/// A ring on whose descriptors a plain frame of 86 bytes lies.
fn ring(number: u32, memory: &RawMemory) -> RawRing {
    let ring = RawRing::new(number);
    for index in 0..64 {
        ring.descriptor(memory, index, (FRAME, 86, 0, 0));
    }
    ring
}

/// Sets up rings as `change` wants them, and uses them.
fn set_up(change: impl Fn(&mut RawRing)) {
    attack(|target| {
        let mut peer = target.guest(0, 8);
        for number in [0, 1] {
            let (mut frontend, memory) = frontend(target);
            let mut ring = ring(number, &memory);
            change(&mut ring);
            // The backend may end the connection at any message.
            if ring.start(&frontend, 0).is_ok() {
                let index = GuestAddress(ring.available.wrapping_add(2));
                let _ = memory.map.write_obj(4u16.to_le(), index);
                ring.kick();
                thread::sleep(TURN);
            }
            peer.send(0, broadcast(&pattern(60)));
            peer.status();
            frontend.settle();
        }
    });
}

/// A test for each size, in descriptors.
macro_rules! sizes {
    ($($name:ident: $size:expr;)*) => {
        $(#[test]
        fn $name() {
            set_up(|ring| ring.size = $size);
        })*
    };
}

sizes! {
    a_ring_of_no_descriptors: 0;
    a_ring_of_1_descriptor: 1;
    a_ring_of_2_descriptors: 2;
    a_ring_of_3_descriptors: 3;
    a_ring_of_63_descriptors: 63;
    a_ring_of_1000_descriptors: 1000;
    a_ring_of_1025_descriptors: 1025;
    a_ring_of_2048_descriptors: 2048;
    a_ring_of_32768_descriptors: 32768;
    a_ring_of_65535_descriptors: 65535;
    a_ring_of_65536_descriptors: 65536;
    a_ring_of_4_gibidescriptors: u32::MAX;
}

/// A test for each place: addresses of descriptors, available and used ring.
macro_rules! places {
    ($($name:ident: $place:expr;)*) => {
        $(#[test]
        fn $name() {
            set_up(|ring| (ring.descriptors, ring.available, ring.used) = $place);
        })*
    };
}

places! {
    descriptors_over_the_end_of_memory: (MEMORY - 16, 0x1000, 0x2000);
    an_available_ring_over_the_end_of_memory: (0x1000, MEMORY - 2, 0x2000);
    a_used_ring_over_the_end_of_memory: (0x1000, 0x2000, MEMORY - 4);
    misaligned_descriptors: (0x1001, 0x2000, 0x3000);
    a_misaligned_available_ring: (0x1000, 0x2001, 0x3000);
    a_used_ring_at_an_odd_address: (0x1000, 0x2000, 0x3001);
    a_used_ring_at_half_its_alignment: (0x1000, 0x2000, 0x3002);
    descriptors_outside_memory: (1 << 40, 0x1000, 0x2000);
    an_available_ring_outside_memory: (0x1000, 1 << 40, 0x2000);
    a_used_ring_outside_memory: (0x1000, 0x2000, 1 << 40);
    descriptors_at_the_last_address: (u64::MAX, 0x1000, 0x2000);
    an_available_ring_before_memory: (0x1000, u64::MAX - 4095, 0x2000);
    all_parts_at_one_address: (0x1000, 0x1000, 0x1000);
    all_parts_at_address_0: (0, 0, 0);
    parts_that_overlap_by_half: (0x1000, 0x1200, 0x1240);
    a_used_ring_that_is_the_available_ring: (0x1000, 0x2000, 0x2000);
    parts_that_end_with_memory: (MEMORY - 0x400, MEMORY - 0x486, MEMORY - 0x68c);
}

#[test]
fn a_ring_that_starts_just_before_its_index_wraps() {
    const CHAINS: usize = 2000;
    attack(|target| {
        let (mut frontend, memory) = frontend(target);
        let mut ring = ring(1, &memory);
        memory.write(ring.used + 2, &65_500u16.to_le_bytes());
        memory.write(ring.available + 2, &65_500u16.to_le_bytes());
        ring.start(&frontend, 65_500).expect("a listener");
        assert!(frontend.settle());
        for _ in 0..CHAINS / 50 {
            ring.offer(&memory, &[0; 50]);
            assert!(ring.drained(&memory, Duration::from_secs(10)), "it wraps");
        }
    });
}

#[test]
fn indices_and_heads_flipped_until_the_ring_breaks_two_hundred_times() {
    attack(|target| {
        let (mut frontend, memory) = frontend(target);
        let mut ring = ring(1, &memory);
        ring.start(&frontend, 0).expect("a listener");
        for round in 0..200u32 {
            let noise = round.wrapping_mul(0x9e37_79b9);
            memory.write(ring.available + 2, &noise.to_le_bytes()[..2]);
            let heads: Vec<u8> = (0..32)
                .flat_map(|n| noise.rotate_left(n).to_le_bytes())
                .collect();
            memory.write(ring.available + 4, &heads);
            ring.kick();
            let index = halves(&[1, 0]);
            frontend.send(GET_VRING_BASE, &index).expect("a listener");
            frontend.reply().expect("the index");
            frontend
                .send(SET_VRING_ADDR, &ring.addresses())
                .expect("a listener");
            frontend
                .send_with(SET_VRING_KICK, &words(&[1]), &[&ring.kick])
                .expect("a listener");
        }
        assert!(frontend.settle());
    });
}

#[test]
fn rings_stopped_under_traffic_are_not_touched_afterwards() {
    attack(|target| {
        let _peer = target.guest(0, 64);
        let (mut frontend, memory) = frontend(target);
        let mut ring = ring(1, &memory);
        ring.start(&frontend, 0).expect("a listener");
        for _ in 0..200 {
            ring.offer(&memory, &[0; 48]);
            frontend
                .send(GET_VRING_BASE, &halves(&[1, 0]))
                .expect("a listener");
            let answer = frontend.reply().expect("the index");
            let base = u16::from_ne_bytes([answer[4], answer[5]]);
            assert_eq!(
                base,
                ring.returned(&memory),
                "the index at which it stopped"
            );
            thread::sleep(Duration::from_micros(300));
            assert_eq!(base, ring.returned(&memory), "a stopped ring was used");
            ring.start(&frontend, base).expect("a listener");
        }
        assert!(frontend.settle());
    });
}

#[test]
fn rings_enabled_and_disabled_thirty_thousand_times() {
    attack(|target| {
        let (mut frontend, memory) = frontend(target);
        let mut ring = ring(1, &memory);
        ring.start(&frontend, 0).expect("a listener");
        ring.offer(&memory, &[0; 32]);
        for number in 0..30_000u32 {
            let body = halves(&[number % 256, number / 256 % 2]);
            frontend.send(SET_VRING_ENABLE, &body).expect("a listener");
        }
        assert!(frontend.settle());
    });
}

#[test]
fn features_changed_two_thousand_times_under_traffic() {
    attack(|target| {
        let (mut frontend, memory) = frontend(target);
        let mut ring = ring(1, &memory);
        ring.start(&frontend, 0).expect("a listener");
        let sets = [
            FEATURES,
            0,
            1 << 30,
            1 << 32,
            1 << 29 | 1 << 30 | 1 << 32,
            1 << 15,
            1 << 33,
        ];
        for number in 0..2000 {
            ring.offer(&memory, &[0; 1]);
            let features = words(&[sets[number % sets.len()]]);
            // An unoffered feature may end the connection.
            if frontend.send(SET_FEATURES, &features).is_err() {
                break;
            }
        }
        frontend.settle();
    });
}

#[test]
fn rings_moved_while_they_are_used() {
    attack(|target| {
        let (mut frontend, memory) = frontend(target);
        let mut ring = ring(1, &memory);
        ring.start(&frontend, 0).expect("a listener");
        for number in 0..500u64 {
            ring.offer(&memory, &[0; 32]);
            ring.used = 0x8_0000 + 0x1000 * (number % 16);
            frontend
                .send(SET_VRING_ADDR, &ring.addresses())
                .expect("a listener");
            frontend
                .send(SET_VRING_BASE, &halves(&[1, (number as u32 * 977) % 65536]))
                .expect("a listener");
        }
        frontend.settle();
    });
}

#[test]
fn one_descriptor_is_kick_and_call_of_all_rings() {
    attack(|target| {
        let (mut frontend, memory) = frontend(target);
        let shared = RawRing::new(0);
        for number in 0..256 {
            let mut ring = RawRing::new(0);
            ring.number = number;
            for (one, other) in [
                (&mut ring.kick, &shared.kick),
                (&mut ring.call, &shared.kick),
            ] {
                *one = other.try_clone().expect("a descriptor");
            }
            ring.start(&frontend, 0).expect("a listener");
        }
        assert!(frontend.settle());
        let mut first = ring(0, &memory);
        first.kick = shared.kick.try_clone().expect("a descriptor");
        first.offer(&memory, &[0; 8]);
        (0..1000).for_each(|_| shared.kick());
        thread::sleep(TURN);
    });
}
