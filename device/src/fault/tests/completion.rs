use super::*;

/// Heads of the chains in the used ring; the frames take 1, 1, 2, 2 and 2 chains.
fn heads(bench: &Bench) -> Vec<u32> {
    bench
        .ring
        .elements
        .iter()
        .map(|element| element.id)
        .collect()
}

action_tests! {
    "descriptor-error" => fn descriptor_error_returns_a_chain_unused() {
        let bench = struck(Action::Completion(CompletionFault::DescriptorError));
        assert_eq!(bench.seen(), instead(|_| vec![]));
        assert_eq!(heads(&bench), [0, 1, 2, 3, 4, 5, 6]);
        let empty: Vec<_> = bench.ring.elements.iter().filter(|one| one.length == 0).map(|one| one.id).collect();
        assert_eq!(empty, [2]);
        assert_eq!((bench.lane.dropped(), bench.delivered.dropped), (1, 1));
    }

    "bad-used-id" => fn bad_used_id_names_a_descriptor_that_is_not_there() {
        let mut bench = struck(Action::Completion(CompletionFault::BadUsedId { beyond: 5 }));
        assert_eq!(bench.seen(), instead(|_| vec![]));
        assert_eq!(heads(&bench), [0, 1, 1024 + 5, 4, 5, 6, 7]);
        assert_eq!(bench.lane.stop(&mut bench.ring), 2, "the chains themselves are returned at the stop");
        assert_eq!(heads(&bench)[7..], [2, 3]);
    }

    "duplicate-completion" => fn duplicate_completion_returns_a_chain_twice() {
        let bench = struck(Action::Completion(CompletionFault::Duplicate));
        assert_eq!(bench.seen(), clean(SPLIT));
        assert_eq!(heads(&bench), [0, 1, 2, 3, 3, 4, 5, 6, 7]);
        assert!(bench.lane.is_idle());
    }

    "withhold-completion" => fn withheld_completions_are_returned_later() {
        let bench = struck(Action::Completion(CompletionFault::Withhold { frames: Some(n32(1)) }));
        let clean = clean(SPLIT);
        let order = [0, 1, 3, 2, 4].map(|index: usize| clean[index].clone());
        assert_eq!(bench.seen(), order);
        assert_eq!(heads(&bench), [0, 1, 4, 5, 2, 3, 6, 7]);

        let mut bench = struck(Action::Completion(CompletionFault::Withhold { frames: None }));
        assert_eq!(bench.seen(), instead(|_| vec![]));
        assert_eq!((bench.lane.withheld(), bench.lane.stop(&mut bench.ring)), (2, 2));
        assert_eq!(heads(&bench), [0, 1, 4, 5, 6, 7, 2, 3]);
    }
}

#[test]
fn those_that_break_the_order_void_recovery() {
    let voids: Vec<_> = ACTIONS
        .iter()
        .filter(|info| info.voids_recovery)
        .map(|info| info.name)
        .collect();
    assert_eq!(
        voids,
        [
            "bad-used-id",
            "duplicate-completion",
            "withhold-completion",
            "command-timeout"
        ]
    );
}

#[test]
fn removing_the_rule_returns_withheld_chains() {
    for frames in [None, Some(n32(100))] {
        let mut bench = struck(Action::Completion(CompletionFault::Withhold { frames }));
        bench.release();
        assert_eq!(heads(&bench).len(), 6);
        bench.engine.clear();
        bench.release();
        assert_eq!(heads(&bench), [0, 1, 4, 5, 6, 7, 2, 3]);
    }
}
