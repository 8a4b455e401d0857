//! The driver's commands: sessions and configuration.

use zcnic_device::{
    abi::{self, MAGIC, Opcode, Status},
    features::{Feature, FeatureSet},
};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, little_endian::U64};

use super::{Driver, Failure, Result, Role, Transport};
use crate::receive::{ExpectedVerdict, Shape};

/// Bytes for a response: STATS of the most queue pairs.
const RESPONSE_ROOM: usize = 32768;

impl<T: Transport> Driver<T> {
    /// The HELLO of a driver that supports all features.
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
    /// The device refuses or does not answer.
    pub fn hello(&mut self) -> abi::HelloResponse {
        self.try_hello(self.hello_request())
            .expect("HELLO is executed")
    }

    /// Begins a session and checks that every chain was returned.
    ///
    /// # Errors
    ///
    /// The device refuses or does not answer.
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
            pair.receive.reset_frame_number();
            pair.receive.reset_time();
            pair.receive.expected_verdict = ExpectedVerdict::None;
            pair.receive.timestamped = Some(false);
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

    /// HELLO, and then the configuration that a port needs to receive: PROMISC, offloads, all
    /// transmit queues, and `buffers` chains on every receive queue.
    ///
    /// # Panics
    ///
    /// The device refuses.
    pub fn bring_up(&mut self, shape: Shape, buffers: usize) {
        self.bring_up_with(FeatureSet::ALL, shape, buffers);
    }

    /// The same as a driver that supports these features.
    ///
    /// # Panics
    ///
    /// The device refuses.
    pub fn bring_up_with(&mut self, features: FeatureSet, shape: Shape, buffers: usize) {
        let hello = abi::Hello {
            features: features.to_words(),
            ..self.hello_request()
        };
        self.try_hello(hello).expect("HELLO is executed");
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
    /// The device refuses or does not answer.
    ///
    /// # Panics
    ///
    /// The response does not match the request.
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

    /// Sends the bytes of a request unchanged and returns the response.
    ///
    /// # Errors
    ///
    /// The device does not answer.
    ///
    /// # Panics
    ///
    /// The response does not match the request.
    pub fn exchange(&mut self, request: &[u8]) -> Result<Vec<u8>> {
        let command_pair = self.pairs.len() - 1;
        // Split at an odd offset, so that a device which expects one descriptor fails.
        let middle = request.len().min(7);
        let pieces: Vec<&[u8]> = [&request[..middle], &request[middle..]]
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

    /// Sends a request on the transmit ring of any pair and returns the bytes written to its
    /// response of at most `room` bytes.
    ///
    /// # Errors
    ///
    /// The device does not answer.
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
            pair.receive.expected_verdict = match on.contains(&Feature::RxCsum) {
                true => ExpectedVerdict::Valid,
                false => ExpectedVerdict::None,
            };
            pair.receive.timestamped = Some(on.contains(&Feature::Timestamp));
        }
        Ok(())
    }

    /// Accepts any verdict on checksums from now on, for malformed frames, which etherparse and the
    /// device may parse differently. Accepts any set of offloads, too, which noise may switch.
    pub fn accept_anything(&mut self) {
        for pair in &mut self.pairs {
            pair.receive.expected_verdict = ExpectedVerdict::Any;
            pair.receive.timestamped = None;
        }
    }

    /// RX_MODE.
    ///
    /// # Errors
    ///
    /// The device refuses.
    pub fn receive_mode(&mut self, flags: u16, addresses: &[[u8; 6]]) -> Result<()> {
        let fixed = abi::RxMode {
            flags: flags.into(),
            count: (addresses.len() as u16).into(),
            ..Default::default()
        };
        self.command(Opcode::RxMode, &with_array(&fixed, addresses))
            .map(|_| ())
    }

    /// RSS_SET.
    ///
    /// # Errors
    ///
    /// The device refuses.
    pub fn set_rss(&mut self, set: abi::RssSet, table: &[u16]) -> Result<()> {
        let fixed = abi::RssSet {
            table_length: (table.len() as u16).into(),
            ..set
        };
        let table: Vec<_> = table.iter().map(|queue| queue.to_le_bytes()).collect();
        self.command(Opcode::RssSet, &with_array(&fixed, &table))
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
        let fixed = abi::RuleSet {
            count: (rules.len() as u32).into(),
            ..Default::default()
        };
        self.command(Opcode::RuleSet, &with_array(&fixed, rules))
            .map(|_| ())
    }

    /// RULE_DEL.
    ///
    /// # Errors
    ///
    /// The device refuses.
    pub fn delete_rules(&mut self, locations: &[u32]) -> Result<()> {
        let fixed = abi::RuleDel {
            count: (locations.len() as u32).into(),
            ..Default::default()
        };
        let locations: Vec<_> = locations
            .iter()
            .map(|location| location.to_le_bytes())
            .collect();
        self.command(Opcode::RuleDel, &with_array(&fixed, &locations))
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
        let (fixed, rest) = abi::StatsResponse::read_from_prefix(&bytes).expect("a response");
        let size = size_of::<abi::QueueStats>();
        assert_eq!(
            rest.len(),
            usize::from(count) * size,
            "STATS answers for every queue"
        );
        let queues = rest
            .chunks_exact(size)
            .map(|bytes| abi::QueueStats::read_from_bytes(bytes).expect("a whole struct"));
        (fixed.port, queues.collect())
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

    /// COALESCE: microseconds and chains, of receive and of transmit rings.
    ///
    /// # Errors
    ///
    /// The device refuses.
    pub fn set_moderation(&mut self, receive: (u16, u16), transmit: (u16, u16)) -> Result<()> {
        let request = abi::Coalesce {
            rx_usecs: receive.0.into(),
            rx_chains: receive.1.into(),
            tx_usecs: transmit.0.into(),
            tx_chains: transmit.1.into(),
            ..Default::default()
        };
        self.command(Opcode::Coalesce, request.as_bytes())
            .map(|_| ())
    }

    /// CLOCK.
    ///
    /// # Errors
    ///
    /// The device refuses.
    ///
    /// # Panics
    ///
    /// The response is too short.
    pub fn clock(&mut self) -> Result<u64> {
        Ok(self.clocks()?.0)
    }

    /// CLOCK: the times of the port's and of the device's clock.
    ///
    /// # Errors
    ///
    /// The device refuses.
    ///
    /// # Panics
    ///
    /// The response is too short.
    pub fn clocks(&mut self) -> Result<(u64, u64)> {
        let request = abi::Request::new_zeroed();
        let bytes = self.command(Opcode::Clock, request.as_bytes())?;
        Ok(times(&bytes))
    }

    /// CLOCK_ADJUST: a step in nanoseconds, and a frequency in 2^-16 parts per million. Returns the
    /// times of the port's and of the device's clock.
    ///
    /// # Errors
    ///
    /// The device refuses.
    ///
    /// # Panics
    ///
    /// The response is too short.
    pub fn adjust_clock(&mut self, step: i64, frequency: i64) -> Result<(u64, u64)> {
        let request = abi::ClockAdjust {
            step: step.into(),
            frequency: frequency.into(),
            ..Default::default()
        };
        let bytes = self.command(Opcode::ClockAdjust, request.as_bytes())?;
        for pair in &mut self.pairs {
            pair.receive.reset_time();
        }
        Ok(times(&bytes))
    }

    /// MTU.
    ///
    /// # Errors
    ///
    /// The device refuses.
    pub fn set_mtu(&mut self, mtu: u32) -> Result<()> {
        let request = abi::Mtu {
            mtu: mtu.into(),
            ..Default::default()
        };
        self.command(Opcode::Mtu, request.as_bytes()).map(|_| ())
    }

    pub(super) fn queue_command(&mut self, opcode: Opcode, queue: u16) -> Result<u32> {
        let request = abi::QueueCommand {
            queue: queue.into(),
            ..Default::default()
        };
        let bytes = self.command(opcode, request.as_bytes())?;
        let response = abi::Response::read_from_bytes(&bytes).expect("nothing but the header");
        Ok(response.detail.get())
    }
}

fn times(response: &[u8]) -> (u64, u64) {
    let response = abi::ClockResponse::read_from_bytes(response).expect("a whole response");
    (
        response.nanoseconds.get(),
        response.device_nanoseconds.get(),
    )
}

fn status(response: abi::Response) -> Status {
    Status::try_from(response.status.get()).expect("a known status")
}

fn with_array<H: IntoBytes + Immutable, E: IntoBytes + Immutable>(
    fixed: &H,
    array: &[E],
) -> Vec<u8> {
    [fixed.as_bytes(), array.as_bytes()].concat()
}
