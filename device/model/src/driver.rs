//! The driver of one port: rings, session, commands.

use zcnic_device::{
    abi::{self, MAGIC, Opcode, Status},
    features::{Feature, FeatureSet},
};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, little_endian::U64};

use crate::{
    guest::Guest,
    receive::{ReceiveQueue, Received, Shape, Verdicts},
    transmit::{Packet, TransmitQueue},
};

/// How the driver reaches its device. Ring 2n is the receive ring of pair n, 2n + 1 its transmit ring.
pub trait Transport {
    /// Tells the device that it may find something new on a ring.
    fn kick(&mut self, ring: usize);

    /// Lets the device go on until it may have returned something on a ring. `false`: there is nothing to
    /// wait for any longer.
    fn wait(&mut self, ring: usize) -> bool;
}

/// The rings of one queue pair.
#[derive(Debug)]
pub struct Pair {
    /// Receive ring.
    pub receive: ReceiveQueue,
    /// Transmit ring.
    pub transmit: TransmitQueue,
}

impl Pair {
    /// The rings of a device with `count` pairs, the command pair included, of `size` descriptors each.
    #[must_use]
    pub fn allocate(guest: &mut Guest, count: u16, size: u16) -> Vec<Self> {
        (0..count)
            .map(|number| Self {
                receive: ReceiveQueue::new(guest, number, size),
                transmit: TransmitQueue::new(guest, size),
            })
            .collect()
    }
}

/// Why a command was not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The device refused it.
    Refused {
        /// Why.
        status: Status,
        /// What in particular.
        detail: u32,
    },
    /// It came back with a used length of 0.
    NotExecuted,
    /// It did not come back.
    TimedOut,
}

impl Failure {
    /// The field at `offset` of the request was refused.
    #[must_use]
    pub fn invalid(offset: usize) -> Self {
        Self::Refused {
            status: Status::Invalid,
            detail: offset as u32,
        }
    }

    /// Refused with this status and detail.
    #[must_use]
    pub fn refused(status: Status, detail: u32) -> Self {
        Self::Refused { status, detail }
    }
}

/// The result of a command.
pub type Result<T> = std::result::Result<T, Failure>;

/// Who the driver pretends to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Nobody who spoke yet.
    Silent,
    /// An ordinary virtio-net driver.
    Plain,
    /// zcnic, in this session.
    Zcnic(u64),
}

/// Bytes for a response: STATS of the most queue pairs.
const RESPONSE_ROOM: usize = 16384;

/// A driver that checks everything the device does.
#[derive(Debug)]
pub struct Driver<T> {
    guest: Guest,
    transport: T,
    pairs: Vec<Pair>,
    role: Role,
    sequence: u32,
    features: FeatureSet,
}

impl<T: Transport> Driver<T> {
    /// A driver for the device behind `transport`, which knows where the rings of `pairs` are.
    pub fn new(guest: Guest, pairs: Vec<Pair>, transport: T) -> Self {
        Self {
            guest,
            transport,
            pairs,
            role: Role::Silent,
            sequence: 0x100,
            features: FeatureSet::default(),
        }
    }

    /// Number of data pairs.
    #[must_use]
    pub fn data_pairs(&self) -> u16 {
        self.pairs.len() as u16 - 1
    }

    /// The session of the last HELLO; 0 without one.
    #[must_use]
    pub fn session(&self) -> u64 {
        match self.role {
            Role::Zcnic(session) => session,
            Role::Silent | Role::Plain => 0,
        }
    }

    /// What HELLO agreed on.
    #[must_use]
    pub fn features(&self) -> FeatureSet {
        self.features
    }

    /// The way to the device.
    pub fn transport(&mut self) -> &mut T {
        &mut self.transport
    }

    /// The rings, for tests that misuse them.
    pub fn pairs(&mut self) -> &mut [Pair] {
        &mut self.pairs
    }

    /// The guest's memory and the rings, for a transport that is set up anew.
    pub fn parts(&mut self) -> (&Guest, &[Pair], &mut T) {
        (&self.guest, &self.pairs, &mut self.transport)
    }

    /// The backend died. Takes what it completed; in what it had not completed it may have left traces, but
    /// the next one must not.
    pub fn backend_died(&mut self) {
        for number in 0..self.pairs.len() {
            self.reap(number);
            let Pair { receive, transmit } = &self.pairs[number];
            receive.clear_posted(&self.guest);
            transmit.clear_responses(&self.guest);
        }
    }

    // ---- commands ---------------------------------------------------------------------------------------

    /// The HELLO of a driver that knows everything.
    #[must_use]
    pub fn hello_request(&self) -> abi::Hello {
        abi::Hello {
            version_min: abi::ABI_VERSION.into(),
            version_max: abi::ABI_VERSION.into(),
            queue_pairs: (self.pairs.len() as u16).into(),
            features: FeatureSet::ALL.to_words(),
            ..Default::default()
        }
    }

    /// Begins a session.
    ///
    /// # Panics
    ///
    /// The device refuses, or does not answer.
    pub fn hello(&mut self) -> abi::HelloResponse {
        self.try_hello(self.hello_request())
            .expect("HELLO is executed")
    }

    /// Begins a session and checks that every chain came back.
    ///
    /// # Errors
    ///
    /// The device refuses, or nobody answers.
    ///
    /// # Panics
    ///
    /// The device keeps a chain, or violates the ABI otherwise.
    pub fn try_hello(&mut self, hello: abi::Hello) -> Result<abi::HelloResponse> {
        let bytes = self.command(Opcode::Hello, hello.as_bytes())?;
        let response = abi::HelloResponse::read_from_bytes(&bytes).expect("a whole response");
        let session = response.response.session.get();
        assert_ne!(session, 0, "a session is never 0");
        assert_ne!(session, self.session(), "every HELLO begins a new session");
        for number in 0..self.pairs.len() {
            self.reap(number);
            let pair = &mut self.pairs[number];
            assert_eq!(
                pair.receive.posted(),
                0,
                "HELLO returns all chains of queue {number}"
            );
            assert_eq!(
                pair.transmit.outstanding(),
                0,
                "HELLO returns all chains of queue {number}"
            );
            pair.receive.set_shape(None);
            pair.receive.forget_frames();
            pair.receive.verdicts = Verdicts::None;
        }
        self.pairs
            .last_mut()
            .expect("a command pair")
            .receive
            .set_shape(Some(Shape::Event));
        self.role = Role::Zcnic(session);
        self.features = FeatureSet::from_words(response.features);
        Ok(response)
    }

    /// HELLO, and then everything that a port needs to receive: PROMISC, offloads, all transmit queues, and
    /// `buffers` chains on every receive queue.
    ///
    /// # Panics
    ///
    /// The device refuses.
    pub fn bring_up(&mut self, shape: Shape, buffers: usize) {
        self.hello();
        self.offloads(&[Feature::RxCsum, Feature::RxHash])
            .expect("offloads");
        self.receive_mode(abi::RX_MODE_PROMISC, &[])
            .expect("receive mode");
        for queue in 0..self.data_pairs() {
            self.start_transmit(queue).expect("transmit queue");
            self.post(queue, shape, buffers);
            self.start_receive(queue, shape).expect("receive queue");
        }
    }

    /// Executes a command: `request` is a whole request whose header is filled in here.
    ///
    /// # Errors
    ///
    /// The device refuses, or nobody answers.
    ///
    /// # Panics
    ///
    /// The response is not one to this request.
    pub fn command(&mut self, opcode: Opcode, request: &[u8]) -> Result<Vec<u8>> {
        let session = if opcode == Opcode::Hello {
            0
        } else {
            self.session()
        };
        self.sequence = self.sequence.wrapping_add(1);
        let header = abi::Request {
            magic: MAGIC.into(),
            opcode: u16::from(opcode).into(),
            sequence: self.sequence.into(),
            length: (request.len() as u32).into(),
            session: session.into(),
            ..Default::default()
        };
        let body = request.get(size_of::<abi::Request>()..).unwrap_or_default();
        let bytes = self.exchange(&[header.as_bytes(), body].concat())?;
        let (response, _) = abi::Response::read_from_prefix(&bytes).expect("a response header");
        if status(response) != Status::Stale && opcode != Opcode::Hello {
            assert_eq!(response.session.get(), session, "session of {response:?}");
        }
        match status(response) {
            Status::Ok => Ok(bytes),
            status => Err(Failure::Refused {
                status,
                detail: response.detail.get(),
            }),
        }
    }

    /// Sends the bytes of a request as they are and returns the response.
    ///
    /// # Errors
    ///
    /// Nobody answers.
    ///
    /// # Panics
    ///
    /// The response is not one to this request.
    pub fn exchange(&mut self, request: &[u8]) -> Result<Vec<u8>> {
        let command_pair = self.pairs.len() - 1;
        // Cut in an odd place, so that a device which expects one descriptor fails.
        let cut = request.len().min(7);
        let pieces: Vec<&[u8]> = [&request[..cut], &request[cut..]]
            .into_iter()
            .filter(|piece| !piece.is_empty())
            .collect();
        let bytes = self.exchange_on(command_pair, &pieces, RESPONSE_ROOM)?;
        let (response, _) = abi::Response::read_from_prefix(&bytes).expect("a response header");
        assert_eq!(response.magic.get(), MAGIC, "magic of {response:?}");
        assert_eq!(
            response.length.get() as usize,
            bytes.len(),
            "length of {response:?}"
        );
        assert_eq!(
            abi::reserved_bits(&response),
            None,
            "reserved fields of {response:?}"
        );
        if let Ok((sent, _)) = abi::Request::read_from_prefix(request) {
            assert_eq!(response.opcode, sent.opcode, "opcode of {response:?}");
            assert_eq!(response.sequence, sent.sequence, "sequence of {response:?}");
        }
        if status(response) != Status::Ok {
            assert_eq!(
                bytes.len(),
                size_of::<abi::Response>(),
                "a refusal has no body"
            );
        }
        Ok(bytes)
    }

    /// Sends a request on the transmit ring of any pair and returns whatever was written to its response
    /// of at most `room` bytes.
    ///
    /// # Errors
    ///
    /// Nobody answers.
    pub fn exchange_on(&mut self, pair: usize, pieces: &[&[u8]], room: usize) -> Result<Vec<u8>> {
        self.pairs[pair]
            .transmit
            .add_command(&mut self.guest, pieces, room);
        if self.pairs[pair].transmit.publish() {
            self.transport.kick(2 * pair + 1);
        }
        loop {
            self.pairs[pair].transmit.reap(&mut self.guest);
            match self.pairs[pair].transmit.take_response() {
                Some(response) if response.is_empty() => return Err(Failure::NotExecuted),
                Some(response) => return Ok(response),
                None if self.transport.wait(2 * pair + 1) => {}
                None => return Err(Failure::TimedOut),
            }
        }
    }

    // ---- receive ----------------------------------------------------------------------------------------

    /// Posts `count` chains of a shape, whatever the queue was started with.
    pub fn post(&mut self, queue: u16, shape: Shape, count: usize) {
        self.post_lengths(queue, &vec![shape.lengths(); count]);
    }

    /// Posts chains whose descriptors have these lengths.
    pub fn post_lengths(&mut self, queue: u16, chains: &[Vec<usize>]) {
        let receive = &mut self.pairs[usize::from(queue)].receive;
        for lengths in chains {
            receive.add(&mut self.guest, lengths);
        }
        if receive.publish() {
            self.transport.kick(2 * usize::from(queue));
        }
    }

    /// RXQ_START.
    ///
    /// # Errors
    ///
    /// The device refuses.
    pub fn start_receive(&mut self, queue: u16, shape: Shape) -> Result<()> {
        let mut request = abi::RxqStart {
            queue: queue.into(),
            ..Default::default()
        };
        match shape {
            Shape::Linear { size } => request.header_size = size.into(),
            Shape::Split {
                header_size,
                page_size,
                threshold,
            } => {
                request.shape = abi::RxShape::Split.into();
                request.header_size = header_size.into();
                request.page_size = page_size.into();
                request.hds_thresh = threshold.into();
            }
            Shape::VirtioNet { .. } | Shape::Event => panic!("not a shape of RXQ_START"),
        }
        self.command(Opcode::RxqStart, request.as_bytes())?;
        self.pairs[usize::from(queue)]
            .receive
            .set_shape(Some(shape));
        Ok(())
    }

    /// RXQ_STOP: returns the number of chains that came back unused, as the device says and the ring shows.
    ///
    /// # Errors
    ///
    /// The device refuses.
    ///
    /// # Panics
    ///
    /// The two differ.
    pub fn stop_receive(&mut self, queue: u16) -> Result<u32> {
        let number = usize::from(queue);
        self.reap(number);
        let before = self.pairs[number].receive.returned();
        let count = self.queue_command(Opcode::RxqStop, queue)?;
        self.reap(number);
        let receive = &mut self.pairs[number].receive;
        assert_eq!(receive.posted(), 0, "a stop returns every chain");
        let after = receive.returned();
        let (right, wrong) = (after.right - before.right, after.wrong - before.wrong);
        // Chains of the wrong shape may have come back just before the stop.
        assert!(
            (right..=right + wrong).contains(&count),
            "the stop says {count} chains; {right} came back, and {wrong} of the wrong shape"
        );
        receive.set_shape(None);
        Ok(count)
    }

    /// The oldest frame of a queue; waits for one.
    ///
    /// # Panics
    ///
    /// None comes.
    pub fn receive(&mut self, queue: u16) -> Received {
        loop {
            if let Some(frame) = self.try_receive(queue) {
                return frame;
            }
            assert!(
                self.transport.wait(2 * usize::from(queue)),
                "no frame on queue {queue}"
            );
        }
    }

    /// The oldest frame that is already there.
    pub fn try_receive(&mut self, queue: u16) -> Option<Received> {
        self.reap(usize::from(queue));
        self.pairs[usize::from(queue)].receive.take_frame()
    }

    /// All frames that are already there, on all queues.
    pub fn receive_all(&mut self) -> Vec<(u16, Received)> {
        let mut frames = Vec::new();
        for queue in 0..self.pairs.len() as u16 {
            while let Some(frame) = self.try_receive(queue) {
                frames.push((queue, frame));
            }
        }
        frames
    }

    /// Chains that came back unused since this was last asked.
    pub fn take_returned(&mut self, queue: u16) -> u32 {
        self.reap(usize::from(queue));
        self.pairs[usize::from(queue)].receive.take_returned()
    }

    /// Chains that the device has.
    #[must_use]
    pub fn posted(&self, queue: u16) -> usize {
        self.pairs[usize::from(queue)].receive.posted()
    }

    /// Posts buffers for events.
    pub fn post_events(&mut self, count: usize) {
        self.post(self.data_pairs(), Shape::Event, count);
    }

    /// The oldest event; waits for one.
    ///
    /// # Panics
    ///
    /// None comes.
    pub fn event(&mut self) -> abi::Event {
        let pair = self.pairs.len() - 1;
        loop {
            self.reap(pair);
            if let Some(event) = self.pairs[pair].receive.take_event() {
                return event;
            }
            assert!(self.transport.wait(2 * pair), "no event");
        }
    }

    // ---- transmit ---------------------------------------------------------------------------------------

    /// TXQ_START.
    ///
    /// # Errors
    ///
    /// The device refuses.
    pub fn start_transmit(&mut self, queue: u16) -> Result<()> {
        self.queue_command(Opcode::TxqStart, queue).map(|_| ())
    }

    /// TXQ_STOP: returns the number of chains that came back unsent.
    ///
    /// # Errors
    ///
    /// The device refuses.
    ///
    /// # Panics
    ///
    /// The device keeps one.
    pub fn stop_transmit(&mut self, queue: u16) -> Result<u32> {
        let count = self.queue_command(Opcode::TxqStop, queue)?;
        self.reap(usize::from(queue));
        assert_eq!(
            self.pairs[usize::from(queue)].transmit.outstanding(),
            0,
            "a stop returns all"
        );
        Ok(count)
    }

    /// Sends a frame and waits until it is on its way: what it causes on the other port has happened.
    ///
    /// # Panics
    ///
    /// It does not come back.
    pub fn send(&mut self, queue: u16, packet: impl Into<Packet>) {
        self.enqueue(queue, packet);
        self.flush(queue);
    }

    /// Makes a frame available without waiting for anything but room on the ring.
    ///
    /// # Panics
    ///
    /// There is none and the device makes none.
    pub fn enqueue(&mut self, queue: u16, packet: impl Into<Packet>) {
        let packet = packet.into();
        let plain = self.role == Role::Plain;
        let number = usize::from(queue);
        while !self.pairs[number]
            .transmit
            .add(&mut self.guest, &packet, plain)
        {
            assert!(
                self.transport.wait(2 * number + 1),
                "no room on transmit queue {queue}"
            );
            self.reap(number);
        }
        if self.pairs[number].transmit.publish() {
            self.transport.kick(2 * number + 1);
        }
    }

    /// Waits until the device has completed every frame of a queue.
    ///
    /// # Panics
    ///
    /// It does not.
    pub fn flush(&mut self, queue: u16) {
        let number = usize::from(queue);
        loop {
            self.reap(number);
            if self.pairs[number].transmit.outstanding() == 0 {
                return;
            }
            assert!(
                self.transport.wait(2 * number + 1),
                "transmit queue {queue} does not go on"
            );
        }
    }

    /// Transmit chains that the device has.
    #[must_use]
    pub fn unsent(&self, queue: u16) -> usize {
        self.pairs[usize::from(queue)].transmit.outstanding()
    }

    // ---- configuration ----------------------------------------------------------------------------------

    /// OFFLOADS.
    ///
    /// # Errors
    ///
    /// The device refuses.
    pub fn offloads(&mut self, on: &[Feature]) -> Result<()> {
        let bits = on
            .iter()
            .fold(0, |bits, feature| bits | 1u64 << *feature as u32);
        let request = abi::Offloads {
            features: [U64::new(bits), U64::new(0)],
            ..Default::default()
        };
        self.command(Opcode::Offloads, request.as_bytes())?;
        for pair in &mut self.pairs {
            pair.receive.verdicts = match on.contains(&Feature::RxCsum) {
                true => Verdicts::Right,
                false => Verdicts::None,
            };
        }
        Ok(())
    }

    /// From now on any verdict on a checksum is right: for frames that etherparse and the device may read
    /// differently, because they are not well-formed.
    pub fn accept_any_verdict(&mut self) {
        for pair in &mut self.pairs {
            pair.receive.verdicts = Verdicts::Any;
        }
    }

    /// RX_MODE.
    ///
    /// # Errors
    ///
    /// The device refuses.
    pub fn receive_mode(&mut self, flags: u16, addresses: &[[u8; 6]]) -> Result<()> {
        let head = abi::RxMode {
            flags: flags.into(),
            count: (addresses.len() as u16).into(),
            ..Default::default()
        };
        self.command(Opcode::RxMode, &with_array(&head, addresses))
            .map(|_| ())
    }

    /// RSS_SET.
    ///
    /// # Errors
    ///
    /// The device refuses.
    pub fn set_rss(&mut self, set: abi::RssSet, table: &[u16]) -> Result<()> {
        let head = abi::RssSet {
            table_length: (table.len() as u16).into(),
            ..set
        };
        let table: Vec<_> = table.iter().map(|queue| queue.to_le_bytes()).collect();
        self.command(Opcode::RssSet, &with_array(&head, &table))
            .map(|_| ())
    }

    /// RSS_DEL.
    ///
    /// # Errors
    ///
    /// The device refuses.
    pub fn delete_rss(&mut self, context: u16) -> Result<()> {
        let request = abi::RssDel {
            context: context.into(),
            ..Default::default()
        };
        self.command(Opcode::RssDel, request.as_bytes()).map(|_| ())
    }

    /// RULE_SET.
    ///
    /// # Errors
    ///
    /// The device refuses.
    pub fn set_rules(&mut self, rules: &[abi::Rule]) -> Result<()> {
        let head = abi::RuleSet {
            count: (rules.len() as u32).into(),
            ..Default::default()
        };
        self.command(Opcode::RuleSet, &with_array(&head, rules))
            .map(|_| ())
    }

    /// RULE_DEL.
    ///
    /// # Errors
    ///
    /// The device refuses.
    pub fn delete_rules(&mut self, locations: &[u32]) -> Result<()> {
        let head = abi::RuleDel {
            count: (locations.len() as u32).into(),
            ..Default::default()
        };
        let locations: Vec<_> = locations
            .iter()
            .map(|location| location.to_le_bytes())
            .collect();
        self.command(Opcode::RuleDel, &with_array(&head, &locations))
            .map(|_| ())
    }

    /// STATS of the port and of all data pairs.
    ///
    /// # Panics
    ///
    /// The device refuses.
    pub fn stats(&mut self) -> (abi::PortStats, Vec<abi::QueueStats>) {
        let count = self.data_pairs();
        let request = abi::Stats {
            count: count.into(),
            ..Default::default()
        };
        let bytes = self
            .command(Opcode::Stats, request.as_bytes())
            .expect("STATS is executed");
        let (head, rest) = abi::StatsResponse::read_from_prefix(&bytes).expect("a response");
        let size = size_of::<abi::QueueStats>();
        assert_eq!(
            rest.len(),
            usize::from(count) * size,
            "STATS answers for every queue"
        );
        let queues = rest
            .chunks_exact(size)
            .map(|bytes| abi::QueueStats::read_from_bytes(bytes).expect("a whole struct"));
        (head.port, queues.collect())
    }

    /// STATUS.
    ///
    /// # Panics
    ///
    /// The device refuses.
    pub fn status(&mut self) -> abi::StatusResponse {
        let request = abi::Request::new_zeroed();
        let bytes = self
            .command(Opcode::Status, request.as_bytes())
            .expect("STATUS is executed");
        abi::StatusResponse::read_from_bytes(&bytes).expect("a whole response")
    }

    // ---- a plain driver ---------------------------------------------------------------------------------

    /// From now on this is an ordinary virtio-net driver with mergeable buffers of `size` bytes.
    pub fn act_plain(&mut self, size: u32) {
        self.role = Role::Plain;
        for pair in &mut self.pairs {
            pair.receive.set_shape(Some(Shape::VirtioNet { size }));
        }
    }

    fn queue_command(&mut self, opcode: Opcode, queue: u16) -> Result<u32> {
        let request = abi::QueueCommand {
            queue: queue.into(),
            ..Default::default()
        };
        let bytes = self.command(opcode, request.as_bytes())?;
        let response = abi::Response::read_from_bytes(&bytes).expect("nothing but the header");
        Ok(response.detail.get())
    }

    fn reap(&mut self, pair: usize) {
        let Pair { receive, transmit } = &mut self.pairs[pair];
        receive.reap(&mut self.guest);
        transmit.reap(&mut self.guest);
    }
}

impl<T> Drop for Driver<T> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.guest.audit();
        }
    }
}

fn status(response: abi::Response) -> Status {
    Status::try_from(response.status.get()).expect("a known status")
}

fn with_array<H: IntoBytes + Immutable, E: IntoBytes + Immutable>(
    head: &H,
    array: &[E],
) -> Vec<u8> {
    [head.as_bytes(), array.as_bytes()].concat()
}
