//! HELLO, sessions and the command pair (docs/abi.md, "Command pair").

use std::mem::offset_of;

use zcnic_device::{
    abi::{self, Opcode, Status},
    features::{Feature, FeatureSet},
    limits,
    receive::MAX_CHAINS,
};
use zerocopy::{FromBytes, IntoBytes, little_endian::U64};

use super::{PAIRS, up};
use crate::{
    driver::{Driver, Failure, Transport},
    frames::{Flow, broadcast, pattern},
    receive::Shape,
};

/// The response to HELLO has all limits of the device.
pub fn hello_agrees_on_version_limits_and_features<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut driver, _] = connect(PAIRS);
    let hello = driver.hello();
    assert_eq!(hello.version.get(), abi::ABI_VERSION);
    assert_eq!(FeatureSet::from_words(hello.features), FeatureSet::ALL);
    assert_eq!(hello.max_rss_contexts.get(), limits::MAX_RSS_CONTEXTS);
    assert_eq!(hello.max_rss_table.get(), limits::MAX_RSS_TABLE);
    assert_eq!(usize::from(hello.max_chains.get()), MAX_CHAINS);
    assert_eq!(hello.max_rules.get(), limits::MAX_RULES);
    assert_eq!(hello.max_frame.get() as usize, limits::MAX_FRAME);
    let largest = (hello.max_header_size.get(), hello.max_page_size.get());
    driver
        .start_receive(0, Shape::split(largest.0, largest.1))
        .expect("limits are reached");
}

/// Features of only one side are not negotiated, in either word.
pub fn hello_negotiates_common_features_only<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut driver, _] = connect(PAIRS);
    let split = 1u64 << Feature::Split as u32;
    let request = abi::Hello {
        features: [U64::new(split | 1 << 63), U64::new(1)],
        ..driver.hello_request()
    };
    let hello = driver
        .try_hello(request)
        .expect("unknown features are no error");
    assert_eq!(hello.features, [U64::new(split), U64::new(0)]);
}

/// The driver's range must contain the device's version.
pub fn hello_without_a_common_version_returns_the_devices<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut driver, _] = connect(PAIRS);
    let version = abi::ABI_VERSION;
    for (from, to) in [
        (version + 1, version + 9),
        (0, version - 1),
        (version + 1, version),
    ] {
        let request = abi::Hello {
            version_min: from.into(),
            version_max: to.into(),
            ..driver.hello_request()
        };
        let refused = Failure::refused(Status::Version, u32::from(version));
        assert_eq!(driver.try_hello(request), Err(refused), "{from} to {to}");
    }
    let request = abi::Hello {
        version_min: 0.into(),
        version_max: 9.into(),
        ..driver.hello_request()
    };
    let hello = driver
        .try_hello(request)
        .expect("a range that holds the version");
    assert_eq!(hello.version.get(), version);
}

/// The number of pairs determines the command pair, which must be the one that HELLO came from.
pub fn hello_must_come_from_the_last_pair<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut driver, _] = connect(PAIRS);
    for pairs in [0, 1, PAIRS - 1, PAIRS + 1, u16::MAX] {
        let request = abi::Hello {
            queue_pairs: pairs.into(),
            ..driver.hello_request()
        };
        let refused = Failure::invalid(offset_of!(abi::Hello, queue_pairs));
        assert_eq!(driver.try_hello(request), Err(refused), "{pairs} pairs");
    }
    driver.hello();
}

/// HELLO begins a session, so it can't carry one.
pub fn hello_carries_no_session<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut driver, _] = connect(PAIRS);
    let mut request = driver.hello_request();
    request.request = header(Opcode::Hello, size_of::<abi::Hello>(), 1);
    assert_eq!(
        status(&driver.exchange(request.as_bytes()).expect("an answer")),
        (Status::Invalid, offset_of!(abi::Request, session) as u32)
    );
}

/// A HELLO that is refused changes nothing.
pub fn a_refused_hello_leaves_the_session_alone<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut driver, _] = connect(PAIRS);
    driver.bring_up(Shape::SPLIT, 4);
    let request = abi::Hello {
        version_min: 77.into(),
        version_max: 77.into(),
        ..driver.hello_request()
    };
    driver.try_hello(request).expect_err("no such version");
    assert_eq!(driver.status().rx_running[0].get(), 0b1111);
    assert_eq!(driver.posted(0), 4);
}

/// HELLO is legal at any time, and resets everything.
pub fn hello_again_returns_every_chain_and_resets_the_port<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 16);
    let first = receiver.session();
    receiver.post_events(4);
    receiver.stop_transmit(1).expect("stop");
    for _ in 0..8 {
        receiver.enqueue(1, Flow::udp4().frame(&pattern(100)));
        sender.enqueue(0, Flow::udp4().frame(&pattern(100)));
    }
    let context = abi::RssSet {
        context: 3.into(),
        ..Default::default()
    };
    receiver.set_rss(context, &[1]).expect("a context");
    receiver
        .set_rules(&[abi::Rule {
            location: 9.into(),
            ..Default::default()
        }])
        .expect("a rule");

    // The driver checks at every HELLO that all chains are returned and none is written any more.
    receiver.hello();
    assert_ne!(receiver.session(), first);
    sender.flush(0);
    receiver.receive_all();

    let status = receiver.status();
    assert_eq!(
        (status.rx_running[0].get(), status.tx_running[0].get()),
        (0, 0)
    );
    let gone = |number| Err(Failure::refused(Status::NotFound, number));
    assert_eq!(receiver.delete_rss(3), gone(3));
    assert_eq!(receiver.delete_rules(&[9]), gone(9));
    let filtered = receiver.stats().0.rx_filtered.get();
    sender.send(0, Flow::udp4().frame(&[]));
    assert_eq!(
        receiver.stats().0.rx_filtered.get(),
        filtered + 1,
        "no address is listed"
    );
    receiver.post(0, Shape::linear(2048), 1);
    receiver
        .start_receive(0, Shape::linear(2048))
        .expect("start");
    sender.send(0, Flow::udp4().to([0xff; 6]).frame(&pattern(60)));
    let received = receiver.receive(0);
    assert_eq!(received.header.frame_length.get(), 42 + 60);
    assert_eq!(
        (received.checksum(), received.header.hash_type),
        (None, 0),
        "offloads are off"
    );
}

/// Buffers from before HELLO are not written, because their owner is unknown.
pub fn hello_does_not_touch_buffers_posted_before<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut sender, mut receiver] = connect(PAIRS);
    sender.bring_up(Shape::SPLIT, 4);
    for queue in 0..receiver.data_pairs() {
        receiver.post(queue, Shape::SPLIT, 16);
    }
    sender.send(0, broadcast(&pattern(60)));
    receiver.hello();
    for queue in 0..receiver.data_pairs() {
        assert_eq!(receiver.take_returned(queue), 16);
    }
    receiver.post(0, Shape::SPLIT, 16);
    let stopped = receiver.stats().1[0].rx_stopped.get();
    sender.send(0, broadcast(&pattern(60)));
    assert_eq!(receiver.receive_all(), [], "queues are stopped");
    assert_eq!(receiver.stats().1[0].rx_stopped.get(), stopped + 1);
}

/// Without a HELLO there is no session.
pub fn a_request_without_session_is_stale<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut driver, _] = connect(PAIRS);
    let stale = Err(Failure::refused(Status::Stale, 0));
    assert_eq!(driver.start_transmit(0), stale);
    driver.hello();
    driver.start_transmit(0).expect("a session");
}

/// Requests of another session are not executed.
pub fn a_request_of_another_session_is_stale_and_not_executed<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut driver, _] = connect(PAIRS);
    driver.hello();
    let session = driver.session();
    let mut request = abi::QueueCommand::default();
    for session in [0, session + 1, session ^ 1 << 63] {
        request.request = header(Opcode::TxqStart, size_of::<abi::QueueCommand>(), session);
        let response = driver.exchange(request.as_bytes()).expect("an answer");
        assert_eq!(status(&response), (Status::Stale, 0));
    }
    assert_eq!(driver.status().tx_running[0].get(), 0);
}

/// A port does not write buffers of unknown origin.
pub fn an_undecided_port_receives_nothing<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = connect(PAIRS);
    sender.bring_up(Shape::SPLIT, 4);
    for queue in 0..PAIRS {
        receiver.post(queue, Shape::linear(2048), 8);
    }
    for _ in 0..4 {
        sender.send(0, broadcast(&pattern(60)));
    }
    assert_eq!(receiver.receive_all(), []);
    assert!((0..PAIRS).all(|queue| receiver.posted(queue) == 8));
}

/// STATUS reports queues and the link.
pub fn status_shows_which_queues_run<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut driver, _other] = connect(PAIRS);
    driver.hello();
    assert_eq!(driver.status().flags.get(), abi::STATUS_LINK_UP);
    driver.start_receive(2, Shape::SPLIT).expect("start");
    driver.start_transmit(3).expect("start");
    let status = driver.status();
    assert_eq!(
        (status.rx_running[0].get(), status.tx_running[0].get()),
        (0b100, 0b1000)
    );
    driver.stop_receive(2).expect("stop");
    assert_eq!(driver.status().rx_running[0].get(), 0);
}

/// A driver with too little room gets the part that fits, and sees from the length that there is
/// more.
pub fn a_response_is_truncated_to_the_room_there_is<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut driver, _] = connect(PAIRS);
    driver.hello();
    let request = header(Opcode::Status, size_of::<abi::Request>(), driver.session());
    let pair = usize::from(PAIRS) - 1;
    let room = size_of::<abi::Response>();
    let response = driver
        .exchange_on(pair, &[request.as_bytes()], room)
        .expect("an answer");
    let response = abi::Response::read_from_bytes(&response).expect("a truncated response");
    assert_eq!(
        response.length.get() as usize,
        size_of::<abi::StatusResponse>()
    );
}

/// A chain without magic is returned with length 0.
pub fn a_request_without_magic_is_not_executed<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut driver, _] = connect(PAIRS);
    driver.hello();
    let mut request = header(Opcode::Status, size_of::<abi::Request>(), driver.session());
    request.magic = 0x1234_5678.into();
    assert_eq!(
        driver.exchange(request.as_bytes()),
        Err(Failure::NotExecuted)
    );
    driver.status();
}

/// The command pair is the 128th: a frontend names a ring by one byte.
pub fn all_128_queue_pairs_work<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = connect(limits::MAX_QUEUE_PAIRS);
    sender.bring_up(Shape::SPLIT, 0);
    receiver.bring_up(Shape::SPLIT, 2);
    let last = limits::MAX_QUEUE_PAIRS - 2;
    let status = receiver.status();
    for words in [status.rx_running, status.tx_running] {
        assert_eq!(words.map(U64::get), [u64::MAX, u64::MAX >> 1]);
    }
    receiver
        .set_rss(super::steering::rss(0), &[last])
        .expect("the last data queue");
    for queue in [0, 31, 32, 63, 64, last] {
        let frame = Flow::udp4().ports(queue, 1).frame(&pattern(100));
        sender.send(queue, &frame);
        assert_eq!(receiver.receive(last).frame, frame);
        receiver.post(last, Shape::SPLIT, 1);
    }
    assert_eq!(receiver.stats().1.len(), usize::from(last) + 1);
    assert_eq!(receiver.stop_receive(last), Ok(2));
}

fn header(opcode: Opcode, length: usize, session: u64) -> abi::Request {
    abi::Request {
        magic: abi::MAGIC.into(),
        opcode: u16::from(opcode).into(),
        sequence: 1.into(),
        length: (length as u32).into(),
        session: session.into(),
        ..Default::default()
    }
}

fn status(response: &[u8]) -> (Status, u32) {
    let (response, _) = abi::Response::read_from_prefix(response).expect("a response header");
    let status = Status::try_from(response.status.get()).expect("a known status");
    (status, response.detail.get())
}
