//! Properties of a port under anything that a driver may do, in process.

use proptest::{collection::vec, prelude::*};
use zcnic_device::{
    abi::{self, Opcode, RuleAction, RuleType},
    rss::{DEFAULT_FIELDS, DEFAULT_KEY},
};
use zcnic_model::{
    Driver, Packet, Received, Shape,
    driver::Failure,
    frames::{Flow, RECEIVER, pattern},
    in_process::{InProcess, cabled},
    suite::segmentation::cut,
};

const PAIRS: u16 = 4;
const QUEUES: u16 = PAIRS - 1;

fn any_flow() -> impl Strategy<Value = Flow> {
    (
        0..4usize,
        any::<u16>(),
        any::<u16>(),
        prop::option::of(0..4096u16),
    )
        .prop_map(|(kind, source, destination, vlan)| {
            let flow = Flow::all()[kind].clone().ports(source, destination);
            Flow { vlan, ..flow }
        })
}

fn any_shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        (192..4096u32).prop_map(Shape::linear),
        (3..8u32, 256..5000u32, 0..200u32).prop_map(|(header, page, threshold)| {
            Shape::split(header * 64, page).threshold(threshold.min(header * 64 - 64))
        }),
    ]
}

/// A frame that may be well-formed, damaged or noise.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let well_formed =
        (any_flow(), 0..3000usize, any::<bool>()).prop_map(|(flow, payload, known)| {
            let flow = if known { flow } else { flow.to([0x33; 6]) };
            flow.frame(&pattern(payload))
        });
    let damaged = (
        any_flow(),
        0..200usize,
        vec((0..100usize, any::<u8>()), 1..4),
        0..300usize,
    )
        .prop_map(|(flow, payload, damage, length)| {
            let mut frame = flow.frame(&pattern(payload));
            for (at, byte) in damage {
                let at = at % frame.len();
                frame[at] = byte;
            }
            frame.resize(length.max(1), 0xa5);
            frame
        });
    prop_oneof![4 => well_formed, 3 => damaged, 1 => vec(any::<u8>(), 0..400)]
}

#[derive(Clone, Debug)]
enum Offload {
    None,
    Checksum,
    Segmented(u16),
    /// A transmit header of noise.
    Noise([u8; 32]),
}

fn any_offload() -> impl Strategy<Value = Offload> {
    prop_oneof![
        Just(Offload::None),
        Just(Offload::Checksum),
        (1..2000u16).prop_map(Offload::Segmented),
        any::<[u8; 32]>().prop_map(Offload::Noise),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Send {
        queue: u16,
        frame: Vec<u8>,
        offload: Offload,
        pieces: Vec<usize>,
    },
    Post {
        queue: u16,
        shape: Option<Shape>,
        count: usize,
    },
    StartReceive {
        queue: u16,
        shape: Shape,
    },
    StopReceive {
        queue: u16,
    },
    StartTransmit {
        queue: u16,
    },
    StopTransmit {
        queue: u16,
    },
    Rss {
        context: u16,
        table: Vec<u16>,
        symmetric: u16,
        key: u8,
    },
    Rule {
        location: u32,
        rule_type: RuleType,
        action: RuleAction,
        queue: u16,
        context: u16,
    },
    DeleteRule {
        location: u32,
    },
    ReceiveMode {
        flags: u16,
        listed: bool,
    },
    Noise {
        opcode: u16,
        body: Vec<u8>,
    },
    Hello,
}

fn any_step() -> impl Strategy<Value = Step> {
    let queue = || 0..QUEUES;
    let action = prop::sample::select(vec![
        RuleAction::Drop,
        RuleAction::Queue,
        RuleAction::Queue,
        RuleAction::Context,
    ]);
    let rule_type = prop::sample::select(vec![RuleType::Ether, RuleType::Tcp4, RuleType::Ipv6]);
    prop_oneof![
        12 => (queue(), any_frame(), any_offload(), vec(40..400usize, 0..4)).prop_map(
            |(queue, frame, offload, pieces)| Step::Send { queue, frame, offload, pieces }
        ),
        4 => (queue(), prop::option::weighted(0.2, any_shape()), 0..20usize)
            .prop_map(|(queue, shape, count)| Step::Post { queue, shape, count }),
        2 => (queue(), any_shape()).prop_map(|(queue, shape)| Step::StartReceive { queue, shape }),
        1 => queue().prop_map(|queue| Step::StopReceive { queue }),
        1 => queue().prop_map(|queue| Step::StartTransmit { queue }),
        1 => queue().prop_map(|queue| Step::StopTransmit { queue }),
        1 => (0..3u16, vec(0..QUEUES + 1, 1..9), 0..4u16, any::<u8>()).prop_map(
            |(context, table, symmetric, key)| Step::Rss { context, table, symmetric, key }
        ),
        1 => (0..8u32, rule_type, action, 0..QUEUES + 1, 0..3u16).prop_map(
            |(location, rule_type, action, queue, context)| {
                Step::Rule { location, rule_type, action, queue, context }
            }
        ),
        1 => (0..8u32).prop_map(|location| Step::DeleteRule { location }),
        1 => (0..5u16, any::<bool>())
            .prop_map(|(flags, listed)| Step::ReceiveMode { flags, listed }),
        1 => (0..20u16, vec(any::<u8>(), 0..200))
            .prop_map(|(opcode, body)| Step::Noise { opcode, body }),
        1 => Just(Step::Hello),
    ]
}

/// A driver that does steps, and what it knows of the device's state.
struct Actor {
    driver: Driver<InProcess>,
    shapes: [Shape; QUEUES as usize],
    posted: u64,
    came_back: u64,
}

impl Actor {
    fn new(mut driver: Driver<InProcess>) -> Self {
        driver.bring_up(Shape::SPLIT, 8);
        driver.accept_any_verdict();
        Self {
            driver,
            shapes: [Shape::SPLIT; QUEUES as usize],
            posted: 8 * u64::from(QUEUES),
            came_back: 0,
        }
    }

    /// Does one step; refusals are the device's right, whatever else is wrong panics.
    fn step(&mut self, step: &Step) {
        let driver = &mut self.driver;
        match step {
            Step::Send {
                queue,
                frame,
                offload,
                pieces,
            } => {
                let packet = packet(frame, offload).scattered(pieces);
                if driver.unsent(*queue) < 10 {
                    driver.enqueue(*queue, packet);
                }
            }
            Step::Post {
                queue,
                shape,
                count,
            } => {
                let shape = shape.unwrap_or(self.shapes[usize::from(*queue)]);
                if driver.posted(*queue) < 200 {
                    driver.post(*queue, shape, *count);
                    self.posted += *count as u64;
                }
            }
            Step::StartReceive { queue, shape } => {
                if driver.start_receive(*queue, *shape).is_ok() {
                    self.shapes[usize::from(*queue)] = *shape;
                }
            }
            Step::StopReceive { queue } => {
                self.came_back += u64::from(driver.stop_receive(*queue).expect("a stop succeeds"));
            }
            Step::StartTransmit { queue } => {
                let _ = driver.start_transmit(*queue);
            }
            Step::StopTransmit { queue } => {
                driver.stop_transmit(*queue).expect("a stop succeeds");
            }
            Step::Rss {
                context,
                table,
                symmetric,
                key,
            } => {
                let set = abi::RssSet {
                    context: (*context).into(),
                    symmetric: (*symmetric).into(),
                    fields: DEFAULT_FIELDS.map(Into::into),
                    key: DEFAULT_KEY.map(|byte| byte ^ key),
                    ..Default::default()
                };
                let _ = driver.set_rss(set, table);
            }
            Step::Rule {
                location,
                rule_type,
                action,
                queue,
                context,
            } => {
                let rule = abi::Rule {
                    location: (*location).into(),
                    rule_type: (*rule_type).into(),
                    action: (*action).into(),
                    queue: (*queue).into(),
                    context: (*context).into(),
                    ..Default::default()
                };
                let _ = driver.set_rules(&[rule]);
            }
            Step::DeleteRule { location } => {
                let _ = driver.delete_rules(&[*location]);
            }
            Step::ReceiveMode { flags, listed } => {
                let listed = if *listed { vec![RECEIVER] } else { vec![] };
                let _ = driver.receive_mode(*flags, &listed);
            }
            Step::Noise { opcode, body } => self.noise(*opcode, body),
            Step::Hello => {
                driver.hello();
            }
        }
        self.settle();
    }

    /// A command of noise, but for those that would make driver and device disagree about what runs.
    fn noise(&mut self, opcode: u16, body: &[u8]) {
        use Opcode::{Hello, RxqStart, RxqStop};
        match Opcode::try_from(opcode) {
            Ok(Hello | RxqStart | RxqStop) => {}
            Ok(opcode) => {
                let request = [&[0; size_of::<abi::Request>()][..], body].concat();
                let _ = self.driver.command(opcode, &request);
            }
            Err(_) => {
                let request = [&abi::MAGIC.to_le_bytes()[..], &opcode.to_le_bytes(), body].concat();
                let _ = self.driver.exchange(&request);
            }
        }
    }

    /// Takes what came back and counts the chains.
    fn settle(&mut self) -> Vec<Received> {
        self.driver.transport().run();
        let mut frames = Vec::new();
        for (_, frame) in self.driver.receive_all() {
            self.came_back += frame.chains as u64;
            frames.push(frame);
        }
        for queue in 0..QUEUES {
            self.came_back += u64::from(self.driver.take_returned(queue));
        }
        frames
    }

    /// Checks that every chain ever posted is with the device or came back.
    fn account_for_chains(&mut self) {
        let out: u64 = (0..QUEUES)
            .map(|queue| self.driver.posted(queue) as u64)
            .sum();
        assert_eq!(
            self.posted,
            self.came_back + out,
            "chains posted, and where they are"
        );
    }
}

fn packet(frame: &[u8], offload: &Offload) -> Packet {
    let has_l4 = zcnic_model::verify::dissect(frame).l4.is_some();
    match offload {
        Offload::Checksum if has_l4 => Packet::from(frame).checksum(),
        Offload::Segmented(size) if has_l4 => Packet::from(frame).segmented(*size),
        Offload::Noise(bytes) => {
            let mut packet = Packet::from(frame);
            packet.header = zerocopy::transmute!(*bytes);
            packet
        }
        _ => Packet::from(frame),
    }
}

/// Frames that a port sent, and what became of frames at a port.
fn sent_and_seen(actor: &mut Actor) -> (u64, u64) {
    let (port, queues) = actor.driver.stats();
    let sent = queues.iter().map(|queue| queue.tx_frames.get()).sum();
    let seen: u64 = queues
        .iter()
        .map(|queue| {
            queue.rx_frames.get()
                + queue.rx_no_buffer.get()
                + queue.rx_stopped.get()
                + queue.rx_too_long.get()
        })
        .sum();
    (
        sent,
        seen + port.rx_filtered.get() + port.rx_rule_drop.get(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever two drivers do: the device does not panic, violates no rule of the ABI, loses no buffer, and
    /// every frame that was sent was delivered or is in one drop counter.
    #[test]
    fn nothing_is_lost(steps in vec((0..2usize, any_step()), 1..60)) {
        let mut actors = cabled(PAIRS).map(Actor::new);
        for (actor, step) in &steps {
            actors[*actor].step(step);
            actors[1 - *actor].settle();
        }
        for actor in &mut actors {
            actor.settle();
            actor.account_for_chains();
        }
        let [one, other] = &mut actors;
        let (one, other) = (sent_and_seen(one), sent_and_seen(other));
        prop_assert_eq!(one.0, other.1, "sent by the first port, seen by the second");
        prop_assert_eq!(other.0, one.1, "sent by the second port, seen by the first");
    }

    /// Segments are exact for any payload, segment size and way to hand them over.
    #[test]
    fn segmentation_is_exact(
        flow in any_flow(),
        payload in 1..20_000usize,
        size in 100..9000u16,
        small in any::<bool>(),
    ) {
        let [mut sender, mut receiver] = cabled(PAIRS);
        sender.bring_up(Shape::SPLIT, 0);
        receiver.bring_up(Shape::SPLIT, 0);
        let (payload, size) = if small { (payload % 250 + 1, size % 20 + 1) } else { (payload, size) };
        // Of one byte each at least 80 segments of a packet fit the buffers.
        let size = size.max(payload.div_ceil(80) as u16);
        cut(&mut sender, &mut receiver, &flow, payload, size);
    }

    /// A train means its segments: a receiver can't tell them from frames that were sent one by one, and
    /// neither can its counters.
    #[test]
    fn trains_mean_their_segments(
        flow in any_flow(),
        payload in 1..9000usize,
        size in 100..3000u16,
        shape in any_shape(),
        buffers in 0..60usize,
    ) {
        let train = Packet::from(flow.frame(&pattern(payload))).segmented(size);
        let segments: Vec<Vec<u8>> = {
            let [mut sender, mut receiver] = cabled(PAIRS);
            sender.bring_up(Shape::SPLIT, 0);
            receiver.bring_up(Shape::linear(16_384), 100);
            sender.send(0, train.clone());
            receiver.receive_all().into_iter().map(|(_, received)| received.frame).collect()
        };
        let outcome = |packets: Vec<Packet>| {
            let [mut sender, mut receiver] = cabled(PAIRS);
            sender.bring_up(Shape::SPLIT, 0);
            receiver.bring_up(shape, buffers);
            let set = abi::RssSet {
                fields: DEFAULT_FIELDS.map(Into::into),
                key: DEFAULT_KEY,
                ..Default::default()
            };
            receiver.set_rss(set, &[0, 1, 2, 1]).expect("RSS");
            for packet in packets {
                sender.send(0, packet);
            }
            let frames = receiver.receive_all();
            let posted: Vec<usize> = (0..QUEUES).map(|queue| receiver.posted(queue)).collect();
            let sent = sender.stats().1[0];
            (frames, posted, receiver.stats().1, sent.tx_frames.get(), sent.tx_bytes.get())
        };
        let one_by_one = segments.into_iter().map(Packet::from).collect();
        let (together, one_by_one) = (outcome(vec![train]), outcome(one_by_one));
        prop_assert!(together.0 == one_by_one.0, "frames differ");
        prop_assert_eq!(&together.1, &one_by_one.1, "buffers left");
        prop_assert!(together.2 == one_by_one.2, "counters differ");
        prop_assert_eq!((together.3, together.4), (one_by_one.3, one_by_one.4));
    }

    /// Verdicts are about the frame on the wire, whoever computed its checksum and whatever follows it.
    #[test]
    fn verdicts_are_about_what_arrives(
        flow in any_flow(),
        payload in 0..600usize,
        padding in prop_oneof![Just(0), 1..40usize],
        damage in prop::option::weighted(0.3, 0..64usize),
        insert in any::<bool>(),
    ) {
        let [mut sender, mut receiver] = cabled(PAIRS);
        sender.bring_up(Shape::SPLIT, 0);
        receiver.bring_up(Shape::SPLIT, 4);
        let mut packet = Packet::from(flow.frame(&pattern(payload)));
        if insert {
            packet = packet.checksum();
        }
        packet.frame.resize(packet.frame.len() + padding, 0x77);
        if let (Some(at), Some(l4)) = (damage, zcnic_model::verify::dissect(&packet.frame).l4) {
            // Not the lengths and ports, which say where the payload ends and whose it is.
            let field = l4.start + l4.checksum;
            let at = if at < 2 { field + at } else { (l4.end + at).min(packet.frame.len() - 1) };
            packet.frame[at] ^= 0x10;
        }
        sender.send(0, packet);
        // The driver compares each verdict with what it finds itself.
        receiver.receive(0);
    }
}

/// Commands in the middle of nowhere: noise never takes a session down.
#[test]
fn noise_on_the_command_pair_is_answered() {
    let [mut driver, _other] = cabled(PAIRS);
    driver.hello();
    for length in 0..200 {
        let noise: Vec<u8> = (0..length).map(|at| (at * 37 + length) as u8).collect();
        match driver.exchange_on(usize::from(QUEUES), &[&noise, b"x"], 64) {
            Err(Failure::NotExecuted) => {}
            other => panic!("{other:?}"),
        }
    }
    driver.status();
}
