use proptest::prelude::*;

use super::*;

fn range(address: u64, length: u32) -> GuestRange {
    GuestRange { address, length }
}

fn full() -> Ledger {
    with(Settings {
        mode: Mode::Full,
        ..Settings::default()
    })
}

fn with(settings: Settings) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.configure(settings);
    ledger
}

const A: GuestRange = GuestRange {
    address: 0x1000,
    length: 256,
};
const B: GuestRange = GuestRange {
    address: 0x8000,
    length: 4096,
};

#[test]
fn a_buffer_goes_round() {
    let mut ledger = full();
    ledger.posted(0, Some(&[A, B]), 10);
    ledger.posted(1, Some(&[range(0x2000, 256)]), 11);
    ledger.returned(0, 100, 20);
    assert_eq!(ledger.statistics().out, 2);
    ledger.posted(2, Some(&[range(0x3000, 256)]), 25);
    ledger.posted(0, Some(&[B]), 30);
    ledger.returned(0, 0, 40);
    let event = |time, head, transfer| BufferEvent {
        time,
        head,
        transfer,
    };
    let history = ledger.history(0x8fff).expect("known");
    assert_eq!(
        history,
        (
            B,
            vec![
                event(10, 0, Transfer::Posted),
                event(20, 0, Transfer::Filled),
                event(30, 0, Transfer::Posted),
                event(40, 0, Transfer::Unused),
            ]
        )
    );
    assert_eq!(ledger.history(0x9000), None);
    let statistics = *ledger.statistics();
    assert_eq!(
        (statistics.posted, statistics.filled, statistics.unused),
        (4, 1, 1)
    );
    assert_eq!(
        (statistics.with_device, statistics.with_device_most),
        (2, 3)
    );
    assert_eq!(
        (statistics.out, statistics.out_most),
        (1, 2),
        "A is still out"
    );
    assert_eq!(statistics.held.iter().collect::<Vec<_>>(), [(8, 1)]);
    assert_eq!(
        statistics.distance.iter().collect::<Vec<_>>(),
        [(1, 1)],
        "one other in between"
    );
    ledger.returned(1, 5, 50);
    ledger.returned(2, 5, 50);
    let report = ledger.stop(60);
    assert!(report.is_clean());
    assert_eq!((report.posted, report.returned, report.out), (4, 4, 3));
    assert_eq!(ledger.take_violations(), []);
}

#[test]
fn violations_are_named() {
    let mut ledger = full();
    ledger.posted(0, Some(&[A]), 0);
    ledger.posted(1, Some(&[A]), 0);
    ledger.posted(2, Some(&[range(0x10ff, 2)]), 0);
    ledger.posted(3, Some(&[range(0xf00, 0x1000)]), 0);
    ledger.posted(4, None, 0);
    ledger.posted(0, Some(&[B]), 0);
    ledger.returned(9, 1, 0);
    ledger.written(B, 0, 77);
    let named: Vec<_> = ledger.take_violations();
    assert_eq!(
        named,
        [
            Violation::PostedTwice {
                range: A,
                head: 1,
                other: 0
            },
            Violation::Overlap {
                range: range(0x10ff, 2),
                head: 2,
                with: A,
                other: 0
            },
            Violation::Overlap {
                range: range(0xf00, 0x1000),
                head: 3,
                with: A,
                other: 0
            },
            Violation::Unusable { head: 4 },
            Violation::ChainPostedTwice { head: 0 },
            Violation::NotPosted { head: 9 },
            Violation::Written {
                range: B,
                head: 0,
                offset: 77
            },
        ]
    );
    assert_eq!(
        named[0].to_string(),
        "256 bytes at 0x1000 posted with chain 1 while still posted with chain 0"
    );
    let report = ledger.stop(0);
    assert!(!report.is_clean());
    let left: Vec<_> = ledger
        .take_violations()
        .iter()
        .map(Violation::name)
        .collect();
    assert_eq!(
        left,
        [
            "not-returned",
            "not-returned",
            "not-returned",
            "not-returned",
            "not-returned",
            "count"
        ]
    );
    // The next period has its own balance.
    ledger.posted(0, Some(&[A]), 0);
    ledger.returned(0, 0, 0);
    assert!(ledger.stop(0).is_clean());
}

#[test]
fn neighbours_do_not_overlap() {
    let mut ledger = full();
    for (head, address) in [0x1000, 0x1100, 0xf00].into_iter().enumerate() {
        ledger.posted(head as u16, Some(&[range(address, 0x100)]), 0);
    }
    assert_eq!(ledger.take_violations(), []);
}

#[test]
fn overdue_buffers_are_reported_once() {
    let mut ledger = with(Settings {
        mode: Mode::Full,
        overdue: Some(100),
        ..Settings::default()
    });
    ledger.posted(0, Some(&[A]), 0);
    ledger.posted(1, Some(&[B]), 0);
    ledger.returned(0, 64, 10);
    ledger.returned(1, 0, 10);
    ledger.check_overdue(110);
    assert_eq!(ledger.take_violations(), []);
    ledger.check_overdue(111);
    ledger.check_overdue(1000);
    assert_eq!(
        ledger.take_violations(),
        [Violation::Overdue {
            range: A,
            since: 10
        }],
        "B was unused"
    );
    ledger.posted(0, Some(&[A]), 1000);
    ledger.returned(0, 64, 1000);
    ledger.check_overdue(2000);
    assert_eq!(
        ledger.take_violations().len(),
        1,
        "and again after it was used again"
    );
}

#[test]
fn counting_mode_keeps_counts_only() {
    let mut ledger = with(Settings {
        mode: Mode::Counting,
        ..Settings::default()
    });
    for head in 0..5 {
        ledger.posted(head, Some(&[A]), 0);
    }
    for _ in 0..4 {
        ledger.returned(0, 1, 0);
    }
    assert_eq!(ledger.history(A.address), None);
    assert_eq!(ledger.statistics().with_device, 1);
    assert!(!ledger.stop(0).is_clean());
    assert_eq!(
        ledger.take_violations(),
        [Violation::Count {
            posted: 5,
            returned: 4
        }]
    );
    ledger.returned(0, 0, 0);
    assert_eq!(ledger.take_violations(), [Violation::NotPosted { head: 0 }]);
}

#[test]
fn mode_off_records_nothing() {
    let mut ledger = Ledger::default();
    ledger.posted(0, None, 0);
    ledger.returned(3, 1, 0);
    assert!(ledger.stop(0).is_clean());
    assert_eq!(*ledger.statistics(), Statistics::default());
}

#[test]
fn ledgers_of_a_port_share_a_budget() {
    let budget = Budget::new(10 * RECORD_COST);
    let mut ledgers = [0, 1].map(|_| {
        let mut ledger = Ledger::charged_to(&budget);
        ledger.configure(full().settings());
        ledger
    });
    let [one, other] = &mut ledgers;
    // Chains of many buffers that the device keeps.
    let many = |from: u64| {
        (from..from + 8)
            .map(|n| range(n * 4096, 4096))
            .collect::<Vec<_>>()
    };
    one.posted(0, Some(&many(0)), 1);
    other.posted(0, Some(&many(0)), 1);
    assert_eq!((one.buffers(0).count(), other.buffers(0).count()), (8, 2));
    assert_eq!(other.statistics().forgotten, 6);
    // A buffer that is not watched violates nothing, and its chain is returned as any other.
    other.posted(1, Some(&many(2)), 2);
    other.returned(0, 1, 3);
    other.returned(1, 1, 4);
    assert_eq!(other.take_violations(), []);
    // The oldest buffers of the driver make room for others of the same ledger only.
    other.posted(2, Some(&many(100)), 5);
    assert_eq!((one.buffers(0).count(), other.buffers(0).count()), (8, 2));
    assert!(other.history(100 * 4096).is_some() && other.history(0).is_none());
    one.configure(Settings::default());
    assert_eq!(budget.used(), 2 * RECORD_COST);
}

#[test]
fn memory_is_bounded() {
    let mut ledger = full();
    for number in 0..MAX_BUFFERS as u64 + 10 {
        ledger.posted(0, Some(&[range(number * 4096, 4096)]), number);
        ledger.returned(0, 1, number);
    }
    let statistics = ledger.statistics();
    assert_eq!(
        (statistics.forgotten, statistics.out),
        (10, MAX_BUFFERS as u64)
    );
    assert!(ledger.history(0).is_none() && ledger.history(10 * 4096).is_some());
    for _ in 0..MAX_VIOLATIONS + 10 {
        ledger.returned(5, 0, 0);
    }
    assert_eq!(ledger.take_violations().len(), MAX_VIOLATIONS);
    assert_eq!(ledger.statistics().violations, MAX_VIOLATIONS as u64 + 10);
    for time in 0..100 {
        ledger.posted(0, Some(&[A]), time);
        ledger.returned(0, 0, time);
    }
    assert_eq!(
        ledger.history(A.address).map(|(_, events)| events.len()),
        Some(HISTORY)
    );
}

/// Steps of a driver and a device with a ring of 8 chains and a pool of 16 buffers.
#[derive(Clone, Debug)]
enum Step {
    Post { head: u16, buffer: u64 },
    Return { head: u16, filled: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..8_u16, 0..16_u64).prop_map(|(head, buffer)| Step::Post { head, buffer }),
        (0..8_u16, any::<bool>()).prop_map(|(head, filled)| Step::Return { head, filled }),
    ];
    proptest::collection::vec(step, 0..200)
}

proptest! {
    /// Compares the ledger with a model that tracks the owner of each buffer and chain. Honest
    /// steps cause no violation, each dishonest step causes one.
    #[test]
    fn the_ledger_agrees_with_a_simple_model(steps in steps(), honest: bool) {
        let mut ledger = full();
        let mut chains: BTreeMap<u16, u64> = BTreeMap::new();
        let mut owner: BTreeMap<u64, u16> = BTreeMap::new();
        let mut expected = Vec::new();
        let (mut posted, mut returned) = (0, 0);
        for (time, step) in steps.into_iter().enumerate() {
            let time = time as u64;
            match step {
                Step::Post { head, buffer } => {
                    if honest && (chains.contains_key(&head) || owner.contains_key(&buffer)) {
                        continue;
                    }
                    let this = range(buffer * 4096, 4096);
                    if let Some(lost) = chains.remove(&head) {
                        expected.push(Violation::ChainPostedTwice { head });
                        if owner.get(&lost) == Some(&head) {
                            owner.remove(&lost);
                        }
                    }
                    match owner.get(&buffer) {
                        Some(&other) => expected.push(Violation::PostedTwice { range: this, head, other }),
                        None => {
                            owner.insert(buffer, head);
                        }
                    }
                    chains.insert(head, buffer);
                    posted += 1;
                    ledger.posted(head, Some(&[this]), time);
                }
                Step::Return { head, filled } => {
                    match chains.remove(&head) {
                        None if honest => continue,
                        None => expected.push(Violation::NotPosted { head }),
                        Some(buffer) => {
                            returned += 1;
                            if owner.get(&buffer) == Some(&head) {
                                owner.remove(&buffer);
                            }
                        }
                    }
                    ledger.returned(head, u32::from(filled), time);
                }
            }
            prop_assert_eq!(ledger.take_violations(), std::mem::take(&mut expected));
        }
        prop_assert_eq!(ledger.statistics().posted, posted);
        prop_assert_eq!(ledger.statistics().filled + ledger.statistics().unused, returned);
        if honest {
            for head in chains.into_keys() {
                ledger.returned(head, 0, 1000);
            }
            prop_assert!(ledger.stop(1000).is_clean());
            prop_assert_eq!(ledger.take_violations(), []);
        }
    }

    /// Bytes are never owned twice and nothing overflows, for any posted range.
    #[test]
    fn any_memory_can_be_posted(
        posts in proptest::collection::vec((0..6_u16, any::<u64>(), any::<u32>(), 0..3_u8), 0..100)
    ) {
        let mut ledger = full();
        for (time, (head, address, length, kind)) in posts.into_iter().enumerate() {
            let time = time as u64;
            match kind {
                0 => ledger.posted(head, Some(&[range(address, length)]), time),
                1 => ledger.posted(head, Some(&[range(address % 5000, length % 3000)]), time),
                _ => ledger.returned(head, length % 2, time),
            }
            let mut end = 0;
            for (&start, &(until, _)) in &ledger.owned {
                prop_assert!(start >= end);
                end = until;
            }
        }
        ledger.stop(1000);
    }
}
