use super::*;
use crate::fault::lane::Lane;
use proptest::prelude::*;

fn chance(seed: u64, direction: Direction, action: Action) -> Rule {
    Rule {
        seed,
        ..rule(
            direction,
            When::Probability(Probability::new(0.2).expect("a chance")),
            action,
        )
    }
}

/// One rule for each action that frames can meet on `direction`.
fn all(seed: u64, direction: Direction) -> Vec<Rule> {
    use crate::fault::metadata::WrongVerdict;
    let actions = [
        Action::Frame(FrameFault::Drop),
        Action::Frame(FrameFault::Duplicate { copies: n32(1) }),
        Action::Frame(FrameFault::Delay { nanoseconds: 50 }),
        Action::Frame(FrameFault::Reorder { by: n32(2) }),
        Action::Frame(FrameFault::Corrupt { bit: None }),
        Action::Frame(FrameFault::Truncate { length: 80 }),
        Action::Placement(PlacementFault::ShortBuffer { bytes: 3 }),
        Action::Placement(PlacementFault::SplitMissed),
        Action::Placement(PlacementFault::SplitWrong { at: 60 }),
        Action::Placement(PlacementFault::PayloadInHeader),
        Action::Placement(PlacementFault::WrongQueue { queue: 1 }),
        Action::Metadata(MetadataFault::WrongHash { value: None }),
        Action::Metadata(MetadataFault::WrongChecksum {
            verdict: WrongVerdict::Inverted,
        }),
        Action::Completion(CompletionFault::DescriptorError),
        Action::Completion(CompletionFault::BadUsedId { beyond: 1 }),
        Action::Completion(CompletionFault::Duplicate),
        Action::Completion(CompletionFault::Withhold {
            frames: Some(n32(2)),
        }),
        Action::Queue(QueueFault::Stall {
            nanoseconds: Some(70),
        }),
        Action::Queue(QueueFault::Interrupt(InterruptFault::Lost)),
        Action::Queue(QueueFault::Interrupt(InterruptFault::Spurious)),
        Action::Port(PortFault::LinkFlap { nanoseconds: 1000 }),
        Action::Port(PortFault::DeviceReset),
        Action::Port(PortFault::Disconnect),
    ];
    let frames = |info: &ActionInfo| info.directions != [Direction::Command];
    let wanted: Vec<_> = ACTIONS.into_iter().filter(frames).collect();
    assert_eq!(actions.map(Action::info).to_vec(), wanted);
    actions
        .into_iter()
        .filter(|action| action.info().directions.contains(&direction))
        .enumerate()
        .map(|(stream, action)| Rule {
            stream: stream as u32,
            ..chance(seed, direction, action)
        })
        .collect()
}

/// The observable results of a run: hits, the used ring, and bytes in buffers.
type Trace = (Vec<Hit>, Vec<UsedElement>, Vec<(u32, Vec<Vec<u8>>)>);

fn run(rule: Rule) -> Trace {
    let mut bench = Bench::new(SPLIT, vec![rule]);
    for frame in frames().iter().cycle().take(30) {
        bench.ring.post(2, &[256, 2048]);
        bench.send(frame);
        bench.now += 10;
        bench.release();
    }
    (bench.effects.hits, bench.ring.elements, bench.ring.used)
}

#[test]
fn every_action_replays_from_its_seed() {
    for rule in all(99, Direction::Receive) {
        let name = rule.action.name();
        let first = run(rule.clone());
        assert!(!first.0.is_empty(), "{name} hits");
        assert!(first == run(rule.clone()), "{name} again");
        let other = run(Rule { seed: 98, ..rule });
        assert!(first.0 != other.0, "{name} with another seed");
    }
}

#[test]
fn every_command_action_replays_from_its_seed() {
    for action in [
        CommandFault::Error {
            status: crate::abi::Status::Busy,
            detail: 0,
        },
        CommandFault::Timeout {
            executed: false,
            nanoseconds: None,
        },
    ] {
        let run = |seed| {
            let mut engine = Engine::default();
            let rule = chance(seed, Direction::Command, Action::Command(action));
            engine.add(vec![rule], || RuleId(7)).expect("a rule");
            let armed = engine.armed(Direction::Command).expect("armed");
            let mut lane = Lane::new(Direction::Command, 0, &Budget::default());
            let mut effects = Effects::default();
            for _ in 0..100 {
                lane.command(&armed, &[], &mut effects);
            }
            effects.hits
        };
        assert!(run(5) == run(5) && run(5) != run(6) && !run(5).is_empty());
    }
}

/// The lanes of two queues, and an order in which frames reach them.
fn interleaved(order: &[bool], rules: &[Rule]) -> [Vec<Hit>; 2] {
    let mut engine = Engine::default();
    let mut next = 0;
    engine
        .add(rules.to_vec(), || {
            next += 1;
            RuleId(next)
        })
        .expect("rules");
    let armed = engine.armed(Direction::Transmit).expect("armed");
    let mut lanes = [0, 1].map(|queue| Lane::new(Direction::Transmit, queue, &Budget::default()));
    let mut hits = [vec![], vec![]];
    for &second in order {
        let mut effects = Effects::default();
        let at = usize::from(second);
        lanes[at].send(&armed, &VecMover, &finished(&tcp4(&[])), 0, &mut effects);
        hits[at].extend(effects.hits);
    }
    hits
}

proptest! {
    /// The faults of a queue depend on its own frames only, not on how frames of other queues
    /// interleave.
    #[test]
    fn queues_do_not_disturb_each_other(
        order in proptest::collection::vec(any::<bool>(), 1..60),
        seed: u64,
    ) {
        let mut rules = all(seed, Direction::Transmit);
        rules[0].times = Some(n64(2));
        rules[1].enter = Some("b".into());
        rules[2].state = Some("b".into());
        let mut sorted = order.clone();
        sorted.sort_unstable();
        prop_assert_eq!(interleaved(&order, &rules), interleaved(&sorted, &rules));
    }
}
