//! Which frames a split queue splits, and where (docs/abi.md, "Receive").

use etherparse::{
    IpFragOffset, IpHeaders, Ipv4Options, Ipv6FragmentHeader, Ipv6RawExtHeader, ip_number,
};
use zcnic_device::{
    features::Feature,
    receive::{MAX_CHAINS, RX_HEADER},
};

use super::{up, up_without};
use crate::{
    driver::{Driver, Transport},
    frames::{Flow, broadcast, pattern},
    receive::Shape,
    verify,
};

/// They lie in the header buffers of as many chains as they take, where the driver can read them.
pub fn frames_that_are_neither_tcp_nor_udp_stay_whole<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut sender, mut receiver] = up(connect, Shape::SPLIT, 64);
    let room = 256 - RX_HEADER;
    let mut others = vec![broadcast(&pattern(46)), broadcast(&pattern(1486))];
    for payload in [20, 1000, 3000] {
        let mut icmp = Flow::tcp4().frame(&pattern(payload));
        icmp[23] = 1;
        let mut fragment = Flow::udp4();
        if let IpHeaders::Ipv4(header, _) = &mut fragment.ip {
            header.more_fragments = true;
        }
        others.extend([icmp, fragment.frame(&pattern(payload))]);
    }
    for (number, frame) in others.iter().enumerate() {
        sender.send(0, frame);
        let received = receiver.receive(0);
        assert_eq!((received.split_at(), &received.frame), (None, frame));
        assert_eq!(received.chains, frame.len().div_ceil(room));
        let stats = receiver.stats().1[0];
        assert_eq!(stats.rx_unsplit.get(), number as u64 + 1);
        receiver.post(0, Shape::SPLIT, received.chains);
    }
    let frame = Flow::tcp4().frame(&pattern(1000));
    sender.send(0, &frame);
    assert_eq!(receiver.receive(0).split_at(), Some(54));
    let stats = receiver.stats().1[0];
    assert_eq!((stats.rx_split.get(), stats.rx_long_headers.get()), (1, 0));
    assert_eq!(stats.rx_unsplit.get(), others.len() as u64);
}

/// Headers that are longer than the header buffer, or than what is parsed, are not torn apart.
pub fn long_headers_stay_with_their_payload<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up(connect, Shape::split(192, 4096), 64);
    let mut options = Flow::tcp4().tcp_header(|tcp| {
        tcp.set_options_raw(&[1; 40]).expect("40 bytes fit");
    });
    if let IpHeaders::Ipv4(header, _) = &mut options.ip {
        header.options = Ipv4Options::from([1; 40]);
    }
    let mut extended = Flow::tcp6();
    if let IpHeaders::Ipv6(_, extensions) = &mut extended.ip {
        let padding = Ipv6RawExtHeader::new_raw(ip_number::TCP, &[0; 254]);
        extensions.hop_by_hop_options = Some(padding.expect("a multiple of 8"));
    }
    // The device verifies no checksum behind headers that it does not parse.
    receiver.accept_anything();
    for (flow, header_length) in [(options, 134), (extended, 14 + 40 + 256 + 20)] {
        let before = receiver.stats().1[0];
        let frame = flow.frame(&pattern(500));
        assert_eq!(frame.len(), header_length + 500);
        sender.send(0, &frame);
        let received = receiver.receive(0);
        assert_eq!((received.split_at(), &received.frame), (None, &frame));
        assert_eq!(received.chains, frame.len().div_ceil(192 - RX_HEADER));
        let after = receiver.stats().1[0];
        for (before, after) in [
            (before.rx_long_headers, after.rx_long_headers),
            (before.rx_unsplit, after.rx_unsplit),
        ] {
            assert_eq!(after.get(), before.get() + 1);
        }
    }
}

/// They have a counter of their own.
pub fn whole_frames_beyond_the_header_buffers_are_dropped<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut sender, mut receiver] = up(connect, Shape::split(192, 4096), 100);
    let longest = MAX_CHAINS * (192 - RX_HEADER);
    sender.send(0, broadcast(&pattern(longest - 14 + 1)));
    assert_eq!((receiver.receive_all(), receiver.posted(0)), (vec![], 100));
    sender.send(0, broadcast(&pattern(longest - 14)));
    assert_eq!(receiver.receive(0).chains, MAX_CHAINS);
    let stats = receiver.stats().1[0];
    assert_eq!(stats.rx_unsplit_too_long.get(), 1);
    assert_eq!((stats.rx_too_long.get(), stats.rx_unsplit.get()), (0, 1));
}

/// A fragment has no L4 header that could be distinguished from payload. (This and the next three
/// are about queues that split all frames.)
pub fn fragments_are_split_behind_ip<T: Transport>(connect: impl Fn(u16) -> [Driver<T>; 2]) {
    let [mut sender, mut receiver] = up_without(connect, Feature::SplitL4, Shape::SPLIT, 16);
    for (more, offset) in [(true, 0), (true, 10), (false, 10)] {
        let offset = IpFragOffset::try_new(offset).expect("13 bits");
        let (mut v4, mut v6) = (Flow::udp4(), Flow::udp6());
        if let IpHeaders::Ipv4(header, _) = &mut v4.ip {
            header.more_fragments = more;
            header.fragment_offset = offset;
        }
        if let IpHeaders::Ipv6(_, extensions) = &mut v6.ip {
            extensions.fragment = Some(Ipv6FragmentHeader::new(ip_number::UDP, offset, more, 77));
        }
        for (flow, l3_end) in [(v4, 34), (v6, 62)] {
            let frame = flow.frame(&pattern(800));
            sender.send(0, &frame);
            let received = receiver.receive(0);
            assert_eq!(
                (received.split_at(), received.checksum()),
                (Some(l3_end), None)
            );
            assert_eq!(received.frame, frame);
        }
    }
}

/// Ethernet and IP headers are parsed even if the next header is unknown.
pub fn unknown_protocols_are_split_behind_the_last_known_header<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut sender, mut receiver] = up_without(connect, Feature::SplitL4, Shape::SPLIT, 8);
    let mut icmp = Flow::tcp4().frame(&pattern(100));
    icmp[23] = 1;
    for (frame, split_at) in [(broadcast(&pattern(100)), 14), (icmp, 34)] {
        sender.send(0, &frame);
        let received = receiver.receive(0);
        assert_eq!(
            (received.split_at(), received.checksum()),
            (Some(split_at), None)
        );
        assert_eq!(received.frame, frame);
    }
}

/// A truncated packet is delivered unchanged, and its headers behind IP are not parsed.
pub fn truncated_packets_are_split_behind_ip<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut sender, mut receiver] = up_without(connect, Feature::SplitL4, Shape::SPLIT, 8);
    receiver
        .set_rss(super::steering::rss(0), &[0])
        .expect("RSS");
    for flow in Flow::all() {
        let mut frame = flow.frame(&pattern(300));
        let (_, l3_end) = verify::dissect(&frame).l3.expect("IP");
        frame.truncate(frame.len() - 10);
        sender.send(0, &frame);
        let received = receiver.receive(0);
        assert_eq!(
            (received.split_at(), received.checksum()),
            (Some(l3_end), None)
        );
        assert!(
            matches!(received.header.hash_type, 1 | 4),
            "hashed without ports"
        );
        assert_eq!(received.frame, frame);
    }
}

/// No frame is dropped because its headers are long.
pub fn headers_that_do_not_fit_are_split_at_the_last_boundary_that_does<T: Transport>(
    connect: impl Fn(u16) -> [Driver<T>; 2],
) {
    let [mut sender, mut receiver] =
        up_without(connect, Feature::SplitL4, Shape::split(192, 4096), 8);
    let mut flow = Flow::tcp4().tcp_header(|tcp| {
        tcp.set_options_raw(&[1; 40]).expect("40 bytes fit");
    });
    if let IpHeaders::Ipv4(header, _) = &mut flow.ip {
        header.options = Ipv4Options::from([1; 40]);
    }
    let frame = flow.frame(&pattern(500));
    let parts = verify::dissect(&frame);
    assert_eq!(
        parts.l4.expect("TCP").end,
        134,
        "more than the fragment's 128 bytes"
    );
    sender.send(0, &frame);
    let received = receiver.receive(0);
    assert_eq!(received.split_at(), Some(74));
    assert_eq!(received.split_at(), Some(parts.split_point(128)));
    assert_eq!((received.frame, received.header.hash_type), (frame, 0));
}
