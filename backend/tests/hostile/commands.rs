//! Guests whose commands, transmit headers and frames are not those of a driver.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
};

use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestRng},
};
use serde_json::{Value, json};
use zcnic_device::abi::{self, MAGIC, Opcode, RuleAction, RuleType};
use zcnic_device::features::Feature;
use zcnic_model::{
    Driver, Packet, Shape, Transport,
    frames::{Flow, broadcast, pattern},
    vhost_user::Frontend,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::attacked::{PAIRS, attack};

const COMMAND_PAIR: usize = PAIRS as usize - 1;

/// Room for a response.
const ROOM: usize = 4096;

/// A request with this body.
fn request(driver: &Driver<Frontend>, opcode: u16, body: &[u8]) -> Vec<u8> {
    let header = abi::Request {
        magic: MAGIC.into(),
        opcode: opcode.into(),
        sequence: 1.into(),
        length: ((size_of::<abi::Request>() + body.len()) as u32).into(),
        session: driver.session().into(),
        ..Default::default()
    };
    [header.as_bytes(), body].concat()
}

/// Sends requests from a guest with a session; each chain is returned, with an answer or without.
fn requests(make: impl Fn(&Driver<Frontend>) -> Vec<Vec<u8>>) {
    attack(|target| {
        let mut hostile = target.guest(1, 4);
        for bytes in make(&hostile) {
            let _ = hostile.exchange_on(COMMAND_PAIR, &[&bytes], ROOM);
        }
        // The device works as before once its driver does.
        hostile.hello();
        hostile.status();
    });
}

fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A test for each opcode and body.
macro_rules! bodies {
    ($($name:ident: $opcode:ident, $bodies:expr;)*) => {
        $(#[test]
        fn $name() {
            requests(|driver| {
                let bodies: Vec<Vec<u8>> = $bodies.into_iter().collect();
                let make = |body: &Vec<u8>| request(driver, u16::from(Opcode::$opcode), body);
                bodies.iter().map(make).collect()
            });
        })*
    };
}

/// A body that begins with 16-bit words.
fn halves(words: &[u16], rest: usize) -> Vec<u8> {
    let words = words.iter().flat_map(|word| word.to_le_bytes());
    words.chain(vec![0; rest]).collect()
}

bodies! {
    rules_of_another_number_than_there_are: RuleSet,
        [0, 1, 2, 481, 1 << 31, u32::MAX].map(|count| [bytes_of(&[count, 0]), vec![0; 128]].concat());
    deletions_of_another_number_than_there_are: RuleDel,
        [0, 1, 2, 1 << 30, u32::MAX].map(|count| bytes_of(&[count, 0, 0]));
    addresses_of_another_number_than_there_are: RxMode,
        [0, 1, 10_000, 65_535].map(|count| halves(&[0, count, 0, 0], 6));
    ten_thousand_addresses: RxMode, [halves(&[0, 10_000, 0, 0], 60_000)];
    indirection_tables_of_all_lengths: RssSet,
        [0, 1, 3, 511, 512, 513, 1024, 32_768, 65_535]
            .map(|length| halves(&[0, 0, length, 0], 68 + 2 * usize::from(length.min(30_000))));
    rss_contexts_that_do_not_exist: RssSet,
        [1, 127, 128, 65_535].map(|context| halves(&[context, 0, 1, 0], 70));
    deletions_of_rss_contexts_that_do_not_exist: RssDel,
        [0, 1, 128, 65_535].map(|context| halves(&[context, 0, 0, 0], 0));
    queues_that_do_not_exist: RxqStop,
        [3, 127, 128, 32_768, 65_535].map(|queue| halves(&[queue, 0, 0, 0], 0));
    transmit_queues_that_do_not_exist: TxqStart,
        [2, 127, 128, 32_768, 65_535].map(|queue| halves(&[queue, 0, 0, 0], 0));
    receive_queues_with_sizes_that_can_not_be: RxqStart,
        [0, 1, 63, 1 << 16, 1 << 31, u32::MAX]
            .map(|size| [halves(&[0, 1], 0), bytes_of(&[size, size, size])].concat());
    statistics_of_queues_that_do_not_exist: Stats,
        [0, 1, 128, 65_535].map(|count| halves(&[65_535, count, 0, 0], 0));
    all_features_that_there_are_not: Offloads, [vec![0xff; 16], vec![0xff; 1], vec![]];
    moderation_of_the_longest_times: Coalesce, [halves(&[65_535; 4], 0), halves(&[65_535; 2], 0)];
    a_request_of_64_kibibytes: RuleSet, [vec![0; 65_536 - 24]];
    a_request_of_a_byte_more_than_64_kibibytes: RuleSet, [vec![0; 65_536 - 23]];
    a_request_of_200_kilobytes: RuleSet, [vec![0; 200_000]];
    hellos_of_every_length: Hello, (0..80).map(|length| vec![1; length]);
}

#[test]
fn requests_shorter_than_their_header() {
    requests(|driver| {
        let whole = request(driver, u16::from(Opcode::Status), &[]);
        (1..whole.len())
            .map(|length| whole[..length].to_vec())
            .collect()
    });
}

#[test]
fn requests_with_a_length_that_is_not_theirs() {
    requests(|driver| {
        let whole = request(driver, u16::from(Opcode::Status), &[]);
        let with = |length: u32| {
            let mut bytes = whole.clone();
            bytes[12..16].copy_from_slice(&length.to_le_bytes());
            bytes
        };
        [0, 1, 23, 25, 65_536, u32::MAX].map(with).to_vec()
    });
}

#[test]
fn hellos_with_noise_in_every_field() {
    attack(|target| {
        let mut hostile = target.guest(1, 4);
        let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        for _ in 0..200 {
            let mut hello = hostile.hello_request();
            let good = request(&hostile, u16::from(Opcode::Hello), &hello.as_bytes()[24..]);
            let mut bytes = good;
            for _ in 0..3 {
                let at = rng.next_u32() as usize % bytes.len();
                bytes[at] = [0, 0xff, 1, rng.next_u32() as u8][rng.next_u32() as usize % 4];
            }
            let _ = hostile.exchange_on(COMMAND_PAIR, &[&bytes], ROOM);
            hello.zero();
        }
        let mut honest = {
            drop(hostile);
            target.guest(1, 4)
        };
        honest.status();
    });
}

#[test]
fn opcodes_and_bodies_of_noise() {
    attack(|target| {
        let mut hostile = target.guest(1, 4);
        let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        for _ in 0..1500 {
            let mut body = vec![0; rng.next_u32() as usize % 200];
            if rng.next_u32().is_multiple_of(2) {
                rng.fill_bytes(&mut body);
            }
            // Not HELLO, after which the model driver's session is not the device's.
            let opcode = match rng.next_u32() % 4 {
                0 => rng.next_u32() as u16,
                _ => 2 + rng.next_u32() as u16 % 20,
            };
            let bytes = request(&hostile, opcode, &body);
            let _ = hostile.exchange_on(COMMAND_PAIR, &[&bytes], ROOM);
        }
        hostile.hello();
    });
}

#[test]
fn responses_without_room() {
    attack(|target| {
        let mut hostile = target.guest(1, 4);
        for room in [1, 2, 31, 32, 33] {
            let bytes = request(&hostile, u16::from(Opcode::Status), &[]);
            let _ = hostile.exchange_on(COMMAND_PAIR, &[&bytes], room);
        }
        hostile.hello();
    });
}

#[test]
fn commands_on_the_rings_of_frames() {
    attack(|target| {
        let mut hostile = target.guest(1, 4);
        for number in 0..300 {
            let bytes = request(&hostile, u16::from(Opcode::Status), &[]);
            let _ = hostile.exchange_on(number % 3, &[&bytes], ROOM);
        }
        hostile.hello();
    });
}

#[test]
fn sessions_begun_three_hundred_times() {
    attack(|target| {
        let mut hostile = target.guest(1, 4);
        for _ in 0..300 {
            hostile.hello();
        }
    });
}

/// A rule for a destination port.
fn rule(location: u32, port: u16, mask: u16) -> abi::Rule {
    let mut rule = abi::Rule {
        location: location.into(),
        rule_type: RuleType::Tcp4.into(),
        action: RuleAction::Queue.into(),
        ..Default::default()
    };
    rule.value.l4_dst = (port & mask).into();
    rule.mask.l4_dst = mask.into();
    rule
}

/// Sets rules at all locations there are, and replaces them.
fn rules(make: fn(u32) -> abi::Rule) {
    attack(|target| {
        let mut hostile = target.guest(1, 4);
        let all: Vec<_> = (0..16_384).map(make).collect();
        for _ in 0..2 {
            for some in all.chunks(400) {
                // A rule that there is no room for is refused.
                let _ = hostile.set_rules(some);
            }
        }
        assert!(hostile.set_rules(&[rule(16_384, 1, 0xffff)]).is_err());
        let steering: Value = target
            .control()
            .execute("query-steering", Some(&json!({"port": "1"})))
            .expect("an answer");
        assert!(steering["rules"].is_array(), "an answer with rules");
        hostile.hello();
    });
}

#[test]
fn rules_at_all_locations() {
    rules(|location| rule(location, location as u16, 0xffff));
}

/// The longest answer there is: clients ask for it many times at once, and do not read.
#[test]
fn the_longest_answers_for_all_clients_at_once() {
    attack(|target| {
        let mut hostile = target.guest(1, 4);
        let all: Vec<_> = (0..16_384).map(|at| rule(at, at as u16, 0xffff)).collect();
        for some in all.chunks(400) {
            hostile.set_rules(some).expect("there is room");
        }
        let query = json!({"execute": "query-steering", "arguments": {"port": "1"}});
        let clients = (0..12).map(|_| {
            let mut client = UnixStream::connect(target.control_path()).expect("a listener");
            let queries = format!("{query}\n").repeat(20);
            client.write_all(queries.as_bytes()).expect("they are read");
            client
        });
        let clients: Vec<_> = clients.collect();
        // Each is answered, and loses its connection if it then does not read for long.
        for (number, client) in clients.iter().enumerate() {
            let line = BufReader::new(client).split(b'\n').nth(1);
            let line = line.expect("an answer").unwrap_or_default();
            assert!(number > 0 || line.len() > 1 << 20, "{} bytes", line.len());
        }
        (hostile, clients)
    });
}

#[test]
fn rules_that_all_have_one_value() {
    rules(|location| rule(location, 77, 0xffff));
}

#[test]
fn rules_of_as_many_masks_as_there_are() {
    rules(|location| rule(location, 0xffff, location as u16 | 1));
}

#[test]
fn rss_contexts_without_end() {
    attack(|target| {
        let mut hostile = target.guest(1, 4);
        let set = |context: u16| abi::RssSet {
            context: context.into(),
            ..Default::default()
        };
        let made = (0..200).filter(|context| hostile.set_rss(set(*context), &[0; 512]).is_ok());
        assert!(made.count() <= 128);
        hostile.hello();
    });
}

/// Sends packets from a guest with offloads to one that coalesces, which posts buffers all the
/// time.
fn packets(make: impl FnOnce(&mut TestRng) -> Vec<Packet>) {
    attack(|target| {
        let mut receiver = target.guest(0, 0);
        receiver.accept_anything();
        let mut sender = target.guest(1, 0);
        let packets = make(&mut TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        for (number, packet) in packets.into_iter().enumerate() {
            // Every other frame finds buffers.
            if number % 64 == 0 {
                (0..2).for_each(|queue| sender.flush(queue));
                let posted = receiver.posted(0);
                receiver.post(0, Shape::SPLIT, 64 - posted.min(64));
                receiver.receive_all();
            }
            sender.enqueue((number % 2) as u16, packet);
        }
        (0..2).for_each(|queue| sender.flush(queue));
    });
}

/// A frame with this transmit header.
fn with_header(frame: Vec<u8>, change: impl FnOnce(&mut abi::TxHeader)) -> Packet {
    let mut packet = Packet::from(frame);
    change(&mut packet.header);
    packet
}

#[test]
fn segment_sizes_and_header_lengths_that_do_not_fit() {
    packets(|_| {
        let mut packets = Vec::new();
        for gso_type in [0, 1, 2, 3, 4, 255] {
            for size in [0, 1, 7, 8, 100, 9000, 65_535u16] {
                for length in [0, 13, 42, 54, 66, 1000, 65_535u16] {
                    let frame = Flow::all()[usize::from(gso_type) % 4].frame(&pattern(3000));
                    packets.push(with_header(frame, |header| {
                        header.flags = abi::TX_CSUM.into();
                        header.gso_type = gso_type;
                        header.gso_size = size.into();
                        header.header_length = length.into();
                        header.csum_start = 34.into();
                        header.csum_offset = 16.into();
                        header.l3_offset = 14.into();
                    }));
                }
            }
        }
        packets
    });
}

#[test]
fn checksums_that_start_and_end_anywhere() {
    packets(|_| {
        let mut packets = Vec::new();
        for start in [0, 1, 13, 14, 34, 53, 255, 256, 1499, 65_535u16] {
            for offset in [0, 1, 6, 16, 255, 65_535u16] {
                for length in [14, 15, 60, 255, 256, 257, 1514, 9234, 9235, 60_000] {
                    let mut frame = Flow::tcp4().frame(&pattern(length));
                    frame.truncate(length);
                    packets.push(with_header(frame, |header| {
                        header.flags = abi::TX_CSUM.into();
                        header.csum_start = start.into();
                        header.csum_offset = offset.into();
                    }));
                }
            }
        }
        packets
    });
}

#[test]
fn transmit_headers_of_noise() {
    packets(|rng| {
        let mut noise = |_| {
            let frame = Flow::all()[rng.next_u32() as usize % 4].frame(&pattern(1000));
            let mut bytes = [0; size_of::<abi::TxHeader>()];
            let end = 1 + rng.next_u32() as usize % bytes.len();
            rng.fill_bytes(&mut bytes[..end]);
            with_header(frame, |header| {
                *header = abi::TxHeader::read_from_bytes(&bytes).expect("a header");
            })
        };
        (0..1500).map(&mut noise).collect()
    });
}

#[test]
fn frames_of_mutated_headers() {
    packets(|rng| {
        let mut mutated = |_| {
            let mut frame = Flow::all()[rng.next_u32() as usize % 4].frame(&pattern(200));
            let tags: [&[u8]; 4] = [
                &[],
                &[0x81, 0, 0, 1],
                &[0x81, 0, 0, 1, 0x81, 0, 0, 2],
                &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3],
            ];
            let tags = tags[rng.next_u32() as usize % 4];
            frame.splice(12..12, tags.iter().copied());
            for _ in 0..rng.next_u32() % 6 {
                let at = rng.next_u32() as usize % 100;
                frame[at] = rng.next_u32() as u8;
            }
            if rng.next_u32().is_multiple_of(3) {
                frame.truncate(14 + rng.next_u32() as usize % 86);
            }
            Packet::from(frame)
        };
        (0..2500).map(&mut mutated).collect()
    });
}

#[test]
fn frames_in_descriptors_of_a_byte() {
    packets(|_| {
        let frame = Flow::tcp4().frame(&pattern(800));
        let packet = Packet::from(frame).scattered(&[1]).indirect();
        vec![packet; 500]
    });
}

#[test]
fn streams_held_for_a_receiver_without_buffers() {
    attack(|target| {
        let mut receiver = target.guest(0, 0);
        receiver
            .offloads(&[Feature::RxCsum, Feature::Gro])
            .expect("offloads");
        let mut sender = target.guest(1, 0);
        for number in 0..3000u16 {
            let flow = Flow::tcp4().ports(number, 9);
            sender.enqueue(
                number % 2,
                Packet::from(flow.frame(&pattern(8000))).checksum(),
            );
        }
        (0..2).for_each(|queue| sender.flush(queue));
        [receiver, sender]
    });
}

#[test]
fn queues_stopped_and_started_under_traffic() {
    attack(|target| {
        let mut receiver = target.guest(0, 16);
        let mut sender = target.guest(1, 0);
        for _ in 0..200 {
            sender.enqueue(0, broadcast(b"there"));
            receiver.receive_all();
            receiver.stop_receive(0).expect("stop");
            receiver.start_receive(0, Shape::SPLIT).expect("start");
            receiver.post(0, Shape::SPLIT, 16);
            sender.stop_transmit(0).expect("stop");
            sender.start_transmit(0).expect("start");
        }
    });
}

#[test]
fn events_for_a_ring_without_room_for_them() {
    attack(|target| {
        let mut client = target.control();
        let mut hostile = target.guest(1, 4);
        let memory = hostile.parts().0.memory();
        let at = vm_memory::GuestAddress(1 << 20);
        drop(memory);
        for round in 0..300u16 {
            let ring = hostile.pairs()[COMMAND_PAIR].receive.ring_mut();
            let (length, flags) = [(1, 2), (100, 0), (100, 3)][usize::from(round % 3)];
            ring.forge_descriptor(round % 3, at, length, flags, round % 3);
            ring.forge_available_head(round % 3);
            hostile.transport().kick(2 * COMMAND_PAIR);
            let set = json!({"port": "0", "up": round % 2 == 1});
            let _: Value = client.execute("link-set", Some(&set)).expect("a link");
        }
    });
}

#[test]
fn a_ledger_of_buffers_that_are_never_the_same() {
    attack(|target| {
        let mut client = target.control();
        let full = json!({"port": "0", "mode": "full", "sanitize": false});
        let _: Value = client.execute("ledger-set", Some(&full)).expect("a ledger");
        let mut receiver = target.guest(0, 64);
        let mut sender = target.guest(1, 0);
        for round in 0..30 {
            for _ in 0..64 {
                sender.enqueue(0, broadcast(&pattern(60)));
            }
            sender.flush(0);
            receiver.displace_buffers(round);
            receiver.receive_all();
            receiver.post(0, Shape::SPLIT, 32);
        }
        let off = json!({"port": "0", "mode": "off", "sanitize": false});
        let _: Value = client.execute("ledger-set", Some(&off)).expect("a ledger");
    });
}
