//! Target `commands`: requests of a driver, executed by the device.

use std::sync::Arc;

use zcnic_backend::fuzzing::Input;
use zcnic_device::{
    abi::{self, Opcode, Request, Response, Status},
    features::FeatureSet,
    limits::MAX_QUEUE_PAIRS,
    port::{Configuration, DriverMode, Port, PortCounters, Rings},
    receive::{Layout, MAX_CHAINS, ReceiveCounters},
    rules::FlowAction,
    transmit::TransmitCounters,
};
use zerocopy::{FromBytes, IntoBytes};

/// Requests of one run.
const REQUESTS: usize = 40;

/// # Panics
///
/// A response is malformed, a refused command changes something, or one that was accepted names a
/// queue that does not exist.
pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut port = Port::new();
    let mut rings = Environment::default();
    for _ in 0..REQUESTS {
        if input.is_empty() {
            return;
        }
        execute(&mut port, &mut rings, &mut input);
        check_configuration(&port);
    }
}

fn execute(port: &mut Port, rings: &mut Environment, input: &mut Input<'_>) {
    let pair = u16::from(input.byte()) % MAX_QUEUE_PAIRS;
    let request = request(port, pair, input);
    let before = State::of(port, rings);
    rings.changes = 0;
    let response = port.execute(pair, &request, rings);
    let changes = rings.changes;
    let (header, _) = Response::read_from_prefix(&response).expect("a response header");
    assert_eq!(header.magic.get(), abi::MAGIC);
    assert_eq!(
        header.length.get() as usize,
        response.len(),
        "the length of a response"
    );
    let status = Status::try_from(header.status.get()).expect("a status of the ABI");
    let start = Request::read_from_prefix(&request).map(|(header, _)| header);
    if let Ok(sent) = start {
        assert_eq!(
            (header.opcode, header.sequence),
            (sent.opcode, sent.sequence),
            "an echo"
        );
    }
    if status != Status::Ok {
        assert_eq!(
            response.len(),
            size_of::<Response>(),
            "a refusal has no body"
        );
        assert_eq!(
            changes, 0,
            "a refused command reached the rings: {status:?}"
        );
        assert!(
            before == State::of(port, rings),
            "a refused command changed something: {status:?}"
        );
    }
}

/// Any bytes, or a well-formed request of the current session with any body.
fn request(port: &Port, pair: u16, input: &mut Input<'_>) -> Vec<u8> {
    let shape = input.byte();
    if shape == 0xff {
        return input.counted(400).to_vec();
    }
    let opcode = Opcode::ALL[usize::from(shape) % Opcode::ALL.len()];
    let body = if opcode == Opcode::Hello && shape & 0x80 == 0 {
        let hello = abi::Hello {
            version_min: 1.into(),
            version_max: u16::from(input.byte()).into(),
            queue_pairs: (pair + 1).into(),
            features: [input.quad().into(), 0.into()],
            ..abi::Hello::default()
        };
        hello.as_bytes()[size_of::<Request>()..].to_vec()
    } else {
        input.counted(1200).to_vec()
    };
    let session = match port.mode() {
        DriverMode::Zcnic(session) if opcode != Opcode::Hello => session.id,
        _ => 0,
    };
    let length = (size_of::<Request>() + body.len()) as u32;
    let header = Request {
        magic: abi::MAGIC.into(),
        opcode: u16::from(opcode).into(),
        sequence: input.long().into(),
        length: length.into(),
        session: session.into(),
        ..Request::default()
    };
    [header.as_bytes(), &body].concat()
}

/// Everything that a command may change.
struct State {
    mode: DriverMode,
    configuration: Configuration,
    /// The answer to STATUS, which lists the running queues.
    status: Vec<u8>,
}

impl State {
    fn of(port: &mut Port, rings: &mut Environment) -> Self {
        let status = match port.mode() {
            DriverMode::Zcnic(session) => {
                let request = Request {
                    magic: abi::MAGIC.into(),
                    opcode: u16::from(Opcode::Status).into(),
                    length: (size_of::<Request>() as u32).into(),
                    session: session.id.into(),
                    ..Request::default()
                };
                let response = port.execute(session.command_pair, request.as_bytes(), rings);
                let end = response.len();
                // Behind them the port counts commands.
                response[..end.min(size_of::<Response>() + 48)].to_vec()
            }
            _ => Vec::new(),
        };
        Self {
            mode: port.mode(),
            configuration: port.configuration(),
            status,
        }
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        let (one, two) = (&self.configuration, &other.configuration);
        self.mode == other.mode
            && self.status == other.status
            && Arc::ptr_eq(&one.steering, &two.steering)
            && (
                one.offloads,
                one.features,
                one.transmit_format,
                one.moderation,
            ) == (
                two.offloads,
                two.features,
                two.transmit_format,
                two.moderation,
            )
    }
}

/// Checks that what is in force leads to queues that exist.
fn check_configuration(port: &Port) {
    let DriverMode::Zcnic(session) = port.mode() else {
        return;
    };
    let queues = session.command_pair;
    let configuration = port.configuration();
    for (number, context) in configuration.steering.contexts() {
        assert!(
            context.highest_queue() < queues,
            "context {number} leads beyond {queues} queues"
        );
        assert!(context.table().len().is_power_of_two());
    }
    for rule in configuration.steering.rules() {
        match rule.action {
            FlowAction::Queue(queue) => assert!(queue < queues, "rule {}", rule.location),
            FlowAction::Context { context, .. } => {
                let mut known = configuration.steering.contexts();
                assert!(
                    known.any(|(number, _)| number == context),
                    "rule {}",
                    rule.location
                );
            }
            FlowAction::Drop => {}
        }
    }
    let extra = configuration
        .offloads
        .first_outside(session.features.and(FeatureSet::SWITCHABLE));
    assert_eq!(extra, None, "an offload that was not negotiated");
}

/// Rings of no port, which count what commands do to them.
#[derive(Default)]
struct Environment {
    changes: usize,
    sessions: u64,
}

impl Rings for Environment {
    fn session_id(&mut self) -> u64 {
        self.sessions += 1;
        self.sessions
    }

    fn reset(&mut self, _: u16) {
        self.changes += 1;
    }

    fn configure(&mut self, _: Configuration) {
        self.changes += 1;
    }

    fn start_receive(&mut self, queue: u16, layout: Layout, max_chains: usize) {
        self.changes += 1;
        assert!(queue < MAX_QUEUE_PAIRS && (1..=MAX_CHAINS).contains(&max_chains));
        match layout {
            Layout::Split {
                header_size,
                page_size,
                threshold,
                ..
            } => {
                assert!(header_size > 64 && page_size > 0 && threshold < header_size);
            }
            Layout::Linear { size } => assert!(size > 64),
            Layout::VirtioNet => panic!("no command starts a plain queue"),
        }
    }

    fn stop_receive(&mut self, queue: u16) -> u32 {
        self.changes += 1;
        assert!(queue < MAX_QUEUE_PAIRS);
        3
    }

    fn start_transmit(&mut self, queue: u16) {
        self.changes += 1;
        assert!(queue < MAX_QUEUE_PAIRS);
    }

    fn stop_transmit(&mut self, queue: u16) -> u32 {
        self.changes += 1;
        assert!(queue < MAX_QUEUE_PAIRS);
        2
    }

    fn counters(&self, queue: u16) -> (ReceiveCounters, TransmitCounters) {
        assert!(queue < MAX_QUEUE_PAIRS);
        Default::default()
    }

    fn port_counters(&self) -> PortCounters {
        PortCounters::default()
    }

    fn link_up(&self) -> bool {
        true
    }

    fn clock(&self) -> u64 {
        7
    }
}
