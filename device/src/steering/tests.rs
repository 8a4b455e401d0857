use proptest::prelude::*;

use super::*;
use crate::abi::{
    Address, FIELD_IP_DST, FIELD_IP_SRC, RX_MODE_PROMISC, RssSymmetric, RuleAction, RuleType,
    RxMode,
};
use crate::frame::generate::frames;
use crate::rss::DEFAULT_FIELDS;

const OWN: [u8; 6] = [0x5a, 0x43, 0x4e, 0, 0, 1];

/// A UDP frame to `destination` from 10.0.0.1:`port`.
fn udp4(destination: [u8; 6], port: u16) -> Vec<u8> {
    let mut frame = destination.to_vec();
    frame.extend([2, 0, 0, 0, 0, 2]);
    frame.extend([
        0x08, 0x00, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    frame.extend(port.to_be_bytes());
    frame.extend([0, 80, 0, 8, 0, 0]);
    frame
}

fn decision(steering: &Steering, frame: &[u8]) -> SteeringDecision {
    steering.steer(&Headers::parse(frame, frame.len()), frame)
}

fn queue(steering: &Steering, frame: &[u8]) -> u16 {
    match decision(steering, frame) {
        SteeringDecision::Queue { queue, .. } => queue,
        other => panic!("{other:?}"),
    }
}

fn rss_set(context: u16, table: &[u16]) -> (RssSet, Vec<U16>) {
    let set = RssSet {
        context: context.into(),
        symmetric: u16::from(RssSymmetric::Asymmetric).into(),
        fields: DEFAULT_FIELDS.map(U16::new),
        key: [0x6d; abi::RSS_KEY_SIZE],
        ..RssSet::default()
    };
    (set, table.iter().copied().map(U16::new).collect())
}

fn set_context(steering: &mut Steering, context: u16, table: &[u16]) -> Result<(), SteeringError> {
    let (set, table) = rss_set(context, table);
    steering.set_context(&set, &table)
}

/// A rule for UDP from `port`.
fn rule(location: u32, port: u16, action: RuleAction, queue: u16, context: u16) -> abi::Rule {
    let mut rule = abi::Rule {
        location: location.into(),
        rule_type: RuleType::Udp4.into(),
        action: action.into(),
        queue: queue.into(),
        context: context.into(),
        ..abi::Rule::default()
    };
    rule.mask.l4_src.set(0xffff);
    rule.value.l4_src.set(port);
    rule
}

/// A zcnic port with eight data queues and one address.
fn port() -> Steering {
    let mut steering = Steering::new(8);
    let own = [Address { octets: OWN }];
    steering.set_filter(AddressFilter::from_request(&RxMode::default(), &own).unwrap());
    steering
}

#[test]
fn a_new_session_passes_broadcast_to_queue_0() {
    let steering = Steering::new(8);
    let expected = SteeringDecision::Queue {
        queue: 0,
        hash: None,
    };
    assert_eq!(decision(&steering, &udp4([0xff; 6], 1)), expected);
    assert_eq!(
        decision(&steering, &udp4(OWN, 1)),
        SteeringDecision::Filtered
    );
    assert_eq!(decision(&port(), &udp4(OWN, 1)), expected);
    assert_eq!(decision(&port(), &[]), SteeringDecision::Filtered);
}

#[test]
fn plain_passes_everything_and_spreads_it() {
    let steering = Steering::plain(4);
    let mut reached = [0; 4];
    for port in 0..400 {
        reached[usize::from(queue(&steering, &udp4([2, 3, 4, 5, 6, 7], port)))] += 1;
    }
    assert!(
        reached.iter().all(|frames| (50..=150).contains(frames)),
        "{reached:?}"
    );
    assert_eq!(queue(&Steering::plain(1), &udp4(OWN, 7)), 0);
}

#[test]
fn the_filter_comes_before_rules_and_rules_before_rss() {
    let mut steering = port();
    set_context(&mut steering, 0, &[1; 8]).unwrap();
    let rules = [
        rule(5, 1000, RuleAction::Queue, 7, 0),
        rule(6, 2000, RuleAction::Drop, 0, 0),
    ];
    steering.set_rules(&rules).unwrap();
    assert_eq!(queue(&steering, &udp4(OWN, 3000)), 1);
    assert_eq!(queue(&steering, &udp4(OWN, 1000)), 7);
    assert_eq!(
        decision(&steering, &udp4(OWN, 2000)),
        SteeringDecision::RuleDrop
    );
    assert_eq!(
        decision(&steering, &udp4([2; 6], 2000)),
        SteeringDecision::Filtered
    );
    // A frame that a rule steers has the hash that it has without it.
    let hash_of = |steering: &Steering| match decision(steering, &udp4(OWN, 1000)) {
        SteeringDecision::Queue { hash, .. } => hash.unwrap(),
        other => panic!("{other:?}"),
    };
    let steered = hash_of(&steering);
    steering.delete_rules(&[5, 6]).unwrap();
    assert_eq!(steered, hash_of(&steering));
    assert_eq!(queue(&steering, &udp4(OWN, 2000)), 1);
}

#[test]
fn context_rules_add_to_the_table_entry() {
    let mut steering = port();
    set_context(&mut steering, 0, &[0]).unwrap();
    set_context(&mut steering, 3, &[2, 4]).unwrap();
    steering
        .set_rules(&[rule(0, 1000, RuleAction::Context, 3, 3)])
        .unwrap();
    assert!([5, 7].contains(&queue(&steering, &udp4(OWN, 1000))));
    // Context 0 is a context like others.
    steering
        .set_rules(&[rule(0, 1000, RuleAction::Context, 6, 0)])
        .unwrap();
    assert_eq!(queue(&steering, &udp4(OWN, 1000)), 6);
}

#[test]
fn a_table_that_grows_under_a_rule_never_leads_beyond_the_last_queue() {
    let mut steering = port();
    set_context(&mut steering, 1, &[0]).unwrap();
    steering
        .set_rules(&[rule(0, 1000, RuleAction::Context, 7, 1)])
        .unwrap();
    set_context(&mut steering, 1, &[5]).unwrap();
    assert_eq!(queue(&steering, &udp4(OWN, 1000)), 7);
}

#[test]
fn rules_with_missing_targets_are_refused() {
    let mut steering = port();
    set_context(&mut steering, 3, &[2, 4]).unwrap();
    let fine = rule(0, 1, RuleAction::Queue, 7, 0);
    let cases = [
        (rule(1, 1, RuleAction::Queue, 8, 0), 6),
        (rule(1, 1, RuleAction::Context, 4, 3), 6),
        (rule(1, 1, RuleAction::Context, u16::MAX, 3), 6),
        (rule(1, 1, RuleAction::Context, 0, 4), 8),
        (rule(u32::MAX, 1, RuleAction::Drop, 0, 0), 0),
    ];
    for (refused, offset) in cases {
        let error = steering.set_rules(&[fine, refused]).unwrap_err();
        let in_request = (size_of::<RuleSet>() + size_of::<abi::Rule>() + offset) as u32;
        assert_eq!(error.status(), (Status::Invalid, in_request), "{error}");
        // All or nothing.
        assert_eq!(queue(&steering, &udp4(OWN, 1)), 0);
    }
    let error = steering.delete_rules(&[9]).unwrap_err();
    assert_eq!(error.status(), (Status::NotFound, 9));
}

#[test]
fn contexts_in_use_stay() {
    let mut steering = port();
    set_context(&mut steering, 1, &[1]).unwrap();
    set_context(&mut steering, 2, &[2]).unwrap();
    steering
        .set_rules(&[rule(4, 1000, RuleAction::Context, 0, 1)])
        .unwrap();
    assert_eq!(steering.delete_context(2), Ok(()));
    assert_eq!(
        steering.delete_context(2).unwrap_err().status(),
        (Status::NotFound, 2)
    );
    assert_eq!(
        steering.delete_context(1).unwrap_err().status(),
        (Status::Busy, 1)
    );
    assert_eq!(
        steering.delete_context(0).unwrap_err().status(),
        (Status::Invalid, 24)
    );
    assert_eq!(queue(&steering, &udp4(OWN, 1000)), 1);
    steering.delete_rules(&[4]).unwrap();
    assert_eq!(steering.delete_context(1), Ok(()));
}

#[test]
fn unacceptable_contexts_are_refused() {
    let mut steering = port();
    let error = set_context(&mut steering, MAX_RSS_CONTEXTS, &[0]).unwrap_err();
    assert_eq!(error.status(), (Status::Invalid, 24));
    let error = set_context(&mut steering, 1, &[8]).unwrap_err();
    assert_eq!(
        error.status(),
        (Status::Invalid, size_of::<RssSet>() as u32)
    );
    assert_eq!(
        steering.delete_context(1).unwrap_err().status(),
        (Status::NotFound, 1)
    );
    let (mut set, table) = rss_set(0, &[0]);
    set.fields[1].set(FIELD_IP_SRC | FIELD_IP_DST | 0x8000);
    let error = steering.set_context(&set, &table).unwrap_err();
    assert_eq!(error.status(), (Status::Invalid, 34));
}

#[test]
fn a_clone_does_not_see_later_changes() {
    let mut steering = port();
    set_context(&mut steering, 0, &[1]).unwrap();
    set_context(&mut steering, 1, &[1]).unwrap();
    steering
        .set_rules(&[rule(0, 1000, RuleAction::Context, 0, 1)])
        .unwrap();
    let before = steering.clone();
    set_context(&mut steering, 0, &[2]).unwrap();
    set_context(&mut steering, 1, &[3]).unwrap();
    steering
        .set_rules(&[rule(1, 2000, RuleAction::Drop, 0, 0)])
        .unwrap();
    steering.set_filter(AddressFilter::promiscuous());
    let both = |frame: &[u8]| (decision(&before, frame), decision(&steering, frame));
    let queues = |frame: &[u8]| (queue(&before, frame), queue(&steering, frame));
    assert_eq!(queues(&udp4(OWN, 1)), (1, 2));
    assert_eq!(queues(&udp4(OWN, 1000)), (1, 3));
    assert_eq!(queue(&before, &udp4(OWN, 2000)), 1);
    assert_eq!(
        decision(&steering, &udp4(OWN, 2000)),
        SteeringDecision::RuleDrop
    );
    assert_eq!(both(&udp4([2; 6], 1)).0, SteeringDecision::Filtered);
    assert_ne!(both(&udp4([2; 6], 1)).1, SteeringDecision::Filtered);
}

proptest! {
    #[test]
    fn every_frame_gets_one_of_the_data_queues(
        frame in frames(),
        queues in 1..9u16,
        table in proptest::sample::select(vec![1usize, 2, 64]),
        offset: u16,
        later in proptest::collection::vec(any::<u16>(), 64),
    ) {
        let mut steering = Steering::new(queues);
        let mode = RxMode { flags: RX_MODE_PROMISC.into(), ..RxMode::default() };
        steering.set_filter(AddressFilter::from_request(&mode, &[]).unwrap());
        set_context(&mut steering, 1, &vec![0; table]).unwrap();
        let mut rule = rule(0, 0, RuleAction::Context, offset % queues, 1);
        rule.rule_type = RuleType::Ether.into();
        (rule.value, rule.mask) = Default::default();
        steering.set_rules(&[rule]).unwrap();
        let later: Vec<u16> = later[..table].iter().map(|queue| queue % queues).collect();
        set_context(&mut steering, 1, &later).unwrap();
        let headers = Headers::parse(&frame, frame.len());
        let SteeringDecision::Queue { queue, hash } = steering.steer(&headers, &frame) else {
            panic!("neither filtered nor dropped");
        };
        prop_assert!(queue < queues);
        let entry = later[hash.map_or(0, |hash| hash.value as usize % table)];
        prop_assert_eq!(queue, (entry + offset % queues).min(queues - 1));
    }
}
