//! Steering: the queue of a frame (docs/abi.md, "Steering").

use zcnic_device::{
    abi::{self, FlowType, HashType, RuleAction, RuleType},
    rss::{DEFAULT_FIELDS, DEFAULT_KEY},
};

use super::up;
use crate::{
    driver::{Driver, Transport},
    frames::{Flow, RECEIVER, broadcast, pattern},
    receive::Shape,
    transmit::Packet,
    verify,
};

/// RSS_SET of a context with Microsoft's key and the usual fields.
pub(super) fn rss(context: u16) -> abi::RssSet {
    abi::RssSet {
        context: context.into(),
        fields: DEFAULT_FIELDS.map(Into::into),
        key: DEFAULT_KEY,
        ..Default::default()
    }
}

/// A rule for TCP over IPv4 to a destination port.
fn tcp_port(location: u32, port: u16, action: RuleAction, queue: u16) -> abi::Rule {
    let mut rule = abi::Rule {
        location: location.into(),
        rule_type: RuleType::Tcp4.into(),
        action: action.into(),
        queue: queue.into(),
        ..Default::default()
    };
    rule.value.l4_dst = port.into();
    rule.mask.l4_dst = u16::MAX.into();
    rule
}

/// Sends one frame and returns the queue that it arrived on.
fn queue_of<T: Transport>(
    sender: &mut Driver<T>,
    receiver: &mut Driver<T>,
    flow: &Flow,
) -> Option<u16> {
    sender.send(0, flow.frame(&pattern(20)));
    let frames = receiver.receive_all();
    assert!(frames.len() <= 1, "one frame arrives once");
    frames.first().map(|(queue, _)| *queue)
}

/// Until RSS_SET there is one table entry and no hash.
pub fn everything_goes_to_queue_0_at_first<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 32);
    for port in 0..20 {
        sender.send(1, Flow::udp4().ports(port, 7).frame(&pattern(30)));
        let received = receiver.receive(0);
        assert_eq!(
            (received.header.hash.get(), received.header.hash_type),
            (0, 0)
        );
    }
}

/// The low bits of the hash select the table entry; frames other than IP use entry 0.
pub fn flows_spread_by_their_published_hash<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 64);
    let table = [2, 1, 0, 3, 3, 0, 1, 2];
    receiver.set_rss(rss(0), &table).expect("RSS");
    let mut used = [0; 4];
    for flow in Flow::all() {
        for port in 0..12 {
            let flow = flow.clone().ports(40_000 + port, 443);
            let hash = verify::toeplitz(&DEFAULT_KEY, &verify::hash_input(&flow.frame(&[1]), true));
            let queue = table[hash as usize % 8];
            used[usize::from(queue)] += 1;
            sender.send(0, flow.frame(&[1]));
            let received = receiver.receive(queue);
            assert_eq!(received.header.hash.get(), hash);
        }
    }
    assert!(
        used.iter().all(|count| *count > 0),
        "all queues were used: {used:?}"
    );
    sender.send(0, broadcast(&pattern(50)));
    assert_eq!(receiver.receive(2).header.hash_type, 0);
}

/// "Verifying the RSS Hash Calculation" (Microsoft): addresses, ports, hash without and with ports.
pub fn hashes_match_the_published_vectors<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 16);
    let v4 = Flow::tcp4()
        .between4([66, 9, 149, 187], [161, 142, 100, 80])
        .ports(2794, 1766);
    let v6 = Flow::tcp6()
        .between6(
            0x3ffe_2501_0200_1fff_0000_0000_0000_0007,
            0x3ffe_2501_0200_0003_0000_0000_0000_0001,
        )
        .ports(2794, 1766);
    let mut hash = |fields: u16, flow: &Flow| {
        let mut set = rss(0);
        set.fields[usize::from(u8::from(FlowType::Tcp4))] = fields.into();
        set.fields[usize::from(u8::from(FlowType::Tcp6))] = fields.into();
        receiver.set_rss(set, &[0]).expect("RSS");
        sender.send(0, flow.frame(&[]));
        let header = receiver.receive(0).header;
        (
            header.hash.get(),
            HashType::try_from(header.hash_type).expect("a known type"),
        )
    };
    let addresses = abi::FIELD_IP_SRC | abi::FIELD_IP_DST;
    let all = addresses | abi::FIELD_L4_SRC | abi::FIELD_L4_DST;
    assert_eq!(hash(addresses, &v4), (0x323e_8fc2, HashType::Ipv4));
    assert_eq!(hash(all, &v4), (0x51cc_c178, HashType::Tcp4));
    assert_eq!(hash(addresses, &v6), (0x2cc1_8cd5, HashType::Ipv6));
    assert_eq!(hash(all, &v6), (0x4020_7d3d, HashType::Tcp6));
}

/// Only the chosen fields distinguish flows; a symmetric transform does not distinguish directions.
pub fn fields_select_the_hash_input<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 64);
    let mut hash = |receiver: &mut Driver<T>, flow: &Flow| {
        sender.send(0, flow.frame(&[1]));
        receiver.receive(0).header.hash.get()
    };
    let udp = Flow::udp4();
    let mut set = rss(0);
    set.fields[usize::from(u8::from(FlowType::Udp4))] = abi::FIELD_L4_DST.into();
    receiver.set_rss(set, &[0]).expect("RSS");
    let base = hash(&mut receiver, &udp);
    assert_eq!(hash(&mut receiver, &udp.clone().ports(9, 2000)), base);
    assert_eq!(
        hash(&mut receiver, &udp.clone().between4([9; 4], [8; 4])),
        base
    );
    assert_ne!(hash(&mut receiver, &udp.clone().ports(1000, 9)), base);
    for symmetric in [abi::RssSymmetric::SymXor, abi::RssSymmetric::SymOrXor] {
        let set = abi::RssSet {
            symmetric: u16::from(symmetric).into(),
            ..rss(0)
        };
        receiver.set_rss(set, &[0]).expect("RSS");
        let there = Flow::tcp4()
            .between4([1, 2, 3, 4], [5, 6, 7, 8])
            .ports(11, 22);
        let back = Flow::tcp4()
            .between4([5, 6, 7, 8], [1, 2, 3, 4])
            .ports(22, 11);
        assert_eq!(
            hash(&mut receiver, &there),
            hash(&mut receiver, &back),
            "{symmetric:?}"
        );
        assert_ne!(
            hash(&mut receiver, &there),
            hash(&mut receiver, &back.ports(22, 12))
        );
    }
}

/// A rule may spread its flows over another table, plus an offset.
pub fn contexts_and_queue_offsets<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 64);
    receiver.set_rss(rss(0), &[0]).expect("RSS");
    receiver.set_rss(rss(3), &[0, 1]).expect("a context");
    let mut rule = tcp_port(5, 80, RuleAction::Context, 2);
    rule.context = 3.into();
    receiver.set_rules(&[rule]).expect("a rule");
    for port in 0..16 {
        let flow = Flow::tcp4().ports(port, 80);
        let hash = verify::toeplitz(&DEFAULT_KEY, &verify::hash_input(&flow.frame(&[]), true));
        let queue = queue_of(&mut sender, &mut receiver, &flow);
        assert_eq!(queue, Some(2 + (hash % 2) as u16), "source port {port}");
        let other = queue_of(&mut sender, &mut receiver, &Flow::tcp4().ports(port, 81));
        assert_eq!(other, Some(0));
    }
    // The table may change under a rule; no frame goes beyond the last queue.
    receiver.set_rss(rss(3), &[3]).expect("the context");
    let queue = queue_of(&mut sender, &mut receiver, &Flow::tcp4().ports(1, 80));
    assert_eq!(queue, Some(3));
}

/// Priority is the location, not the order in which rules were set.
pub fn the_lowest_location_wins<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 64);
    let everything = abi::Rule {
        location: 20.into(),
        action: RuleAction::Queue.into(),
        queue: 3.into(),
        ..Default::default()
    };
    receiver
        .set_rules(&[everything, tcp_port(10, 80, RuleAction::Queue, 1)])
        .expect("rules");
    let flow = Flow::tcp4().ports(1, 80);
    assert_eq!(queue_of(&mut sender, &mut receiver, &flow), Some(1));
    assert_eq!(
        queue_of(&mut sender, &mut receiver, &flow.clone().ports(1, 81)),
        Some(3)
    );
    assert_eq!(queue_of(&mut sender, &mut receiver, &Flow::udp6()), Some(3));
    receiver
        .set_rules(&[tcp_port(3, 80, RuleAction::Queue, 2)])
        .expect("a rule before it");
    assert_eq!(queue_of(&mut sender, &mut receiver, &flow), Some(2));
    receiver
        .set_rules(&[tcp_port(3, 81, RuleAction::Queue, 2)])
        .expect("replaced");
    assert_eq!(queue_of(&mut sender, &mut receiver, &flow), Some(1));
    // A rule that shares its mask with an early one still has the priority of its location.
    receiver
        .set_rules(&[tcp_port(30, 82, RuleAction::Queue, 1)])
        .expect("a rule behind all others");
    let late = flow.clone().ports(1, 82);
    assert_eq!(queue_of(&mut sender, &mut receiver, &late), Some(3));
    receiver.delete_rules(&[10, 20]).expect("both exist");
    assert_eq!(queue_of(&mut sender, &mut receiver, &late), Some(1));
    assert_eq!(queue_of(&mut sender, &mut receiver, &flow), Some(0));
}

/// Drops by rules have a counter of their own.
pub fn rules_drop_and_count<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 8);
    receiver
        .set_rules(&[tcp_port(0, 23, RuleAction::Drop, 0)])
        .expect("a rule");
    for _ in 0..3 {
        let flow = Flow::tcp4().ports(1, 23);
        assert_eq!(queue_of(&mut sender, &mut receiver, &flow), None);
    }
    assert_eq!(
        queue_of(&mut sender, &mut receiver, &Flow::udp4().ports(1, 23)),
        Some(0)
    );
    assert_eq!(receiver.stats().0.rx_rule_drop.get(), 3);
}

/// Rules compare any bits of any field, and no others.
pub fn rules_match_the_bits_of_their_masks<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 64);
    let rule = |location: u32, rule_type: RuleType, fill: fn(&mut abi::Flow, &mut abi::Flow)| {
        let mut rule = abi::Rule {
            location: location.into(),
            rule_type: rule_type.into(),
            action: RuleAction::Queue.into(),
            queue: (location as u16).into(),
            ..Default::default()
        };
        fill(&mut rule.value, &mut rule.mask);
        rule
    };
    receiver
        .set_rules(&[
            rule(1, RuleType::Udp4, |value, mask| {
                value.ip_src[..4].copy_from_slice(&[10, 1, 0, 0]);
                mask.ip_src[..4].copy_from_slice(&[255, 255, 0, 0]);
            }),
            rule(2, RuleType::Tcp6, |value, mask| {
                value.l4_src = 0x1200.into();
                mask.l4_src = 0xff00.into();
            }),
            rule(3, RuleType::Ether, |value, mask| {
                value.vlan_tci = 7.into();
                mask.vlan_tci = 0x0fff.into();
            }),
        ])
        .expect("rules");
    let udp = |source| Flow::udp4().between4(source, [9; 4]);
    let cases = [
        (udp([10, 1, 200, 3]), 1),
        (udp([10, 2, 200, 3]), 0),
        (Flow::tcp4().between4([10, 1, 2, 3], [9; 4]), 0),
        (Flow::tcp6().ports(0x12ab, 1), 2),
        (Flow::tcp6().ports(0x13ab, 1), 0),
        (Flow::udp6().ports(0x12ab, 1), 0),
        (Flow::udp6().in_vlan(7), 3),
        (Flow::udp6().in_vlan(8), 0),
    ];
    for (number, (flow, queue)) in cases.iter().enumerate() {
        assert_eq!(
            queue_of(&mut sender, &mut receiver, flow),
            Some(*queue),
            "case {number}"
        );
    }
}

/// Queues that no frame is steered to receive exactly zero frames.
pub fn idle_queues_stay_idle<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 250);
    receiver.set_rss(rss(0), &[1; 8]).expect("RSS");
    receiver
        .set_rules(&[tcp_port(1, 99, RuleAction::Queue, 3)])
        .expect("a rule");
    for port in 0..100 {
        sender.enqueue(port % 4, Flow::udp4().ports(port, 99).frame(&pattern(70)));
        sender.enqueue(port % 4, Flow::tcp4().ports(port, 99).frame(&pattern(70)));
    }
    (0..4).for_each(|queue| sender.flush(queue));
    let frames: Vec<u64> = receiver
        .stats()
        .1
        .iter()
        .map(|queue| queue.rx_frames.get())
        .collect();
    assert_eq!(frames, [0, 100, 0, 100]);
    assert_eq!((receiver.posted(0), receiver.posted(2)), (250, 250));
}

/// Listed addresses and broadcast pass; PROMISC and ALLMULTI let more pass.
pub fn addresses_are_filtered<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 64);
    let (other, group, other_group) = ([2; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]);
    let destinations = [RECEIVER, other, group, other_group, [0xff; 6]];
    let mut passing = |receiver: &mut Driver<T>| {
        destinations
            .map(|address| queue_of(&mut sender, receiver, &Flow::udp4().to(address)).is_some())
    };
    for (flags, listed, expected) in [
        (0, vec![], [false, false, false, false, true]),
        (0, vec![RECEIVER, group], [true, false, true, false, true]),
        (
            abi::RX_MODE_ALLMULTI,
            vec![RECEIVER],
            [true, false, true, true, true],
        ),
        (abi::RX_MODE_PROMISC, vec![], [true; 5]),
        (0, vec![other], [false, true, false, false, true]),
    ] {
        receiver.receive_mode(flags, &listed).expect("receive mode");
        assert_eq!(
            passing(&mut receiver),
            expected,
            "flags {flags}, {listed:?}"
        );
    }
    assert_eq!(receiver.stats().0.rx_filtered.get(), 4 + 2 + 1 + 3);
}

/// VLAN tags don't count; of a train, all segments share the fate of the first.
pub fn frames_longer_than_the_mtu_are_dropped<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 64);
    receiver.set_mtu(1500).expect("MTU");
    let flows = [
        (Flow::udp4(), 28),
        (Flow::udp4().in_vlan(7), 28),
        (Flow::tcp6(), 60),
    ];
    let mut oversize = 0;
    for (flow, headers) in &flows {
        for (payload, passes) in [(1500 - headers, true), (1501 - headers, false)] {
            let frame = flow.frame(&pattern(payload));
            sender.send(0, &frame);
            let received = receiver.receive_all();
            assert_eq!(received.len(), usize::from(passes), "{} bytes", frame.len());
            oversize += u64::from(!passes);
            assert_eq!(receiver.stats().0.rx_oversize.get(), oversize);
        }
    }
    let train = |size| Packet::from(Flow::tcp4().frame(&pattern(5000))).segmented(size);
    sender.send(0, train(1460));
    assert_eq!(receiver.receive_all().len(), 4);
    sender.send(0, train(1461));
    assert_eq!(receiver.receive_all().len(), 0);
    assert_eq!(receiver.stats().0.rx_oversize.get(), oversize + 4);

    receiver
        .receive_mode(0, &[])
        .expect("only broadcast passes now");
    sender.send(0, Flow::udp4().frame(&pattern(3000)));
    let port = receiver.stats().0;
    assert_eq!(port.rx_oversize.get(), oversize + 4);
    assert_eq!(port.rx_filtered.get(), 1, "it is for another address");
    receiver
        .receive_mode(abi::RX_MODE_PROMISC, &[])
        .expect("receive mode");
    receiver.set_mtu(0).expect("no limit");
    sender.send(0, Flow::udp4().frame(&pattern(3000)));
    assert_eq!(receiver.receive_all().len(), 1);
}

/// Key, table, rules and addresses change between two frames.
pub fn changes_lose_no_frame<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 250);
    let mut sent = 0;
    for round in 0..20u16 {
        for port in 0..10 {
            sender.enqueue(
                round % 4,
                Flow::tcp4().ports(port, round).frame(&pattern(80)),
            );
            sent += 1;
        }
        let mut set = rss(0);
        set.key[usize::from(round)] ^= 0x5a;
        receiver
            .set_rss(set, &[round % 4, 1, (round + 1) % 4, 3])
            .expect("RSS");
        let rule = tcp_port(u32::from(round % 3), round, RuleAction::Queue, round % 4);
        receiver.set_rules(&[rule]).expect("a rule");
        receiver
            .receive_mode(abi::RX_MODE_PROMISC, &[[2; 6]])
            .expect("receive mode");
    }
    (0..4).for_each(|queue| sender.flush(queue));
    let mut frames = receiver.receive_all();
    assert_eq!(frames.len(), sent);
    frames.dedup_by(|(_, one), (_, other)| one.frame == other.frame);
    assert_eq!(frames.len(), sent, "each arrives once");
}
