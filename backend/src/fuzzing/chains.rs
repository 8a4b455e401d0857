//! Target `chains`: one ring with any content, walked, reserved, filled and returned.

use std::sync::{Arc, LazyLock};

use vm_memory::{Bytes, GuestAddress};
use zcnic_device::{
    features::FeatureSet,
    memory::ReceiveRing,
    receive::{Annotation, Layout, MAX_CHAINS, ReceiveQueue},
    transmit::{Snapshot, TransmitFormat, parse},
};

use super::memory::{clear, contents, guarded, put};
use crate::{
    input::Input,
    memory::{GuestMemory, guard::Alarm},
    ring::{
        Indices, Setup,
        chain::walk,
        mover::GuestMover,
        raw::{Mapping, Memory, Span},
        receive::ReceiveChains,
        split::SplitRing,
        window::PrefetchWindow,
    },
};

const LOW: usize = 0x1_0000;
const HIGH_START: u64 = 1 << 32;
const HIGH: usize = 0x4000;
const REGIONS: [(u64, usize); 2] = [(0, LOW), (HIGH_START, HIGH)];

/// Descriptors of the longest ring.
const MOST: usize = 64;
const DESCRIPTOR: usize = 16;
const TABLES: u64 = 0x400;
const AVAILABLE: u64 = 0x800;
const USED: u64 = 0xc00;
const BUFFERS: u64 = 0x1000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Made once; each run clears it.
struct World {
    guest: Arc<GuestMemory>,
    memory: Arc<Memory>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let guest = guarded(&REGIONS);
    let alarm = Arc::new(Alarm::new().expect("eventfd"));
    let memory = Arc::new(Memory::new(Arc::clone(&guest), &alarm));
    World { guest, memory }
});

/// A range of guest memory.
type Place = (u64, usize);

/// Walks the chains of a ring whose every part comes from `bytes`, and receives into them.
///
/// # Panics
///
/// A chain is walked differently than by a plain reading of virtio 1.3, 2.7, chains are returned
/// out of order or more often than posted, or a byte outside of writable buffers and of the used
/// ring changes.
pub fn chains(bytes: &[u8]) {
    // Two runs at once would share the memory.
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _alone = crate::sync::lock(&ALONE);
    let World { guest, memory } = &*WORLD;
    clear(guest, &REGIONS);
    let mut input = Input::new(bytes);
    let shape = input.byte();
    let size = 1u16 << ((shape >> 1) % 7);
    let base = input.word();
    let setup = Setup {
        size,
        descriptors: 0,
        available: AVAILABLE,
        used: USED,
        event_idx: shape & 1 != 0,
    };
    for table in [0, TABLES] {
        for entry in 0..input.below(MOST + 1) {
            let bytes = descriptor(&mut input, size);
            put(guest, table + (entry * DESCRIPTOR) as u64, &bytes);
        }
    }
    // One more than the ring may have, which is an error of the driver.
    let posted = (input.below(MOST + 2) as u16).min(size + 1);
    for ahead in 0..posted {
        let head = u16::from(input.byte()) % (size + size.div_ceil(8));
        let entry = base.wrapping_add(ahead) % size;
        put(
            guest,
            AVAILABLE + 4 + 2 * u64::from(entry),
            &head.to_le_bytes(),
        );
    }
    put(
        guest,
        AVAILABLE + 2,
        &base.wrapping_add(posted).to_le_bytes(),
    );
    let event = base.wrapping_add(u16::from(input.byte()));
    put(
        guest,
        AVAILABLE + 4 + 2 * u64::from(size),
        &event.to_le_bytes(),
    );

    let mut indices = Indices {
        next_available: base,
        next_used: base,
        published: base,
        ..Indices::default()
    };
    let map = Mapping::new(&setup, Arc::clone(memory)).expect("the ring is in memory");
    let before = contents(guest, &REGIONS);
    let mut ring = SplitRing::new(&map, setup.event_idx, &mut indices);
    let Ok(available) = ring.available(size) else {
        assert!(posted > size, "{posted} chains were refused");
        return;
    };
    assert_eq!(available, posted, "chains that are available");
    let (heads, buffers) = walk_all(&ring, guest, posted);
    let mut receiving = ReceiveChains::new(Some(ring), MAX_CHAINS, PrefetchWindow::default());
    receive(&mut receiving, &mut input);
    drop(receiving);
    let returned = indices.next_used.wrapping_sub(base);
    assert!(
        returned <= posted,
        "{returned} of {posted} chains were returned"
    );
    assert_eq!(
        indices.next_available, indices.next_used,
        "chains are returned in order"
    );
    for ahead in 0..returned {
        let entry = base.wrapping_add(ahead) % size;
        let place = GuestAddress(USED + 4 + 8 * u64::from(entry));
        let id: u32 = guest.read_obj(place).expect("the used ring");
        let head = heads[usize::from(ahead)];
        assert_eq!(u32::from_le(id), u32::from(head), "used element {ahead}");
    }
    // Nothing but the used ring and the buffers of chains may change.
    let mut allowed = buffers;
    allowed.push((USED, 6 + 8 * usize::from(size)));
    check_changes(&before, &contents(guest, &REGIONS), &allowed);
}

/// A descriptor of eight bytes of input, most often one that makes sense.
fn descriptor(input: &mut Input<'_>, size: u16) -> [u8; DESCRIPTOR] {
    let (place, kind) = (u64::from(input.word()), input.byte());
    let flags = u16::from(input.byte()) & (NEXT | WRITE | INDIRECT);
    let (length, next) = (u32::from(input.word()), u16::from(input.byte()));
    let unit = input.byte();
    let address = match kind % 8 {
        4 => HIGH_START + place % (HIGH as u64 + 64),
        5 => LOW as u64 - place % 128,
        6 => TABLES + place % 64 * DESCRIPTOR as u64,
        7 => place << 48 | place,
        _ => BUFFERS + place,
    };
    let length = match unit % 4 {
        2 => length % 66 * DESCRIPTOR as u32,
        3 => length << 16 | length,
        _ => length % 0x1000,
    };
    let mut bytes = [0; DESCRIPTOR];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&(next % (size + 2)).to_le_bytes());
    bytes
}

/// Walks every available chain and compares it with [`plainly`]. Returns the heads before the first
/// invalid one, and the device-writable places.
fn walk_all(ring: &SplitRing<'_>, guest: &GuestMemory, posted: u16) -> (Vec<u16>, Vec<Place>) {
    let (mut heads, mut buffers) = (Vec::new(), Vec::new());
    let mut spans = Vec::new();
    for ahead in 0..posted {
        let Ok(head) = ring.head(ahead) else {
            break;
        };
        heads.push(head);
        let found = walk(ring.map(), head, &mut spans).ok();
        let found = found.map(|chain| {
            let places = |spans: &[Span<'_>]| -> Vec<Place> {
                let memory = ring.map().memory();
                let place = |span: &Span<'_>| memory.guest_address(span).map(|at| (at, span.len()));
                spans.iter().filter_map(place).collect()
            };
            [
                places(chain.readable(&spans)),
                places(chain.writable(&spans)),
            ]
        });
        let expected = plainly(guest, ring.size(), head);
        assert_eq!(found, expected, "chain at descriptor {head}");
        buffers.extend(found.into_iter().flat_map(|[_, writable]| writable));
    }
    (heads, buffers)
}

/// The readable and the writable places of a chain, read without any short cut; `None`: it is
/// invalid.
fn plainly(guest: &GuestMemory, size: u16, head: u16) -> Option<[Vec<Place>; 2]> {
    let inside = |address: u64, length: usize| {
        REGIONS.iter().any(|&(start, all)| {
            address >= start && address - start < all as u64 && {
                length as u64 <= all as u64 - (address - start)
            }
        })
    };
    let read = |address: u64| -> (u64, u32, u16, u16) {
        let word = |at| {
            guest
                .read_obj::<u16>(GuestAddress(address + at))
                .expect("inside")
        };
        let quad = guest.read_obj(GuestAddress(address)).expect("inside");
        let long = guest.read_obj(GuestAddress(address + 8)).expect("inside");
        (
            u64::from_le(quad),
            u32::from_le(long),
            u16::from_le(word(12)),
            u16::from_le(word(14)),
        )
    };
    let mut places = [Vec::new(), Vec::new()];
    let (mut table, mut entries, mut index) = (0, u32::from(size), head);
    let (mut nested, mut total) = (false, 0usize);
    // Whoever follows more descriptors than these is in a loop.
    for _ in 0..1024 {
        if u32::from(index) >= entries {
            return None;
        }
        let (address, length, flags, next) = read(table + u64::from(index) * DESCRIPTOR as u64);
        let count = length as usize;
        if flags & INDIRECT != 0 {
            let fits =
                count.is_multiple_of(DESCRIPTOR) && (1..=1024).contains(&(count / DESCRIPTOR));
            if nested || flags & NEXT != 0 || !fits || !inside(address, count) {
                return None;
            }
            (table, entries, index) = (address, (count / DESCRIPTOR) as u32, 0);
            nested = true;
            continue;
        }
        let writable = usize::from(flags & WRITE != 0);
        total += count;
        let ordered = writable == 1 || places[1].is_empty();
        if count == 0 || total > 1 << 20 || !ordered || !inside(address, count) {
            return None;
        }
        places[writable].push((address, count));
        if flags & NEXT == 0 {
            return Some(places);
        }
        index = next;
    }
    None
}

/// Uses the ring as receiving frames does, in any order of calls.
fn receive(chains: &mut ReceiveChains<'_>, input: &mut Input<'_>) {
    let layouts = [
        Layout::VirtioNet,
        Layout::Linear { size: 1024 },
        Layout::Split {
            header_size: 256,
            page_size: 1024,
            threshold: 0,
            l4_only: true,
        },
    ];
    let mut queue = ReceiveQueue::default();
    queue.start(layouts[input.below(layouts.len())], MAX_CHAINS);
    let mut reserved = 0;
    while !input.is_empty() {
        match input.byte() % 6 {
            0 => reserved += usize::from(chains.reserve()),
            1 => {
                let lengths: Vec<u32> = (0..reserved.min(3)).map(|_| input.long()).collect();
                chains.commit(&lengths);
                reserved = 0;
            }
            2 => {
                chains.publish();
            }
            3 => {
                chains.enable_kicks();
            }
            4 => chains.disable_kicks(),
            _ => {
                // Placing a frame begins with an empty reservation.
                chains.commit(&[]);
                reserved = 0;
                deliver(chains, &mut queue, input);
            }
        }
    }
    chains.commit(&[]);
    chains.drain();
    chains.publish();
}

/// Receives one frame of a plain driver.
fn deliver(chains: &mut ReceiveChains<'_>, queue: &mut ReceiveQueue, input: &mut Input<'_>) {
    let mut sent = input.counted(512).to_vec();
    let sent = [Span::own(&mut sent)];
    let (mover, mut snapshot) = (GuestMover::new(), Snapshot::default());
    let format = TransmitFormat::VirtioNet;
    let Ok(train) = parse(&mover, &sent[..], format, FeatureSet::PLAIN, &mut snapshot) else {
        return;
    };
    let note = Annotation {
        queue: 0,
        hash: None,
        offloads: FeatureSet::PLAIN,
        time: 0,
        vlan: None,
    };
    let delivered = queue.deliver(&mover, chains, &train, 0, &note);
    assert!(
        delivered.frames as usize <= train.segments(),
        "frames of a train"
    );
}

/// Checks that only bytes of `allowed` places differ.
fn check_changes(before: &[Vec<u8>], after: &[Vec<u8>], allowed: &[Place]) {
    for ((start, _), (before, after)) in REGIONS.iter().zip(before.iter().zip(after)) {
        if before == after {
            continue;
        }
        for (at, (before, after)) in before.iter().zip(after).enumerate() {
            let address = start + at as u64;
            let inside = |place: &Place| address >= place.0 && address - place.0 < place.1 as u64;
            assert!(
                before == after || allowed.iter().any(inside),
                "the byte at {address:#x} is not the device's to write"
            );
        }
    }
}
