//! Tests of every action: its effect, and that it has no other effect.

mod bounds;
mod completion;
mod fate;
mod frame;
mod metadata;
mod placement;
mod queue;
mod replay;
mod rules;
mod transmit;

use std::num::{NonZeroU32, NonZeroU64};

use zerocopy::FromBytes;

use super::{receive::*, *};
use crate::{
    abi::{self, HashType, RxHeader},
    budget::Budget,
    features::FeatureSet,
    flow::FlowPattern,
    receive::{Annotation, Delivered, Layout, MAX_CHAINS, RX_HEADER, ReceiveQueue},
    rss::Hash,
    testing::{self, VecMover, VecRing, pattern, tcp4},
    train::{finish, finished},
};

/// Actions that have a test of their own, checked against [`ACTIONS`].
const TESTED: &[&[&str]] = &[
    completion::TESTED,
    frame::TESTED,
    metadata::TESTED,
    placement::TESTED,
    queue::TESTED,
    transmit::TESTED,
];

/// Makes tests of actions and the list of their names.
macro_rules! action_tests {
    ($($action:literal => fn $name:ident() $body:block)*) => {
        pub(super) const TESTED: &[&str] = &[$($action),*];
        /// `cargo xtask test faults` selects tests by this name.
        mod faults {
            use super::*;
            $(
                #[test]
                fn $name() $body
            )*
        }
    };
}
use action_tests;

const SPLIT: Layout = Layout::Split {
    header_size: 256,
    page_size: 2048,
    threshold: 0,
    l4_only: true,
};

const QUEUE: u16 = 3;

const NOTE: Annotation = Annotation {
    queue: QUEUE,
    hash: Some(Hash {
        value: 0x1234_5678,
        kind: HashType::Tcp4,
    }),
    offloads: FeatureSet::PLAIN,
    ..testing::NOTE
};

pub(super) fn n32(value: u32) -> NonZeroU32 {
    NonZeroU32::new(value).expect("not zero")
}

pub(super) fn n64(value: u64) -> NonZeroU64 {
    NonZeroU64::new(value).expect("not zero")
}

/// A rule that hits the third frame of each receive queue.
fn third(action: Action) -> Rule {
    rule(Direction::Receive, When::Nth(n64(3)), action)
}

fn rule(direction: Direction, when: When, action: Action) -> Rule {
    Rule {
        direction,
        queue: None,
        flow: FlowPattern::default(),
        opcode: None,
        state: None,
        when,
        seed: 0,
        stream: 0,
        times: None,
        action,
        enter: None,
    }
}

/// A frame as the driver receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    frame: Vec<u8>,
    /// Bytes in header fragments.
    header_length: usize,
    flags: u16,
    hash: u32,
    hash_type: u8,
    queue: u16,
    chains: usize,
    /// Bytes missing from the used lengths, compared with the receive headers.
    missing: usize,
}

/// A receive queue with rules.
struct Bench {
    queue: ReceiveQueue,
    ring: VecRing,
    lane: Lane,
    engine: Engine,
    next_rule: u64,
    now: u64,
    effects: Effects,
    delivered: Delivered,
    fates: Vec<SegmentFate>,
}

impl Bench {
    fn new(layout: Layout, rules: Vec<Rule>) -> Self {
        let mut bench = Self {
            queue: ReceiveQueue::default(),
            ring: VecRing::default(),
            lane: Lane::new(Direction::Receive, QUEUE, &Budget::default()),
            engine: Engine::default(),
            next_rule: 1,
            now: 1_000_000,
            effects: Effects::default(),
            delivered: Delivered::default(),
            fates: Vec::new(),
        };
        bench.queue.start(layout, MAX_CHAINS);
        let lengths: &[usize] = match layout {
            Layout::Split { .. } => &[256, 2048],
            _ => &[2048],
        };
        bench.ring.post(64, lengths);
        bench.add(rules);
        bench
    }

    fn add(&mut self, rules: Vec<Rule>) -> Vec<RuleId> {
        let next = || {
            self.next_rule += 1;
            RuleId(self.next_rule)
        };
        self.engine.add(rules, next).expect("the rules make sense")
    }

    fn with<T>(&mut self, action: impl FnOnce(&mut FaultyQueue<'_, VecMover, VecRing>) -> T) -> T {
        let armed = self.engine.armed(Direction::Receive);
        action(&mut FaultyQueue {
            queue: &mut self.queue,
            lane: &mut self.lane,
            armed: armed.as_ref(),
            mover: &VecMover,
            ring: &mut self.ring,
            now: self.now,
            effects: &mut self.effects,
            fates: Some(&mut self.fates),
        })
    }

    fn send(&mut self, frame: &[u8]) -> Delivered {
        let now = self
            .with(|queue| queue.deliver(&finished(frame), &mut Progress::default(), &NOTE, false));
        self.delivered.frames += now.frames;
        self.delivered.dropped += now.dropped;
        now
    }

    fn release(&mut self) -> Delivered {
        self.with(|queue| queue.release(&NOTE))
    }

    fn seen(&self) -> Vec<Seen> {
        seen(&self.ring.used)
    }
}

/// Reads the frames that the driver received.
fn seen(used: &[(u32, Vec<Vec<u8>>)]) -> Vec<Seen> {
    let mut frames = Vec::new();
    let mut parts: Option<Seen> = None;
    for (length, descriptors) in used.iter().filter(|(length, _)| *length > 0) {
        let (header, rest) = RxHeader::read_from_prefix(&descriptors[0]).expect("64 bytes");
        let header_length = header.header_length.get() as usize;
        let payload_length = header.payload_length.get() as usize;
        let flags = header.flags.get();
        assert_eq!(flags & abi::RX_FIRST != 0, parts.is_none());
        let seen = parts.get_or_insert_with(|| Seen {
            frame: Vec::new(),
            header_length: 0,
            flags: flags & !(abi::RX_FIRST | abi::RX_LAST),
            hash: header.hash.get(),
            hash_type: header.hash_type,
            queue: header.queue.get(),
            chains: 0,
            missing: 0,
        });
        seen.frame.extend(&rest[..header_length]);
        if payload_length > 0 {
            seen.frame.extend(&descriptors[1][..payload_length]);
        }
        seen.header_length += header_length;
        seen.chains += 1;
        seen.missing += RX_HEADER + header_length + payload_length - *length as usize;
        if flags & abi::RX_LAST != 0 {
            frames.extend(parts.take());
        }
    }
    assert_eq!(parts, None, "the last frame is whole");
    frames
}

/// Five distinguishable frames, of one and of several chains.
fn frames() -> Vec<Vec<u8>> {
    (0..5)
        .map(|number| {
            let mut payload = pattern(1000 + 700 * usize::from(number));
            payload[0] = number;
            tcp4(&payload)
        })
        .collect()
}

/// The driver's view of [`frames`] without any rule.
fn clean(layout: Layout) -> Vec<Seen> {
    let mut bench = Bench::new(layout, vec![]);
    for frame in frames() {
        bench.send(&frame);
    }
    assert!(bench.effects.hits.is_empty());
    let seen = bench.seen();
    assert_eq!(seen.len(), 5);
    seen
}

/// Sends [`frames`] past one rule that hits the third of them.
fn struck(action: Action) -> Bench {
    struck_on(SPLIT, action)
}

fn struck_on(layout: Layout, action: Action) -> Bench {
    let mut bench = Bench::new(layout, vec![third(action)]);
    for frame in frames() {
        bench.send(&frame);
    }
    let hits: Vec<_> = bench
        .effects
        .hits
        .iter()
        .map(|hit| (hit.count, hit.hit, hit.action))
        .collect();
    assert_eq!(hits, [(3, 1, action.name())], "the third frame, once");
    let status: Vec<_> = bench
        .engine
        .list()
        .map(|rule| (rule.seen, rule.hits))
        .collect();
    assert_eq!(status, [(5, 1)]);
    bench
}

/// The clean frames with the third one replaced.
fn instead(third: impl FnOnce(Seen) -> Vec<Seen>) -> Vec<Seen> {
    let mut frames = clean(SPLIT);
    let changed = third(frames[2].clone());
    frames.splice(2..3, changed);
    frames
}

#[test]
fn every_action_is_tested() {
    let mut tested: Vec<_> = TESTED.concat();
    tested.sort_unstable();
    let mut there: Vec<_> = ACTIONS.iter().map(|info| info.name).collect();
    there.sort_unstable();
    tested.dedup();
    assert_eq!(tested, there);
}
