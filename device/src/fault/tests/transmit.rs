use super::*;
use crate::{
    abi::{Opcode, Status},
    fault::transmit::Sent,
    testing::udp6,
    transmit::{Snapshot, TransmitFormat, parse},
};
use zerocopy::IntoBytes;

action_tests! {
    "command-error" => fn command_error_answers_instead_of_executing() {
        let fault = CommandFault::Error { status: Status::NoSpace, detail: 9 };
        assert_eq!(commands(fault, None), [None, None, Some(fault), None]);
        // Only the third of the selected commands.
        assert_eq!(commands(fault, Some(Opcode::RuleSet)), [None, None, None, Some(fault)]);
    }

    "command-timeout" => fn command_timeout_holds_the_answer_back() {
        let fault = CommandFault::Timeout { executed: true, nanoseconds: Some(50) };
        assert_eq!(commands(fault, None), [None, None, Some(fault), None]);
        let (mut lane, engine) = lane(Direction::Command, Action::Command(fault), None);
        let armed = engine.armed(Direction::Command).expect("a rule");
        let mut ring = VecRing::default();
        ring.post(2, &[64]);
        let mut effects = Effects::default();
        let mut strike = None;
        for _ in 0..3 {
            strike = lane.command(&armed, &request(Opcode::Stats), &mut effects);
        }
        lane.hold_answer(&mut ring, 20, strike.expect("the third"), Some(50), 100);
        ring.commit_one(8);
        lane.return_due(&mut ring, Some(&armed), 149);
        assert_eq!(ids(&ring), [(1, 8)]);
        lane.return_due(&mut ring, Some(&armed), 150);
        assert_eq!(ids(&ring), [(1, 8), (0, 20)]);
    }
}

impl VecRing {
    fn commit_one(&mut self, length: u32) {
        use crate::memory::ReceiveRing;
        assert!(self.reserve());
        self.commit(&[length]);
    }
}

fn ids(ring: &VecRing) -> Vec<(u32, u32)> {
    ring.elements
        .iter()
        .map(|one| (one.id, one.length))
        .collect()
}

fn request(opcode: Opcode) -> Vec<u8> {
    abi::Request {
        magic: abi::MAGIC.into(),
        opcode: u16::from(opcode).into(),
        ..Default::default()
    }
    .as_bytes()
    .to_vec()
}

fn lane(direction: Direction, action: Action, opcode: Option<Opcode>) -> (Lane, Engine) {
    let rule = Rule {
        direction,
        opcode,
        ..third(action)
    };
    let mut engine = Engine::default();
    engine.add(vec![rule], || RuleId(1)).expect("a rule");
    (Lane::new(direction, 0, &Budget::default()), engine)
}

/// The faults of four commands, two of them RULE_SET; a rule for RULE_SET hits the second of these.
fn commands(fault: CommandFault, opcode: Option<Opcode>) -> Vec<Option<CommandFault>> {
    let (mut lane, mut engine) = lane(Direction::Command, Action::Command(fault), opcode);
    if opcode.is_some() {
        let rules = vec![Rule {
            direction: Direction::Command,
            opcode,
            when: When::Nth(n64(2)),
            ..third(Action::Command(fault))
        }];
        engine.clear();
        engine.add(rules, || RuleId(2)).expect("a rule");
    }
    let armed = engine.armed(Direction::Command).expect("a rule");
    [
        Opcode::RxMode,
        Opcode::RuleSet,
        Opcode::Stats,
        Opcode::RuleSet,
    ]
    .into_iter()
    .map(|opcode| {
        let strike = lane.command(&armed, &request(opcode), &mut Effects::default());
        strike.map(|strike| strike.fault)
    })
    .collect()
}

/// Sends five frames past a rule for the third; returns the frames on the wire and the completion
/// faults.
fn sent(action: Action, now: u64) -> (Lane, Engine, Vec<Sent>) {
    let (mut lane, engine) = lane(Direction::Transmit, action, None);
    let armed = engine.armed(Direction::Transmit).expect("a rule");
    let mut effects = Effects::default();
    let sent = frames()
        .iter()
        .map(|frame| lane.send(&armed, &VecMover, &finished(frame), now, &mut effects))
        .collect();
    assert_eq!(effects.hits.len(), 1);
    (lane, engine, sent)
}

fn wire(sent: &[Sent]) -> Vec<Vec<u8>> {
    let frames = frames();
    let as_is = |index: usize| vec![frames[index].clone()];
    sent.iter()
        .enumerate()
        .flat_map(|(index, sent)| match &sent.frames {
            None => as_is(index),
            Some(instead) => instead.iter().map(|frame| frame.bytes().to_vec()).collect(),
        })
        .collect()
}

fn order(indices: &[usize]) -> Vec<Vec<u8>> {
    let frames = frames();
    indices.iter().map(|&index| frames[index].clone()).collect()
}

#[test]
fn frames_are_lost_doubled_and_reordered_on_the_wire() {
    for (fault, expected) in [
        (FrameFault::Drop, order(&[0, 1, 3, 4])),
        (
            FrameFault::Duplicate { copies: n32(1) },
            order(&[0, 1, 2, 2, 3, 4]),
        ),
        (FrameFault::Reorder { by: n32(2) }, order(&[0, 1, 3, 4, 2])),
        (FrameFault::Delay { nanoseconds: 7 }, order(&[0, 1, 3, 4])),
    ] {
        let (_, _, sent) = sent(Action::Frame(fault), 0);
        assert_eq!(wire(&sent), expected, "{fault:?}");
        assert!(sent.iter().all(|sent| sent.completion.is_none()));
        assert!(
            sent[..2].iter().all(|sent| sent.frames.is_none()),
            "others stay trains"
        );
    }
}

#[test]
fn frames_are_damaged_on_the_wire() {
    let (_, _, sent_) = sent(Action::Frame(FrameFault::Corrupt { bit: Some(0) }), 0);
    let mut expected = order(&[0, 1, 2, 3, 4]);
    expected[2][0] ^= 0x80;
    assert_eq!(wire(&sent_), expected);
    let (_, _, sent_) = sent(Action::Frame(FrameFault::Truncate { length: 60 }), 0);
    let mut expected = order(&[0, 1, 2, 3, 4]);
    expected[2].truncate(60);
    assert_eq!(wire(&sent_), expected);
}

#[test]
fn delayed_frames_are_sent_in_time() {
    let (mut lane, engine, _) = sent(Action::Frame(FrameFault::Delay { nanoseconds: 7 }), 100);
    let armed = engine.armed(Direction::Transmit);
    assert_eq!(lane.next_deadline(armed.as_ref()), Some(107));
    assert!(lane.take_due(armed.as_ref(), 106).is_empty());
    let due = lane.take_due(armed.as_ref(), 107);
    assert_eq!(
        due.iter()
            .map(|frame| frame.bytes().to_vec())
            .collect::<Vec<_>>(),
        order(&[2])
    );
}

#[test]
fn completion_faults_apply_to_transmit_chains() {
    for (fault, expected) in [
        (CompletionFault::DescriptorError, vec![0, 1, 2, 3, 4]),
        (
            CompletionFault::BadUsedId { beyond: 0 },
            vec![0, 1, 1024, 3, 4],
        ),
        (CompletionFault::Duplicate, vec![0, 1, 2, 2, 3, 4]),
        (CompletionFault::Withhold { frames: None }, vec![0, 1, 3, 4]),
        (
            CompletionFault::Withhold {
                frames: Some(n32(1)),
            },
            vec![0, 1, 3, 2, 4],
        ),
    ] {
        let (mut lane, engine) = lane(Direction::Transmit, Action::Completion(fault), None);
        let armed = engine.armed(Direction::Transmit).expect("a rule");
        let mut ring = VecRing::default();
        ring.post(5, &[64]);
        let mut sent = Vec::new();
        for frame in frames() {
            let one = lane.send(
                &armed,
                &VecMover,
                &finished(&frame),
                0,
                &mut Effects::default(),
            );
            match one.completion {
                None => ring.commit_one(0),
                Some(fault) => lane.complete(&mut ring, 0, fault),
            }
            lane.return_due(&mut ring, Some(&armed), 0);
            sent.push(one);
        }
        let heads: Vec<_> = ring.elements.iter().map(|one| one.id).collect();
        assert_eq!(heads, expected, "{fault:?}");
        let lost = fault == CompletionFault::DescriptorError;
        assert_eq!(
            wire(&sent),
            if lost {
                order(&[0, 1, 3, 4])
            } else {
                order(&[0, 1, 2, 3, 4])
            }
        );
    }
}

#[test]
fn a_stalled_queue_sends_no_more() {
    let stall = Action::Queue(QueueFault::Stall {
        nanoseconds: Some(10),
    });
    let (mut lane, engine, sent) = sent(stall, 0);
    assert_eq!(wire(&sent), frames(), "taken chains are sent");
    let armed = engine.armed(Direction::Transmit);
    assert!(lane.is_stalled(armed.as_ref(), 9));
    assert!(!lane.is_stalled(armed.as_ref(), 10));
}

/// A train means its segments: the rule hits one of them, and the others are unchanged.
#[test]
fn a_fault_hits_one_segment_of_a_train() {
    let header = abi::TxHeader {
        flags: abi::TX_CSUM.into(),
        header_length: 62.into(),
        csum_start: 54.into(),
        csum_offset: 6.into(),
        gso_type: 3,
        gso_size: 300.into(),
        l3_offset: 14.into(),
        ..Default::default()
    };
    let mut frame = udp6(&pattern(1400));
    // The field should hold the pseudo-header sum; its value does not matter here.
    frame[60..62].copy_from_slice(&[0, 0]);
    let chain = [header.as_bytes(), &frame].concat();
    let mut snapshot = Snapshot::default();
    let train = parse(
        &VecMover,
        &chain[..],
        TransmitFormat::Zcnic,
        FeatureSet::ALL,
        &mut snapshot,
    )
    .expect("a train");
    assert_eq!(train.segments(), 5);
    let whole: Vec<_> = (0..5)
        .map(|index| finish(&VecMover, &train, index))
        .collect();

    let (mut lane, engine) = lane(Direction::Transmit, Action::Frame(FrameFault::Drop), None);
    let armed = engine.armed(Direction::Transmit).expect("a rule");
    let sent = lane.send(&armed, &VecMover, &train, 0, &mut Effects::default());
    let sent: Vec<_> = sent
        .frames
        .expect("frames")
        .into_iter()
        .map(|frame| frame.bytes().to_vec())
        .collect();
    assert_eq!(sent, [&whole[..2], &whole[3..]].concat());

    // On receive, the same frames are delivered as from the train.
    let mut bench = Bench::new(SPLIT, vec![third(Action::Frame(FrameFault::Drop))]);
    bench.with(|queue| queue.deliver(&train, &mut Progress::default(), &NOTE, false));
    let received: Vec<_> = bench.seen().into_iter().map(|seen| seen.frame).collect();
    assert_eq!(received, sent);
    assert!(
        bench
            .seen()
            .iter()
            .all(|seen| seen.flags & abi::RX_CSUM_GOOD != 0)
    );
}
