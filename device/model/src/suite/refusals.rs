//! Refused commands and the detail of the response (docs/abi.md, "Responses"). A command that fails
//! changes nothing.

use std::mem::offset_of;

use zcnic_device::{
    abi::{self, Opcode, Status},
    features::Feature,
    limits::{MAX_RSS_CONTEXTS, MAX_RULES},
};
use zerocopy::{FromBytes, FromZeros, IntoBytes, little_endian::U64};

use super::{PAIRS, all_but, steering::rss};
use crate::{
    driver::{Driver, Failure, Transport},
    receive::Shape,
};

const QUEUES: u16 = PAIRS - 1;

/// Header fields of all commands.
pub fn request_header_fields_are_checked<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let mut driver = greeted(connect);
    let [.., last] = Opcode::ALL.map(u16::from);
    for opcode in [0, 2, last + 1, u16::MAX] {
        let refused = (Status::Unsupported, u32::from(opcode));
        assert_eq!(
            raw(&mut driver, |request| request.opcode = opcode.into()),
            refused
        );
    }
    for length in [0, 23, 25, 65536] {
        let refused = (Status::Invalid, offset_of!(abi::Request, length) as u32);
        assert_eq!(
            raw(&mut driver, |request| request.length = length.into()),
            refused
        );
    }
    let refused = (Status::Invalid, offset_of!(abi::Request, reserved) as u32);
    assert_eq!(
        raw(&mut driver, |request| request.reserved = 1.into()),
        refused
    );
    assert_eq!(raw(&mut driver, |_| {}), (Status::Ok, 0));
}

/// As openat2(2): missing bytes are zero, a longer request is from a newer driver.
pub fn shorter_and_longer_requests<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let mut driver = greeted(connect);
    let start = abi::RxqStart {
        queue: 1.into(),
        header_size: 2048.into(),
        ..Default::default()
    };
    let whole = start.as_bytes();
    let short = &whole[..offset_of!(abi::RxqStart, page_size)];
    driver
        .command(Opcode::RxqStart, short)
        .expect("page size and threshold are 0");
    driver.stop_receive(1).expect("stop");

    let refused = Failure::invalid(offset_of!(abi::RxqStart, header_size));
    let too_short = &whole[..offset_of!(abi::RxqStart, header_size)];
    assert_eq!(driver.command(Opcode::RxqStart, too_short), Err(refused));
    assert_eq!(
        driver.command(Opcode::RxqStart, &whole[..25]),
        Err(refused),
        "half a queue number"
    );

    let mut long = whole.to_vec();
    long.resize(100, 0);
    long[77] = 1;
    assert_eq!(
        driver.command(Opcode::RxqStart, &long),
        Err(Failure::invalid(77))
    );
    long[77] = 0;
    driver
        .command(Opcode::RxqStart, &long)
        .expect("zeroes are accepted");
    assert_eq!(driver.status().rx_running[0].get(), 0b10);
}

/// The parameters of RXQ_START.
pub fn receive_queues<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let mut driver = greeted(connect);
    let limits = driver.hello();
    let (header_max, page_max) = (limits.max_header_size.get(), limits.max_page_size.get());
    let field = |offset| Err(Failure::invalid(offset));
    let header = offset_of!(abi::RxqStart, header_size);
    let page = offset_of!(abi::RxqStart, page_size);
    let threshold = offset_of!(abi::RxqStart, hds_thresh);
    for queue in [QUEUES, QUEUES + 1, u16::MAX] {
        let refused = field(offset_of!(abi::RxqStart, queue));
        assert_eq!(
            start(&mut driver, |request| request.queue = queue.into()),
            refused
        );
    }
    let shape = field(offset_of!(abi::RxqStart, shape));
    assert_eq!(start(&mut driver, |request| request.shape = 2), shape);
    let chains = field(offset_of!(abi::RxqStart, max_chains));
    assert_eq!(
        start(&mut driver, |request| request.max_chains = 65),
        chains
    );
    for size in [0, 64, 200, header_max + 64] {
        assert_eq!(
            start(&mut driver, |request| request.header_size = size.into()),
            field(header)
        );
    }
    for size in [0, 255, page_max + 1] {
        assert_eq!(
            start(&mut driver, |request| request.page_size = size.into()),
            field(page)
        );
    }
    for bytes in [193, 256, u32::MAX] {
        let refused = start(&mut driver, |request| request.hds_thresh = bytes.into());
        assert_eq!(refused, field(threshold));
    }
    let mut linear = |change: fn(&mut abi::RxqStart)| {
        start(&mut driver, |request| {
            request.shape = abi::RxShape::Linear.into();
            request.page_size = 0.into();
            change(request);
        })
    };
    assert_eq!(
        linear(|request| request.header_size = 64.into()),
        field(header)
    );
    assert_eq!(
        linear(|request| request.header_size = 70_000.into()),
        field(header)
    );
    assert_eq!(
        linear(|request| request.page_size = 4096.into()),
        field(page)
    );
    assert_eq!(
        linear(|request| request.hds_thresh = 1.into()),
        field(threshold)
    );
    assert_eq!(driver.status().rx_running[0].get(), 0);
    assert_eq!(
        start(&mut driver, |request| request.hds_thresh = 192.into()),
        Ok(())
    );
}

/// SPLIT was not negotiated.
pub fn split_needs_its_feature<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let mut driver = without(connect, Feature::Split);
    let refused = unsupported(Feature::Split);
    assert_eq!(driver.start_receive(0, Shape::SPLIT), Err(refused));
    driver
        .start_receive(0, Shape::linear(2048))
        .expect("linear chains need no feature");
}

/// Starting is not idempotent, because parameters may differ; stopping is.
pub fn queues_start_once_and_stop_always<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let mut driver = greeted(connect);
    let busy = Err(Failure::refused(Status::Busy, 2));
    for _ in 0..2 {
        assert_eq!(driver.stop_transmit(2), Ok(0));
        driver.start_transmit(2).expect("start");
        assert_eq!(driver.start_transmit(2), busy);
        driver.start_receive(2, Shape::SPLIT).expect("start");
        assert_eq!(driver.start_receive(2, Shape::linear(2048)), busy);
        assert_eq!(driver.stop_receive(2), Ok(0));
        assert_eq!(driver.stop_transmit(2), Ok(0));
    }
    for opcode in [Opcode::RxqStop, Opcode::TxqStart, Opcode::TxqStop] {
        let queue = abi::QueueCommand {
            queue: QUEUES.into(),
            ..Default::default()
        };
        let refused = Failure::invalid(offset_of!(abi::QueueCommand, queue));
        assert_eq!(
            driver.command(opcode, queue.as_bytes()),
            Err(refused),
            "{opcode:?}"
        );
        let reserved = abi::QueueCommand {
            reserved1: 1.into(),
            ..Default::default()
        };
        let refused = Failure::invalid(offset_of!(abi::QueueCommand, reserved1));
        assert_eq!(
            driver.command(opcode, reserved.as_bytes()),
            Err(refused),
            "{opcode:?}"
        );
    }
}

/// The parameters of RSS_SET and RSS_DEL.
pub fn rss_contexts<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let mut driver = greeted(connect);
    let field = |offset| Err(Failure::invalid(offset));
    let context = field(offset_of!(abi::RssSet, context));
    assert_eq!(driver.set_rss(rss(MAX_RSS_CONTEXTS), &[0]), context);
    let symmetric = abi::RssSet {
        symmetric: 3.into(),
        ..rss(0)
    };
    assert_eq!(
        driver.set_rss(symmetric, &[0]),
        field(offset_of!(abi::RssSet, symmetric))
    );
    for entries in [0, 3, 1024] {
        let refused = driver.set_rss(rss(0), &vec![0; entries]);
        assert_eq!(
            refused,
            field(offset_of!(abi::RssSet, table_length)),
            "{entries} entries"
        );
    }
    for (flow, bits) in [
        (0, abi::FIELD_L4_SRC),
        (1, 0x8000),
        (2, abi::FIELD_FLOW_LABEL),
        (6, 1),
        (7, 1),
    ] {
        let mut set = rss(0);
        set.fields[flow] = bits.into();
        let refused = field(offset_of!(abi::RssSet, fields) + 2 * flow);
        assert_eq!(
            driver.set_rss(set, &[0]),
            refused,
            "{bits:#x} of flow type {flow}"
        );
    }
    let table = field(size_of::<abi::RssSet>() + 2 * 5);
    assert_eq!(
        driver.set_rss(rss(0), &[0, 1, 2, 3, 0, QUEUES, 0, 0]),
        table
    );
    let context = field(offset_of!(abi::RssDel, context));
    assert_eq!(driver.delete_rss(0), context);
    assert_eq!(
        driver.delete_rss(5),
        Err(Failure::refused(Status::NotFound, 5))
    );
}

/// Contexts other than 0 and symmetric hashes are features of their own.
pub fn rss_needs_its_features<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let mut driver = without(&connect, Feature::RssContexts);
    assert_eq!(
        driver.set_rss(rss(1), &[0]),
        Err(unsupported(Feature::RssContexts))
    );
    driver
        .set_rss(rss(0), &[0])
        .expect("context 0 is no feature");
    let mut driver = without(&connect, Feature::RssSymmetric);
    let symmetric = abi::RssSet {
        symmetric: 1.into(),
        ..rss(0)
    };
    assert_eq!(
        driver.set_rss(symmetric, &[0]),
        Err(unsupported(Feature::RssSymmetric))
    );
}

/// A context can't be deleted while a rule uses it.
pub fn rss_contexts_that_are_used_stay<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let mut driver = greeted(connect);
    driver.set_rss(rss(7), &[1]).expect("a context");
    let rule = abi::Rule {
        action: abi::RuleAction::Context.into(),
        context: 7.into(),
        ..Default::default()
    };
    driver.set_rules(&[rule]).expect("a rule");
    assert_eq!(driver.delete_rss(7), Err(Failure::refused(Status::Busy, 7)));
    driver.delete_rules(&[0]).expect("the rule exists");
    driver.delete_rss(7).expect("no rule uses it any more");
}

/// The fields of a rule; the offset counts from the start of the request.
pub fn rules<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let mut driver = greeted(connect);
    let mut refused = |offset: usize, change: fn(&mut abi::Rule)| {
        let mut rule = abi::Rule {
            action: abi::RuleAction::Queue.into(),
            ..Default::default()
        };
        driver.set_rules(&[rule]).expect("this rule alone is fine");
        change(&mut rule);
        let second = size_of::<abi::RuleSet>() + size_of::<abi::Rule>();
        let expected = Err(Failure::invalid(second + offset));
        assert_eq!(driver.set_rules(&[abi::Rule::default(), rule]), expected);
    };
    refused(offset_of!(abi::Rule, location), |rule| {
        rule.location = MAX_RULES.into();
    });
    refused(offset_of!(abi::Rule, rule_type), |rule| rule.rule_type = 7);
    refused(offset_of!(abi::Rule, action), |rule| rule.action = 3);
    refused(offset_of!(abi::Rule, queue), |rule| {
        rule.queue = QUEUES.into();
    });
    refused(offset_of!(abi::Rule, context), |rule| {
        rule.action = abi::RuleAction::Context.into();
        rule.context = 9.into();
    });
    refused(offset_of!(abi::Rule, reserved0), |rule| {
        rule.reserved0 = 1.into();
    });
    refused(offset_of!(abi::Rule, value.reserved), |rule| {
        rule.value.reserved = 0x0100.into();
    });
    refused(offset_of!(abi::Rule, mask.l4_src), |rule| {
        rule.rule_type = abi::RuleType::Ipv4.into();
        rule.mask.l4_src = 0x0100.into();
    });
    refused(offset_of!(abi::Rule, value.eth_dst) + 5, |rule| {
        rule.value.eth_dst[5] = 1;
    });
}

/// Both commands check everything before they change anything.
pub fn rules_are_set_and_deleted_all_or_none<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let mut driver = greeted(connect);
    let rule = |location: u32| abi::Rule {
        location: location.into(),
        ..Default::default()
    };
    let mut bad = rule(3);
    bad.action = 9;
    driver
        .set_rules(&[rule(1), rule(2), bad])
        .expect_err("the last one");
    let not_found = |location| Err(Failure::refused(Status::NotFound, location));
    assert_eq!(driver.delete_rules(&[1]), not_found(1));
    driver
        .set_rules(&[rule(1), rule(2)])
        .expect("both are fine");
    assert_eq!(driver.delete_rules(&[1, 2, 8]), not_found(8));
    driver.delete_rules(&[2, 1]).expect("both are still there");
    assert_eq!(driver.delete_rules(&[1]), not_found(1));
    driver.set_rules(&[]).expect("no rule is fine");
    let most: Vec<_> = (0..400).map(rule).collect();
    driver.set_rules(&most).expect("a full request");
}

/// RULES was not negotiated.
pub fn rules_need_their_feature<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let mut driver = without(connect, Feature::Rules);
    assert_eq!(driver.set_rules(&[]), Err(unsupported(Feature::Rules)));
}

/// The parameters of RX_MODE.
pub fn receive_mode<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let mut driver = greeted(connect);
    let flags = Err(Failure::invalid(offset_of!(abi::RxMode, flags)));
    assert_eq!(driver.receive_mode(4, &[]), flags);
    let reserved = abi::RxMode {
        reserved: 1.into(),
        ..Default::default()
    };
    let refused = Err(Failure::invalid(offset_of!(abi::RxMode, reserved)));
    assert_eq!(driver.command(Opcode::RxMode, reserved.as_bytes()), refused);
    driver
        .receive_mode(3, &vec![[2; 6]; 10_000])
        .expect("many addresses");
}

/// Only negotiated features that can be switched are accepted.
pub fn offloads<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let mut driver = without(connect, Feature::RxHash);
    assert_eq!(
        driver.offloads(&[Feature::RxHash]),
        Err(unsupported(Feature::RxHash))
    );
    let segmentation = [Feature::RxCsum, Feature::Tso4];
    assert_eq!(
        driver.offloads(&segmentation),
        Err(unsupported(Feature::Tso4))
    );
    assert_eq!(
        driver.offloads(&[Feature::Gro]),
        Err(Failure::invalid(offset_of!(abi::Offloads, features))),
        "GRO needs verified checksums"
    );
    let request = abi::Offloads {
        features: [U64::new(0), U64::new(1)],
        ..Default::default()
    };
    let refused = Err(Failure::refused(Status::Unsupported, 64));
    assert_eq!(
        driver.command(Opcode::Offloads, request.as_bytes()),
        refused
    );
}

/// COALESCE accepts any limits, if it was negotiated.
pub fn interrupt_moderation<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let mut driver = without(&connect, Feature::Coalesce);
    let refused = Err(unsupported(Feature::Coalesce));
    assert_eq!(driver.set_moderation((1, 1), (1, 1)), refused);
    let mut driver = greeted(connect);
    driver
        .set_moderation((u16::MAX, u16::MAX), (u16::MAX, u16::MAX))
        .expect("the largest limits");
    let mut longer = abi::Coalesce::default().as_bytes().to_vec();
    longer.push(1);
    assert_eq!(
        driver.command(Opcode::Coalesce, &longer),
        Err(Failure::invalid(longer.len() - 1))
    );
}

/// MTU accepts any number, if it was negotiated.
pub fn the_mtu<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let mut driver = without(&connect, Feature::Mtu);
    assert_eq!(driver.set_mtu(1500), Err(unsupported(Feature::Mtu)));
    let mut driver = greeted(connect);
    for mtu in [0, 68, u32::MAX] {
        driver.set_mtu(mtu).expect("any MTU");
    }
    let request = abi::Mtu {
        reserved: 1.into(),
        ..Default::default()
    };
    let refused = Err(Failure::invalid(offset_of!(abi::Mtu, reserved)));
    assert_eq!(driver.command(Opcode::Mtu, request.as_bytes()), refused);
}

/// CLOCK_ADJUST needs TIMESTAMP, and the frequency has limits.
pub fn clock_adjustments<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let mut driver = without(&connect, Feature::Timestamp);
    let refused = Err(unsupported(Feature::Timestamp));
    assert_eq!(driver.adjust_clock(0, 0), refused);
    let mut driver = greeted(connect);
    let highest = abi::CLOCK_MAX_PPB * 65536 / 1000;
    for frequency in [highest, -highest] {
        driver.adjust_clock(0, frequency).expect("the limit");
    }
    let refused = Err(Failure::invalid(offset_of!(abi::ClockAdjust, frequency)));
    for frequency in [highest + 1, -highest - 1, i64::MIN, i64::MAX] {
        assert_eq!(driver.adjust_clock(7_000_000_000, frequency), refused);
    }
    let (time, device) = driver.clocks().expect("a reading");
    assert!(
        time.abs_diff(device) < 1_000_000_000,
        "a step of 7 s was made"
    );
}

/// STATS accepts ranges of existing pairs.
pub fn counters<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let mut driver = greeted(connect);
    let mut stats = |first: u16, count: u16| {
        let request = abi::Stats {
            first: first.into(),
            count: count.into(),
            ..Default::default()
        };
        driver
            .command(Opcode::Stats, request.as_bytes())
            .map(|response| response.len())
    };
    let (fixed, queue) = (
        size_of::<abi::StatsResponse>(),
        size_of::<abi::QueueStats>(),
    );
    assert_eq!(stats(0, QUEUES), Ok(fixed + queue * usize::from(QUEUES)));
    assert_eq!(stats(QUEUES, 0), Ok(fixed));
    assert_eq!(
        stats(QUEUES + 1, 0),
        Err(Failure::invalid(offset_of!(abi::Stats, first)))
    );
    let count = Err(Failure::invalid(offset_of!(abi::Stats, count)));
    assert_eq!(stats(0, QUEUES + 1), count);
    assert_eq!(stats(1, QUEUES), count);
    assert_eq!(stats(1, u16::MAX), count);
}

/// Requests with an array end with it; no request is longer than 64 KiB.
pub fn a_request_is_as_long_as_its_header_says<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let mut driver = greeted(connect);
    let length = Err(Failure::invalid(offset_of!(abi::Request, length)));
    let fixed = abi::RuleDel {
        count: 2.into(),
        ..Default::default()
    };
    for bytes in [0, 4, 7, 9, 12] {
        let request = [fixed.as_bytes(), &vec![0; bytes]].concat();
        assert_eq!(
            driver.command(Opcode::RuleDel, &request),
            length,
            "{bytes} bytes of array"
        );
    }
    let endless = abi::RuleSet {
        count: u32::MAX.into(),
        ..Default::default()
    };
    assert_eq!(driver.command(Opcode::RuleSet, endless.as_bytes()), length);
    assert_eq!(
        driver.command(Opcode::Status, &vec![0; abi::MAX_REQUEST + 1]),
        length
    );
    driver
        .command(Opcode::Status, &vec![0; abi::MAX_REQUEST])
        .expect("64 KiB are allowed");
}

/// All commands and refused commands are counted separately.
pub fn refused_commands_are_counted<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let mut driver = greeted(connect);
    let (before, _) = driver.stats();
    for _ in 0..3 {
        driver.delete_rss(0).expect_err("context 0 stays");
    }
    let (after, _) = driver.stats();
    assert_eq!(after.commands.get() - before.commands.get(), 4);
    assert_eq!(
        after.commands_refused.get() - before.commands_refused.get(),
        3
    );
}

fn greeted<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) -> Driver<T> {
    let [mut driver, _] = connect(PAIRS);
    driver.hello();
    driver
}

/// A driver with all features but one.
fn without<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2], feature: Feature) -> Driver<T> {
    let [mut driver, _] = connect(PAIRS);
    let request = abi::Hello {
        features: all_but(feature).to_words(),
        ..driver.hello_request()
    };
    driver
        .try_hello(request)
        .expect("features are the driver's choice");
    assert!(!driver.features().has(feature));
    driver
}

fn unsupported(feature: Feature) -> Failure {
    Failure::refused(Status::Unsupported, feature as u32)
}

/// RXQ_START of a split queue with one change.
fn start<T: Transport>(
    driver: &mut Driver<T>,
    change: impl FnOnce(&mut abi::RxqStart),
) -> Result<(), Failure> {
    let mut request = abi::RxqStart {
        shape: abi::RxShape::Split.into(),
        header_size: 256.into(),
        page_size: 4096.into(),
        ..Default::default()
    };
    change(&mut request);
    driver
        .command(Opcode::RxqStart, request.as_bytes())
        .map(|_| ())
}

/// STATUS with a changed header.
fn raw<T: Transport>(
    driver: &mut Driver<T>,
    change: impl FnOnce(&mut abi::Request),
) -> (Status, u32) {
    let mut request = abi::Request {
        magic: abi::MAGIC.into(),
        opcode: u16::from(Opcode::Status).into(),
        sequence: 99.into(),
        length: 24.into(),
        session: driver.session().into(),
        ..abi::Request::new_zeroed()
    };
    change(&mut request);
    let response = driver.exchange(request.as_bytes()).expect("an answer");
    let (response, _) = abi::Response::read_from_prefix(&response).expect("a response header");
    (
        Status::try_from(response.status.get()).expect("a known status"),
        response.detail.get(),
    )
}
