//! Target `frames`: parses a frame, steers it by any configuration, and splits it.

use std::collections::BTreeMap;

use zcnic_backend::fuzzing::Input;
use zcnic_device::{
    abi::{Address, Flow, RSS_KEY_SIZE, RssSet, Rule, RuleAction, RuleType, RxMode},
    filter::AddressFilter,
    frame::{Headers, SNAPSHOT},
    rss::DEFAULT_KEY,
    rules::FlowAction,
    steering::{Steering, SteeringDecision},
    train::finished,
};
use zcnic_model::verify::toeplitz;
use zerocopy::{FromBytes, IntoBytes, little_endian::U16};

use crate::plainly;

/// # Panics
///
/// An offset lies outside the frame, more header bytes change what was found in fewer, a split
/// point is behind the headers, or the frame is steered otherwise than by a plain reading of the
/// configuration.
pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut setting = Input::new(input.counted(400));
    let beyond = usize::from(input.byte());
    let frame = input.rest();
    let length = frame.len() + beyond;
    let headers = Headers::parse(frame, length);
    check_places(&headers, frame, length);
    check_prefixes(&headers, frame, length);
    check_split(&headers);
    check_steering(&headers, frame, &mut setting);
}

fn check_places(headers: &Headers, frame: &[u8], length: usize) {
    let known = frame.len().min(length).min(SNAPSHOT);
    assert!(headers.l2_end <= known, "the Ethernet header");
    if let Some(l3) = headers.l3 {
        assert_eq!(l3.offset, headers.l2_end);
        assert!(
            l3.offset + 20 <= l3.payload_offset && l3.payload_offset <= known,
            "the IP header"
        );
        assert!(
            (l3.payload_offset..=length).contains(&l3.payload_end),
            "the IP payload"
        );
        let (source, destination) = headers
            .addresses(frame)
            .expect("an IP header has addresses");
        assert_eq!(source.len(), destination.len());
    }
    if let Some(l4) = headers.l4 {
        let l3 = headers.l3.expect("TCP and UDP are in IP");
        assert!(!l3.fragment && l4.offset == l3.payload_offset);
        assert!(
            l4.offset + 8 <= l4.payload_offset && l4.payload_offset <= known,
            "the L4 header"
        );
        let end = l4.payload_offset..=l3.payload_end;
        assert!(end.contains(&l4.payload_end), "the L4 payload");
        let ports = [
            l4.source_port.to_be_bytes(),
            l4.destination_port.to_be_bytes(),
        ]
        .concat();
        assert_eq!(ports, frame[l4.offset..l4.offset + 4], "ports");
    }
}

/// A first look that found all headers finds the same as a look at more bytes does.
fn check_prefixes(headers: &Headers, frame: &[u8], length: usize) {
    for end in [64, 96, 128, 192] {
        if end >= frame.len() {
            break;
        }
        let first = Headers::parse(&frame[..end], length);
        if first.l4.is_some() {
            assert_eq!(&first, headers, "headers in the first {end} bytes");
        }
        assert!(first.l2_end <= headers.l2_end || headers.l2_end == 0);
        if headers.payload_offset() <= end && headers.l4.is_some() {
            assert_eq!(&first, headers, "headers that end within {end} bytes");
        }
    }
}

fn check_split(headers: &Headers) {
    let end = headers.payload_offset();
    for room in (0..=end + 1).chain([SNAPSHOT, usize::MAX]) {
        let at = headers.split_point(room);
        assert!(
            at <= room && at <= end,
            "split at {at} with {room} bytes of room, headers to {end}"
        );
    }
}

fn check_steering(headers: &Headers, frame: &[u8], setting: &mut Input<'_>) {
    let queues = setting.below(16) as u16 + 1;
    let mut steering = Steering::new(queues);
    let mode = RxMode {
        flags: u16::from(setting.byte() & 3).into(),
        ..RxMode::default()
    };
    let own = frame.first_chunk().copied().unwrap_or_default();
    let listed = [
        Address { octets: own },
        Address {
            octets: setting.array(),
        },
    ];
    let count = setting.below(3);
    let filter = AddressFilter::from_request(&mode, &listed[..count]).expect("known flags");
    steering.set_filter(filter);
    let mut keys = BTreeMap::new();
    // Contexts and rules that are invalid change nothing.
    for context in 0..setting.below(3) as u16 {
        let mut fields = [U16::new(0); 8];
        fields
            .iter_mut()
            .for_each(|field| *field = u16::from(setting.byte() & 0x1f).into());
        let mut set = RssSet {
            context: context.into(),
            symmetric: u16::from(setting.byte() % 3).into(),
            fields,
            key: DEFAULT_KEY,
            ..RssSet::default()
        };
        set.key[0] ^= setting.byte();
        let table: Vec<U16> = (0..1 << setting.below(4))
            .map(|_| u16::from(setting.byte() % 17).into())
            .collect();
        if steering.set_context(&set, &table).is_ok() {
            keys.insert(context, set.key);
        }
    }
    for _ in 0..setting.below(5) {
        let _ = steering.set_rules(&[rule(headers, frame, setting)]);
    }
    let found = steering.steer(headers, frame);
    let train = finished(frame);
    if train.headers() == headers {
        let candidate = steering.candidate(headers, frame);
        let of_train = steering.steer_train(candidate, &train);
        assert!(
            of_train == found || of_train == SteeringDecision::Oversize,
            "the candidate changes the decision: {of_train:?} instead of {found:?}"
        );
    }
    assert_eq!(found, decide(&steering, &keys, queues, (headers, frame)));
}

/// A rule about some of the frame's own fields, so that it is likely to match.
fn rule(headers: &Headers, frame: &[u8], setting: &mut Input<'_>) -> Rule {
    let types = RuleType::ALL;
    let mut mask = Flow::default();
    for _ in 0..setting.below(4) {
        let (at, bits) = (setting.below(size_of::<Flow>()), setting.byte());
        mask.as_mut_bytes()[at] = bits;
    }
    let have = if frame.len() < 12 {
        Flow::default()
    } else {
        plainly::flow_of(headers, frame)
    };
    let bytes: Vec<u8> = have
        .as_bytes()
        .iter()
        .zip(mask.as_bytes())
        .map(|(have, mask)| have & mask)
        .collect();
    let mut value = Flow::read_from_bytes(&bytes).expect("as long as a flow");
    if setting.byte() & 7 == 0 {
        value = Flow::default();
    }
    Rule {
        location: u32::from(setting.byte()).into(),
        rule_type: types[setting.below(types.len())].into(),
        action: RuleAction::ALL[setting.below(3)].into(),
        queue: u16::from(setting.byte() % 17).into(),
        context: u16::from(setting.byte() % 3).into(),
        value,
        mask,
        ..Rule::default()
    }
}

/// The decision by the configuration as it can be read.
fn decide(
    steering: &Steering,
    keys: &BTreeMap<u16, [u8; RSS_KEY_SIZE]>,
    queues: u16,
    (headers, frame): (&Headers, &[u8]),
) -> SteeringDecision {
    let filter = steering.filter();
    let accepted = frame.first_chunk::<6>().is_some_and(|to| {
        let multicast = filter.allmulti() && to[0] & 1 != 0;
        filter.promisc() || *to == [0xff; 6] || multicast || filter.addresses().contains(to)
    });
    // Without an Ethernet header there is no address.
    if !accepted {
        return SteeringDecision::Filtered;
    }
    let mut rules: Vec<_> = steering.rules().collect();
    rules.sort_by_key(|rule| rule.location);
    let hit = rules
        .into_iter()
        .find(|rule| plainly::matches(rule, headers, frame));
    let (number, fixed, offset) = match hit.map(|rule| rule.action) {
        Some(FlowAction::Drop) => return SteeringDecision::RuleDrop,
        Some(FlowAction::Queue(queue)) => (0, Some(queue), 0),
        Some(FlowAction::Context { context, offset }) => (context, None, offset),
        None => (0, None, 0),
    };
    let mut contexts = steering.contexts();
    let (_, context) = contexts
        .find(|(known, _)| *known == number)
        .expect("the rule's context");
    let flow = plainly::flow_type(headers);
    let fields = context.fields().find(|(known, _)| Some(*known) == flow);
    // The same crate knows the symmetric transforms; its value is taken for those.
    let hash = context.hash(headers, frame);
    assert_eq!(
        hash.is_some(),
        fields.is_some(),
        "frames with hash fields have a hash"
    );
    if let (Some(hash), Some((_, fields))) = (hash, fields)
        && u16::from(context.symmetric()) == 0
    {
        let input = plainly::hash_input(headers, frame, fields);
        assert_eq!(
            hash.value,
            toeplitz(&keys[&number], &input),
            "the hash of {input:x?}"
        );
    }
    let entry = hash.map_or(0, |hash| hash.value as usize) % context.table().len();
    let queue = fixed.unwrap_or(context.table()[entry].saturating_add(offset));
    SteeringDecision::Queue {
        queue: queue.min(queues - 1),
        hash,
    }
}
