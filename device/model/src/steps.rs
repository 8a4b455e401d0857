//! Random driver steps for property tests over any transport.

use proptest::{collection::vec, prelude::*};
use zcnic_device::{
    abi::{self, Opcode, RuleAction, RuleType},
    features::Feature,
    rss::{DEFAULT_FIELDS, DEFAULT_KEY},
};

use crate::{
    driver::{Driver, Transport},
    frames::{Flow, RECEIVER, pattern},
    receive::Shape,
    transmit::Packet,
    verify,
};

/// Queue pairs of the ports that [`Actor`]s drive, command pair included.
pub const PAIRS: u16 = 4;
const QUEUES: u16 = PAIRS - 1;
/// Offloads that are switched at random. Not GRO, which would hold frames when all are counted.
const OFFLOADS: [Feature; 4] = [
    Feature::RxCsum,
    Feature::RxHash,
    Feature::Timestamp,
    Feature::Vlan,
];

/// Any flow with ports.
pub fn any_flow() -> impl Strategy<Value = Flow> {
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

/// Any shape that RXQ_START accepts.
pub fn any_shape() -> impl Strategy<Value = Shape> {
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

/// The offloads that a frame asks for.
#[derive(Clone, Debug)]
pub enum Offload {
    /// Nothing.
    None,
    /// Checksum insertion.
    Checksum,
    /// Segmentation into segments of this size.
    Segmented(u16),
    /// The transmit timestamp.
    Timestamp,
    /// A random transmit header.
    Noise([u8; 32]),
}

fn any_offload() -> impl Strategy<Value = Offload> {
    prop_oneof![
        Just(Offload::None),
        Just(Offload::Checksum),
        (1..2000u16).prop_map(Offload::Segmented),
        Just(Offload::Timestamp),
        any::<[u8; 32]>().prop_map(Offload::Noise),
    ]
}

/// A step of a driver.
#[derive(Clone, Debug)]
#[expect(
    missing_docs,
    reason = "named as the commands of the ABI and their fields"
)]
pub enum Step {
    Send {
        queue: u16,
        frame: Vec<u8>,
        offload: Offload,
        pieces: Vec<usize>,
        times: usize,
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
    Offloads {
        on: Vec<Feature>,
    },
    Coalesce {
        usecs: [u16; 2],
        chains: [u16; 2],
    },
    Clock,
    Mtu {
        mtu: u32,
    },
    Noise {
        opcode: u16,
        body: Vec<u8>,
    },
    Hello,
}

/// Any step; common ones are more frequent.
pub fn any_step() -> impl Strategy<Value = Step> {
    let queue = || 0..QUEUES;
    let action = prop::sample::select(vec![
        RuleAction::Drop,
        RuleAction::Queue,
        RuleAction::Queue,
        RuleAction::Context,
    ]);
    let rule_type = prop::sample::select(vec![RuleType::Ether, RuleType::Tcp4, RuleType::Ipv6]);
    let [.., last_opcode] = Opcode::ALL.map(u16::from);
    prop_oneof![
        12 => (queue(), any_frame(), any_offload(), vec(40..400usize, 0..4), 1..7usize).prop_map(
            |(queue, frame, offload, pieces, times)| {
                Step::Send { queue, frame, offload, pieces, times }
            }
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
        1 => prop::sample::subsequence(OFFLOADS.to_vec(), 0..=OFFLOADS.len())
            .prop_map(|on| Step::Offloads { on }),
        1 => ([0..2000u16, 0..2000u16], [0..20u16, 0..20u16])
            .prop_map(|(usecs, chains)| Step::Coalesce { usecs, chains }),
        1 => Just(Step::Clock),
        1 => prop_oneof![Just(0), 60..9300u32].prop_map(|mtu| Step::Mtu { mtu }),
        1 => (0..last_opcode + 4, vec(any::<u8>(), 0..200))
            .prop_map(|(opcode, body)| Step::Noise { opcode, body }),
        1 => Just(Step::Hello),
    ]
}

/// A driver that executes steps, and its view of the device's state.
pub struct Actor<T> {
    driver: Driver<T>,
    shapes: [Shape; QUEUES as usize],
    posted: u64,
    returned: u64,
}

impl<T: Transport> Actor<T> {
    /// Brings a port up.
    pub fn new(mut driver: Driver<T>) -> Self {
        driver.bring_up(Shape::SPLIT, 8);
        driver.accept_anything();
        Self {
            driver,
            shapes: [Shape::SPLIT; QUEUES as usize],
            posted: 8 * u64::from(QUEUES),
            returned: 0,
        }
    }

    /// Executes one step. The device may refuse it; anything else that fails panics.
    pub fn step(&mut self, step: &Step) {
        let driver = &mut self.driver;
        match step {
            Step::Send {
                queue,
                frame,
                offload,
                pieces,
                times,
            } => {
                let packet = packet(frame, offload).scattered(pieces);
                // A stopped queue must have room for all of them.
                if driver.unsent(*queue) < 5 {
                    (0..*times).for_each(|_| driver.enqueue(*queue, packet.clone()));
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
                driver.stop_receive(*queue).expect("a stop succeeds");
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
            Step::Offloads { on } => {
                driver.offloads(on).expect("they were negotiated");
                driver.accept_anything();
            }
            Step::Coalesce { usecs, chains } => {
                let [receive, transmit] = [0, 1].map(|at| (usecs[at], chains[at]));
                driver
                    .set_moderation(receive, transmit)
                    .expect("it was negotiated");
            }
            Step::Clock => {
                driver.clock().expect("it was negotiated");
            }
            Step::Mtu { mtu } => driver.set_mtu(*mtu).expect("it was negotiated"),
            Step::Noise { opcode, body } => self.noise(*opcode, body),
            Step::Hello => {
                driver.hello();
                driver.accept_anything();
            }
        }
        self.settle();
    }

    /// A random command, except commands that would change the driver's view of the queues.
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

    /// Takes and counts the returned chains.
    pub fn settle(&mut self) {
        for (_, frame) in self.driver.receive_all() {
            self.returned += frame.chains as u64;
        }
        for queue in 0..QUEUES {
            self.returned += u64::from(self.driver.take_returned(queue));
        }
    }

    /// Checks that every posted chain is with the device or was returned.
    ///
    /// # Panics
    ///
    /// A chain is missing.
    pub fn account_for_chains(&self) {
        let out: u64 = (0..QUEUES)
            .map(|queue| self.driver.posted(queue) as u64)
            .sum();
        assert_eq!(
            self.posted,
            self.returned + out,
            "chains posted, and where they are"
        );
    }
}

fn packet(frame: &[u8], offload: &Offload) -> Packet {
    let has_l4 = verify::dissect(frame).l4.is_some();
    match offload {
        Offload::Checksum if has_l4 => Packet::from(frame).checksum(),
        Offload::Segmented(size) if has_l4 => Packet::from(frame).segmented(*size),
        Offload::Timestamp => Packet::from(frame).timestamped(),
        Offload::Noise(bytes) => {
            let mut packet = Packet::from(frame);
            packet.header = zerocopy::transmute!(*bytes);
            packet
        }
        _ => Packet::from(frame),
    }
}

/// Frames that a port sent, and frames that it received or dropped.
fn sent_and_seen<T: Transport>(actor: &mut Actor<T>) -> (u64, u64) {
    let (port, queues) = actor.driver.stats();
    let sent = queues.iter().map(|queue| queue.tx_frames.get()).sum();
    let seen: u64 = queues
        .iter()
        .map(|queue| {
            queue.rx_frames.get()
                + queue.rx_no_buffer.get()
                + queue.rx_stopped.get()
                + queue.rx_too_long.get()
                + queue.rx_unsplit_too_long.get()
        })
        .sum();
    (
        sent,
        seen + port.rx_filtered.get() + port.rx_rule_drop.get() + port.rx_oversize.get(),
    )
}

/// Executes steps of two drivers. The device must not panic, violate the ABI or lose a buffer, and
/// every frame sent must be delivered or in exactly one drop counter.
///
/// # Panics
///
/// One of these is violated.
pub fn assert_nothing_is_lost<T: Transport>(drivers: [Driver<T>; 2], steps: &[(usize, Step)]) {
    let mut actors = drivers.map(Actor::new);
    for (actor, step) in steps {
        actors[*actor].step(step);
        actors[1 - *actor].settle();
    }
    for actor in &mut actors {
        // Frames not sent by now are not sent at all.
        for queue in 0..QUEUES {
            actor.step(&Step::StopTransmit { queue });
        }
    }
    for actor in &mut actors {
        actor.settle();
        actor.account_for_chains();
    }
    let [one, other] = actors.each_mut().map(sent_and_seen);
    assert_eq!(one.0, other.1, "sent by the first port, seen by the second");
    assert_eq!(other.0, one.1, "sent by the second port, seen by the first");
}
