use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::frame::generate::frames;
use crate::frame::{IpVersion, L4Protocol};

fn rule(location: u32, rule_type: RuleType, mask: Flow, value: Flow) -> FlowRule {
    FlowRule {
        location,
        rule_type,
        action: FlowAction::Queue(location as u16),
        value,
        mask,
    }
}

/// The fields of a frame; those that it lacks are zero. `None` if it has no Ethernet addresses.
fn flow_of(headers: &Headers, header_bytes: &[u8]) -> Option<Flow> {
    let mut flow = Flow {
        eth_dst: headers.ether_destination(header_bytes)?,
        eth_src: headers.ether_source(header_bytes)?,
        eth_type: headers.ether_type.into(),
        vlan_tci: headers.vlan.unwrap_or(0).into(),
        ..Flow::default()
    };
    if let (Some(l3), Some((source, destination))) = (headers.l3, headers.addresses(header_bytes)) {
        flow.ip_proto = l3.protocol;
        flow.ip_tos = l3.tos;
        flow.ip_src[..source.len()].copy_from_slice(source);
        flow.ip_dst[..destination.len()].copy_from_slice(destination);
    }
    if let Some(l4) = headers.l4 {
        flow.l4_src = l4.source_port.into();
        flow.l4_dst = l4.destination_port.into();
    }
    Some(flow)
}

/// Matches all frames of its type.
fn any_of(location: u32, rule_type: RuleType) -> FlowRule {
    rule(location, rule_type, Flow::default(), Flow::default())
}

fn found(table: &RuleTable, frame: &[u8]) -> Option<u32> {
    let headers = Headers::parse(frame, frame.len());
    table.lookup(&headers, frame).map(|rule| rule.location)
}

fn table(rules: &[FlowRule]) -> RuleTable {
    let mut table = RuleTable::default();
    table.set(rules).unwrap();
    table
}

/// A TCP frame 10.0.0.1:1000 to 10.0.0.2:80 with TOS 0x10, in VLAN `tci` if given.
fn tcp4(tci: Option<u16>) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    if let Some(tci) = tci {
        frame.extend([0x81, 0x00]);
        frame.extend(tci.to_be_bytes());
    }
    frame.extend([0x08, 0x00, 0x45, 0x10, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
    frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([
        0x03, 0xe8, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0,
    ]);
    frame
}

#[test]
fn the_lowest_location_wins_over_all_masks() {
    let port = Flow {
        l4_dst: 0xffff.into(),
        ..Flow::default()
    };
    let http = Flow {
        l4_dst: 80.into(),
        ..Flow::default()
    };
    let mut table = table(&[
        rule(9, RuleType::Tcp4, port, http),
        any_of(5, RuleType::Ipv4),
        rule(7, RuleType::Tcp4, port, http),
    ]);
    assert_eq!(found(&table, &tcp4(None)), Some(5));
    table.delete(&[5]).unwrap();
    assert_eq!(found(&table, &tcp4(None)), Some(7));
    table.set(&[any_of(8, RuleType::Ether)]).unwrap();
    assert_eq!(found(&table, &tcp4(None)), Some(7));
    table.delete(&[7]).unwrap();
    assert_eq!(found(&table, &tcp4(None)), Some(8));
    table.delete(&[8, 9]).unwrap();
    assert_eq!(found(&table, &tcp4(None)), None);
}

#[test]
fn set_replaces_the_rule_at_the_location() {
    let mut table = table(&[any_of(1, RuleType::Tcp4), any_of(2, RuleType::Ether)]);
    table.set(&[any_of(1, RuleType::Udp6)]).unwrap();
    assert_eq!(table.rules().count(), 2);
    assert_eq!(found(&table, &tcp4(None)), Some(2));
}

#[test]
fn rule_types_match_their_protocols() {
    let tcp4 = tcp4(None);
    let mut fragment = tcp4.clone();
    fragment[21] = 1;
    let mut udp4 = tcp4.clone();
    udp4[23] = 17;
    udp4[38..40].copy_from_slice(&[0, 8]);
    let mut arp = tcp4.clone();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let tcp6 = [
        &tcp4[..12],
        &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64],
        &[1; 32],
        &tcp4[34..],
    ]
    .concat();
    let types = [
        RuleType::Ether,
        RuleType::Ipv4,
        RuleType::Tcp4,
        RuleType::Udp4,
        RuleType::Ipv6,
        RuleType::Tcp6,
        RuleType::Udp6,
    ];
    let cases = [
        (&tcp4, vec![RuleType::Ether, RuleType::Ipv4, RuleType::Tcp4]),
        (&fragment, vec![RuleType::Ether, RuleType::Ipv4]),
        (&udp4, vec![RuleType::Ether, RuleType::Ipv4, RuleType::Udp4]),
        (&tcp6, vec![RuleType::Ether, RuleType::Ipv6, RuleType::Tcp6]),
        (&arp, vec![RuleType::Ether]),
    ];
    for (frame, expected) in cases {
        let matching: Vec<_> = types
            .into_iter()
            .filter(|rule_type| found(&table(&[any_of(0, *rule_type)]), frame).is_some())
            .collect();
        assert_eq!(matching, expected);
    }
}

#[test]
fn vlan_rules_need_a_tag() {
    let mask = Flow {
        vlan_tci: 0x0fff.into(),
        ..Flow::default()
    };
    let value = |id: u16| Flow {
        vlan_tci: id.into(),
        ..Flow::default()
    };
    let untagged = table(&[rule(0, RuleType::Tcp4, mask, value(0))]);
    assert_eq!(found(&untagged, &tcp4(None)), None);
    assert_eq!(
        found(&untagged, &tcp4(Some(0xe000))),
        Some(0),
        "priority tag"
    );
    let tagged = table(&[rule(0, RuleType::Tcp4, mask, value(5))]);
    assert_eq!(found(&tagged, &tcp4(Some(0x2005))), Some(0));
    assert_eq!(found(&tagged, &tcp4(Some(6))), None);
}

#[test]
fn failed_changes_change_nothing() {
    let mut table = table(&[any_of(1, RuleType::Ether)]);
    assert_eq!(
        table.delete(&[1, 3]),
        Err(FlowRuleError::NotFound { location: 3 })
    );
    let masks: Vec<_> = (0..MAX_MASKS as u32)
        .map(|n| {
            let mask = Flow {
                l4_src: (n as u16 + 1).into(),
                ..Flow::default()
            };
            rule(100 + n, RuleType::Tcp4, mask, Flow::default())
        })
        .collect();
    assert_eq!(table.set(&masks), Err(FlowRuleError::TooManyMasks));
    assert!(table.rules().eq(&[any_of(1, RuleType::Ether)]));
    assert_eq!(found(&table, &tcp4(None)), Some(1));
    assert_eq!(table.set(&masks[1..]), Ok(()));
    assert_eq!(table.rules().count(), MAX_MASKS);
}

#[test]
fn unacceptable_rules_name_the_field() {
    type Change = fn(&mut abi::Rule);
    let offsets: [(&str, Change, Option<usize>); 18] = [
        ("nothing", |_| (), None),
        ("location", |rule| rule.location.set(MAX_RULES), Some(0)),
        (
            "last location",
            |rule| rule.location.set(MAX_RULES - 1),
            None,
        ),
        ("type", |rule| rule.rule_type = 7, Some(4)),
        ("action", |rule| rule.action = 3, Some(5)),
        ("queue of a drop", |rule| rule.action = 0, Some(6)),
        (
            "context of a queue action",
            |rule| rule.context.set(1),
            Some(8),
        ),
        (
            "value outside the mask",
            |rule| rule.value.l4_dst.set(0x51),
            Some(16 + 55),
        ),
        (
            "IP fields of any frame",
            |rule| rule.rule_type = 0,
            Some(72 + 54),
        ),
        (
            "ports of any IPv4",
            |rule| rule.rule_type = 1,
            Some(72 + 54),
        ),
        (
            "protocol of TCP",
            |rule| rule.mask.ip_proto = 6,
            Some(72 + 16),
        ),
        ("TOS of TCP", |rule| rule.mask.ip_tos = 0xfc, None),
        ("IPv4 address", |rule| rule.mask.ip_dst[3] = 1, None),
        (
            "more than an IPv4 address",
            |rule| rule.mask.ip_dst[4] = 1,
            Some(72 + 40),
        ),
        ("source too", |rule| rule.mask.ip_src[15] = 1, Some(72 + 35)),
        (
            "Ethernet fields",
            |rule| rule.mask.eth_src = [0xff; 6],
            None,
        ),
        (
            "TOS of any frame",
            |rule| (rule.rule_type, rule.mask.ip_tos) = (0, 1),
            Some(72 + 17),
        ),
        ("reserved", |rule| rule.mask.reserved.set(1), Some(72 + 19)),
    ];
    for (name, change, offset) in offsets {
        let mut rule = abi::Rule {
            rule_type: RuleType::Tcp4.into(),
            action: RuleAction::Queue.into(),
            queue: 3.into(),
            ..abi::Rule::default()
        };
        rule.mask.l4_dst.set(0xfff0);
        rule.value.l4_dst.set(0x50);
        change(&mut rule);
        let refused = FlowRule::try_from(&rule).err().map(|(offset, _)| offset);
        assert_eq!(refused, offset, "{name}");
    }
    let of_type = |rule_type: RuleType| abi::Rule {
        rule_type: rule_type.into(),
        ..abi::Rule::default()
    };
    let mut rule = of_type(RuleType::Udp6);
    rule.mask.ip_src = [0xff; 16];
    assert!(FlowRule::try_from(&rule).is_ok());
    let mut rule = of_type(RuleType::Ipv6);
    rule.mask.ip_proto = 0xff;
    assert!(FlowRule::try_from(&rule).is_ok());
}

/// Whether the rule matches, field by field, without keys or groups.
fn matches(rule: &FlowRule, headers: &Headers, frame: &[u8]) -> bool {
    let (l3, l4) = (headers.l3.unwrap(), headers.l4);
    let v4 = l3.version == IpVersion::V4;
    let tcp = l4.is_some_and(|l4| l4.protocol == L4Protocol::Tcp);
    let udp = l4.is_some_and(|l4| l4.protocol == L4Protocol::Udp);
    let of_type = match rule.rule_type {
        RuleType::Ether => true,
        RuleType::Ipv4 => v4,
        RuleType::Tcp4 => v4 && tcp,
        RuleType::Udp4 => v4 && udp,
        RuleType::Ipv6 => !v4,
        RuleType::Tcp6 => !v4 && tcp,
        RuleType::Udp6 => !v4 && udp,
    };
    let equal = |have: &[u8], value: &[u8], mask: &[u8]| {
        mask.iter()
            .enumerate()
            .all(|(at, mask)| have.get(at).copied().unwrap_or(0) & mask == value[at])
    };
    let equal16 = |have: u16, value: u16, mask: u16| have & mask == value;
    let (value, mask) = (&rule.value, &rule.mask);
    let (source, destination) = headers.addresses(frame).unwrap();
    of_type
        && equal(&frame[0..6], &value.eth_dst, &mask.eth_dst)
        && equal(&frame[6..12], &value.eth_src, &mask.eth_src)
        && equal16(
            headers.ether_type,
            value.eth_type.get(),
            mask.eth_type.get(),
        )
        && (mask.vlan_tci.get() == 0
            || headers
                .vlan
                .is_some_and(|tci| equal16(tci, value.vlan_tci.get(), mask.vlan_tci.get())))
        && l3.protocol & mask.ip_proto == value.ip_proto
        && l3.tos & mask.ip_tos == value.ip_tos
        && equal(source, &value.ip_src, &mask.ip_src)
        && equal(destination, &value.ip_dst, &mask.ip_dst)
        && equal16(
            l4.map_or(0, |l4| l4.source_port),
            value.l4_src.get(),
            mask.l4_src.get(),
        )
        && equal16(
            l4.map_or(0, |l4| l4.destination_port),
            value.l4_dst.get(),
            mask.l4_dst.get(),
        )
}

/// A mask with a few fields, complete or partial.
fn masks() -> impl Strategy<Value = Flow> {
    let part = || select(vec![0, 0, 0xff, 0x0f]);
    let port = || select(vec![0, 0, 0xffff, 0xfff0]);
    (vec(part(), 6), port(), port(), port()).prop_map(|(part, source, destination, tci)| Flow {
        eth_dst: [part[0]; 6],
        eth_src: [part[1]; 6],
        ip_proto: part[2],
        ip_tos: part[3] & 0x03,
        ip_src: [part[4]; 16],
        ip_dst: [part[5]; 16],
        l4_src: source.into(),
        l4_dst: destination.into(),
        vlan_tci: (tci & 0x000f).into(),
        ..Flow::default()
    })
}

/// Rules that may match one of the frames: mask and value are limited to the fields of the type.
fn rules_about(sources: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<FlowRule>> {
    let types = select(vec![
        RuleType::Ether,
        RuleType::Ipv4,
        RuleType::Tcp4,
        RuleType::Udp4,
        RuleType::Ipv6,
        RuleType::Tcp6,
        RuleType::Udp6,
    ]);
    vec((0..64u32, types, masks(), select(sources)), 0..40).prop_map(|rules| {
        let rules = rules.into_iter().map(|(location, rule_type, mask, frame)| {
            let headers = Headers::parse(&frame, frame.len());
            let masked = |a: &Flow, b: &Flow| -> Flow {
                let (a, b) = (key(a), key(b));
                let both: Key = std::array::from_fn(|word| a[word] & b[word]);
                let bytes = both.map(u64::to_le_bytes);
                zerocopy::transmute!(bytes)
            };
            let mask = masked(&mask, &maskable(rule_type));
            let value = masked(&flow_of(&headers, &frame).unwrap(), &mask);
            rule(location, rule_type, mask, value)
        });
        rules.collect()
    })
}

proptest! {
    #[test]
    fn the_key_of_a_frame_is_that_of_its_fields(frame in frames()) {
        let headers = Headers::parse(&frame, frame.len());
        prop_assert_eq!(key_of(&headers, &frame), flow_of(&headers, &frame).as_ref().map(key));
    }
}

#[test]
fn a_lookup_costs_one_probe_per_mask() {
    let exact = |location: u32, bits: u16| {
        let mut rule = any_of(location, RuleType::Udp4);
        rule.mask.l4_dst = bits.into();
        rule.value.l4_dst = (location as u16 & bits).into();
        rule.mask.ip_src = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        rule.value.ip_src[..4].copy_from_slice(&location.to_be_bytes());
        rule
    };
    // Each group costs one probe.
    for (rules, masks) in [(1, 1), (10_000, 1), (10_000, 2), (10_000, 16)] {
        let rules: Vec<FlowRule> = (0..rules)
            .map(|location| exact(location, 0xffff << (location % masks)))
            .collect();
        let table = table(&rules);
        assert_eq!(table.groups.len(), masks as usize);
        assert_eq!(table.rules().count(), rules.len());
    }
}

#[test]
fn a_candidate_with_a_colliding_hash_is_not_matched() {
    let port = Flow {
        l4_src: 0xffff.into(),
        ..Flow::default()
    };
    let from = |source: u16| {
        let mut frame = tcp4(None);
        frame[34..36].copy_from_slice(&source.to_be_bytes());
        frame
    };
    // Hash tables compare seven bits of a hash first, which collide among this many rules.
    let rules: Vec<FlowRule> = (0..10_000u16)
        .map(|source| {
            let value = Flow {
                l4_src: source.into(),
                ..Flow::default()
            };
            rule(source.into(), RuleType::Tcp4, port, value)
        })
        .collect();
    let table = table(&rules);
    for source in 0..20_000u16 {
        let frame = from(source);
        let headers = Headers::parse(&frame, frame.len());
        let candidate = table.candidate(&headers, &frame);
        assert!(candidate.is_some(), "one group");
        let expected = (source < 10_000).then_some(FlowAction::Queue(source));
        assert_eq!(table.action(&headers, &frame, candidate), expected);
    }
}

#[test]
fn a_frame_that_two_groups_are_about_has_no_candidate() {
    let table = table(&[any_of(1, RuleType::Ipv4), any_of(0, RuleType::Tcp4)]);
    let frame = tcp4(None);
    let headers = Headers::parse(&frame, frame.len());
    assert!(table.candidate(&headers, &frame).is_none());
    assert_eq!(
        table.action(&headers, &frame, None),
        Some(FlowAction::Queue(0))
    );
}

#[test]
fn a_table_is_not_changed_with_its_clone() {
    let mut table = table(&[any_of(5, RuleType::Ether), any_of(70, RuleType::Ether)]);
    let before = table.clone();
    table.delete(&[5]).unwrap();
    table.set(&[any_of(3, RuleType::Tcp4)]).unwrap();
    assert_eq!(found(&before, &tcp4(None)), Some(5));
    assert_eq!(found(&table, &tcp4(None)), Some(3));
    table.delete(&[3]).unwrap();
    assert_eq!(found(&table, &tcp4(None)), Some(70));
    assert_eq!((before.rules().count(), table.rules().count()), (2, 1));
}

proptest! {
    #[test]
    fn lookup_is_a_linear_scan(
        (frames, rules, deleted) in vec(frames(), 1..8).prop_flat_map(|frames| {
            let rules = rules_about(frames.clone());
            (Just(frames), rules, vec(any::<prop::sample::Index>(), 0..8))
        }),
        more in frames(),
    ) {
        // In several steps, so that replacing counts too.
        let mut table = RuleTable::default();
        for rules in rules.chunks(7) {
            table.set(rules).unwrap();
        }
        let mut expected: BTreeMap<u32, FlowRule> =
            rules.iter().map(|rule| (rule.location, *rule)).collect();
        for at in deleted {
            if let Some(location) = expected.keys().nth(at.index(64)).copied() {
                expected.remove(&location);
                table.delete(&[location]).unwrap();
            }
        }
        prop_assert!(table.rules().eq(expected.values()));
        for frame in frames.iter().chain([&more]) {
            let headers = Headers::parse(frame, frame.len());
            let scanned = expected.values().find(|rule| matches(rule, &headers, frame));
            prop_assert_eq!(table.lookup(&headers, frame), scanned);
            let candidate = table.candidate(&headers, frame);
            for candidate in [None, candidate] {
                let action = table.action(&headers, frame, candidate);
                prop_assert_eq!(action, scanned.map(|rule| rule.action));
            }
        }
    }

    #[test]
    fn a_rule_of_any_bytes_is_checked_or_refused(bytes: [u8; 64], rest: [u8; 64]) {
        let rule: abi::Rule = zerocopy::transmute!([bytes, rest]);
        if let Ok(rule) = FlowRule::try_from(&rule) {
            prop_assert!(first_outside(&rule.value, &rule.mask).is_none());
        }
    }

    #[test]
    fn any_header_bytes_can_be_looked_up(header_bytes in vec(any::<u8>(), 0..100), length in 0..200usize) {
        let table = table(&[any_of(1, RuleType::Ether), any_of(0, RuleType::Udp4)]);
        let headers = Headers::parse(&header_bytes, length);
        prop_assert_eq!(table.lookup(&headers, &header_bytes).is_some(), header_bytes.len() >= 12);
        prop_assert!(table.lookup(&headers, &[]).is_none());
    }
}
