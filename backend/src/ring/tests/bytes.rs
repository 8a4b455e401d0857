//! Bytes in guest memory: bounds, and copies.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use zcnic_device::{checksum::Checksum, memory::Mover};

use super::{BUFFERS, memory, translated};
use crate::ring::{
    mover::{GuestMover, NextCopy},
    raw::Span,
};

proptest! {
    /// Bytes are copied and summed correctly, however source and target are divided into spans.
    #[test]
    fn mover_copies_and_sums(
        bytes in prop::collection::vec(any::<u8>(), 1..6000),
        cuts in prop::collection::vec(1usize..500, 0..20),
        offset in 0usize..3000,
        length in 0usize..6000,
        target_offset in 0usize..300,
    ) {
        let memory = memory();
        memory.write_slice(&bytes, GuestAddress(BUFFERS)).expect("buffer");
        let offset = offset.min(bytes.len());
        let length = length.min(bytes.len() - offset);
        let translated = translated(&memory);
        let place = |address, length| translated.span(address, length).expect("inside");
        let mut source = Vec::new();
        let (mut address, mut rest) = (BUFFERS, bytes.len());
        for cut in cuts {
            if cut < rest {
                source.push(place(address, cut));
                address += cut as u64;
                rest -= cut;
            }
        }
        source.push(place(address, rest));
        let stored_at = memory.get_slice(GuestAddress(BUFFERS + 0x4_0000), 0x4_0000).expect("inside");
        let target = place(BUFFERS + 0x4_0000, 0x4_0000);
        let mut expected = Checksum::default();
        expected.add(&bytes[offset..offset + length]);
        // A prefetch hint need not point to mapped memory.
        let next_copy = NextCopy::default();
        next_copy.source.set(Span::own(&mut [0; 100]).hint(0));
        next_copy.target.set(target.hint(0));
        for mover in [GuestMover::new(), GuestMover::with(&next_copy)] {
            prop_assert_eq!(mover.source_len(source.as_slice()), bytes.len());
            let mut sum = Checksum::default();
            mover.copy(source.as_slice(), offset, &target, target_offset, length, &mut sum);
            prop_assert_eq!(sum.finish(), expected.finish());
            let mut stored = vec![0; length];
            stored_at.read_slice(&mut stored, target_offset).expect("target");
            prop_assert_eq!(&stored[..], &bytes[offset..offset + length]);
            let mut around = [[0; 64]; 2];
            let [before, behind] = &mut around;
            let start = target_offset.min(64);
            stored_at.read_slice(&mut before[..start], target_offset - start).expect("target");
            stored_at.read_slice(behind, target_offset + length).expect("target");
            prop_assert_eq!(around, [[0; 64]; 2], "nothing else is stored");
            stored_at.write_slice(&vec![0; length], target_offset).expect("target");
        }
        let mover = GuestMover::new();
        let mut snapshot = vec![0; length];
        mover.snapshot(source.as_slice(), offset, &mut snapshot);
        prop_assert_eq!(&snapshot[..], &bytes[offset..offset + length]);
    }
}

#[test]
fn a_span_ends_where_its_region_ends() {
    let memory = memory();
    let translated = translated(&memory);
    for (address, length, inside) in [
        (0, 0x20_0000, true),
        (0, 0x20_0001, false),
        (0x1f_ffff, 1, true),
        (0x1f_ffff, 2, false),
        (0x20_0000, 1, false),
        (0xffff_ffff, 2, false),
        (0x1_0000_0000, 0x10_0000, true),
        (0x1_0010_0000, 1, false),
        (u64::MAX, 2, false),
        (0x10_0000, usize::MAX, false),
    ] {
        let span = translated.span(address, length);
        assert_eq!(span.is_some(), inside, "{length} bytes at {address:#x}");
    }
    let longest = |address, length| translated.longest_span(address, length).map(|s| s.len());
    assert_eq!(longest(0x1f_0000, 0x20_0000), Some(0x1_0000));
    assert_eq!(longest(0x20_0000, 1), None);
    assert_eq!(longest(u64::MAX, usize::MAX), None);
}

#[test]
fn accesses_beyond_a_span_touch_nothing() {
    let access = |inside: bool, action: &dyn Fn()| {
        // Debug builds panic at the caller's mistake.
        let quiet = std::panic::catch_unwind(std::panic::AssertUnwindSafe(action)).is_ok();
        assert!(quiet == inside || !cfg!(debug_assertions));
    };
    let (mut own, mut other) = ([7; 16], [9; 16]);
    {
        let (span, target) = (Span::own(&mut own), Span::own(&mut other));
        let put = |offset, inside| access(inside, &|| span.write(offset, &[1; 4]));
        for (offset, inside) in [(12, true), (13, false), (16, false), (usize::MAX, false)] {
            put(offset, inside);
            let mut sum = Checksum::default();
            let copy = std::cell::RefCell::new(&mut sum);
            access(inside, &|| {
                span.copy(offset, &target, 0, 4, &mut copy.borrow_mut());
            });
            access(inside, &|| {
                span.copy(0, &target, offset, 4, &mut copy.borrow_mut());
            });
        }
    }
    assert_eq!(own, [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 1, 1, 1, 1]);
    assert_eq!(other, [1, 1, 1, 1, 9, 9, 9, 9, 9, 9, 9, 9, 7, 7, 7, 7]);
}
