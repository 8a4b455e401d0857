//! Executes the commands of docs/abi.md. Every command is validated completely before it changes
//! anything.

use std::{mem::offset_of, num::NonZeroU32, sync::Arc};

use thiserror::Error;
use zerocopy::{FromBytes, IntoBytes, little_endian::U16};

use crate::{
    abi::{self, Invalid, Opcode, Status},
    clock::{Frequency, PortClock},
    features::{Feature, FeatureSet},
    filter::AddressFilter,
    limits::{MAX_FRAME, MAX_RSS_CONTEXTS, MAX_RSS_TABLE, MAX_RULES},
    port::{DriverMode, InterruptModeration, ModerationLimits, Port, QueueSet, Rings, Session},
    receive::{Layout, MAX_CHAINS, RX_HEADER},
    steering::{Steering, SteeringError},
};

/// The longest header fragment of a split chain, in bytes.
pub const MAX_HEADER_SIZE: u32 = 4096;
/// The longest payload buffer of a split chain, in bytes.
pub const MAX_PAGE_SIZE: u32 = 1 << 20;
/// The shortest header fragment: room for Ethernet, IPv6 and TCP without options.
const MIN_HEADER_SIZE: u32 = 192;
/// The shortest linear buffer: a full-sized Ethernet frame takes at most 13 of these.
const MIN_LINEAR_SIZE: u32 = 192;
/// The longest linear buffer.
const MAX_LINEAR_SIZE: u32 = 65536;
/// The shortest payload buffer.
const MIN_PAGE_SIZE: u32 = 256;

/// A refused command: status and detail of the response.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{status:?}, detail {detail}")]
struct Refusal {
    status: Status,
    detail: u32,
}

impl Refusal {
    const fn new(status: Status, detail: u32) -> Self {
        Self { status, detail }
    }

    /// The field at `offset` has a value that is not allowed.
    const fn field(offset: usize) -> Self {
        Self::new(Status::Invalid, offset as u32)
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        Self::field(invalid.offset)
    }
}

impl From<SteeringError> for Refusal {
    fn from(error: SteeringError) -> Self {
        let (status, detail) = error.status();
        Self::new(status, detail)
    }
}

/// The result of an executed command: the detail, and the bytes behind the response header.
#[derive(Default)]
struct Answer {
    detail: u32,
    body: Vec<u8>,
}

impl Answer {
    const fn detail(detail: u32) -> Self {
        Self {
            detail,
            body: Vec::new(),
        }
    }

    /// The part of a whole response struct behind its header, which [`Port::execute`] fills.
    fn behind_header(response: &(impl IntoBytes + zerocopy::Immutable)) -> Self {
        Self {
            detail: 0,
            body: response.as_bytes()[size_of::<abi::Response>()..].to_vec(),
        }
    }
}

type Result<T> = std::result::Result<T, Refusal>;

/// Whether `request`, the readable part of a chain that also has a writable part, is a HELLO.
#[must_use]
pub fn is_hello(request: &[u8]) -> bool {
    abi::Request::read_from_prefix(request).is_ok_and(|(header, _)| {
        header.magic.get() == abi::MAGIC && header.opcode.get() == u16::from(Opcode::Hello)
    })
}

/// The start of a request, zero-filled if it is shorter.
fn header(request: &[u8]) -> abi::Request {
    let mut padded = [0; size_of::<abi::Request>()];
    let known = request.len().min(padded.len());
    padded[..known].copy_from_slice(&request[..known]);
    abi::Request::read_from_bytes(&padded).unwrap_or_default()
}

impl Port {
    /// Executes the request that came on the transmit ring of `pair` and returns the response.
    pub fn execute(&mut self, pair: u16, request: &[u8], rings: &mut impl Rings) -> Vec<u8> {
        self.commands += 1;
        let header = header(request);
        let result = self.dispatch(pair, header, request, rings);
        self.respond(header, result)
    }

    /// Answers a request with an error without executing it.
    pub fn fail(&mut self, request: &[u8], status: Status, detail: u32) -> Vec<u8> {
        self.commands += 1;
        self.respond(header(request), Err(Refusal::new(status, detail)))
    }

    fn respond(&mut self, header: abi::Request, result: Result<Answer>) -> Vec<u8> {
        let (status, Answer { detail, body }) = match result {
            Ok(answer) => (Status::Ok, answer),
            Err(Refusal { status, detail }) => {
                self.commands_refused += 1;
                (status, Answer::detail(detail))
            }
        };
        let session = match self.mode {
            DriverMode::Zcnic(session) => session.id,
            DriverMode::Undecided | DriverMode::Plain => 0,
        };
        let mut response = abi::Response {
            magic: abi::MAGIC.into(),
            opcode: header.opcode,
            status: u16::from(status).into(),
            sequence: header.sequence,
            length: ((size_of::<abi::Response>() + body.len()) as u32).into(),
            session: session.into(),
            detail: detail.into(),
            ..Default::default()
        }
        .as_bytes()
        .to_vec();
        response.extend(body);
        response
    }

    #[expect(clippy::too_many_lines, reason = "a table of commands")]
    fn dispatch(
        &mut self,
        pair: u16,
        header: abi::Request,
        request: &[u8],
        rings: &mut impl Rings,
    ) -> Result<Answer> {
        if header.magic.get() != abi::MAGIC {
            return Err(Refusal::field(offset_of!(abi::Request, magic)));
        }
        if header.length.get() as usize != request.len() || request.len() > abi::MAX_REQUEST {
            return Err(Refusal::field(offset_of!(abi::Request, length)));
        }
        let opcode = header.opcode.get();
        let unsupported = Refusal::new(Status::Unsupported, u32::from(opcode));
        let opcode = Opcode::try_from(opcode).map_err(|_| unsupported)?;
        if opcode == Opcode::Hello {
            return self.hello(pair, request, rings);
        }
        let session = match self.mode {
            DriverMode::Zcnic(session) if session.id == header.session.get() => session,
            _ => return Err(Refusal::new(Status::Stale, 0)),
        };
        match opcode {
            Opcode::Hello => Err(unsupported),
            Opcode::RxqStart => self.start_receive(session, request, rings),
            Opcode::RxqStop => self.queue_command(session, request, |port, queue| {
                port.rx_running.remove(queue);
                Ok(Answer::detail(rings.stop_receive(queue)))
            }),
            Opcode::TxqStart => self.queue_command(session, request, |port, queue| {
                if port.tx_running.contains(queue) {
                    return Err(Refusal::new(Status::Busy, u32::from(queue)));
                }
                port.tx_running.insert(queue);
                rings.start_transmit(queue);
                Ok(Answer::default())
            }),
            Opcode::TxqStop => self.queue_command(session, request, |port, queue| {
                port.tx_running.remove(queue);
                Ok(Answer::detail(rings.stop_transmit(queue)))
            }),
            Opcode::RssSet => self.steer(rings, |steering| set_rss(steering, session, request)),
            Opcode::RssDel => self.steer(rings, |steering| {
                let command: abi::RssDel = abi::read_request(request)?;
                Ok(steering.delete_context(command.context.get())?)
            }),
            Opcode::RuleSet => self.steer(rings, |steering| {
                need(session, Feature::Rules)?;
                let rules = abi::read_array::<abi::RuleSet, abi::Rule>(request, |fixed| {
                    fixed.count.get() as usize
                })?
                .1;
                Ok(steering.set_rules(rules)?)
            }),
            Opcode::RuleDel => self.steer(rings, |steering| {
                let locations = abi::read_array::<abi::RuleDel, zerocopy::little_endian::U32>(
                    request,
                    |fixed| fixed.count.get() as usize,
                )?
                .1;
                let locations: Vec<u32> = locations.iter().map(|location| location.get()).collect();
                Ok(steering.delete_rules(&locations)?)
            }),
            Opcode::RxMode => self.steer(rings, |steering| {
                let (fixed, addresses) =
                    abi::read_array::<abi::RxMode, abi::Address>(request, |fixed| {
                        usize::from(fixed.count.get())
                    })?;
                steering.set_filter(AddressFilter::from_request(&fixed, addresses)?);
                Ok(())
            }),
            Opcode::Offloads => {
                let command: abi::Offloads = abi::read_request(request)?;
                let on = FeatureSet::from_words(command.features);
                let allowed = session.features.and(FeatureSet::SWITCHABLE);
                if let Some(bit) = on.first_outside(allowed) {
                    return Err(Refusal::new(Status::Unsupported, bit));
                }
                // GRO coalesces verified segments, and the driver needs the verdict to use an
                // aggregate.
                if on.has(Feature::Gro) && !on.has(Feature::RxCsum) {
                    return Err(Refusal::field(offset_of!(abi::Offloads, features)));
                }
                self.offloads = on;
                rings.configure(self.configuration());
                Ok(Answer::default())
            }
            Opcode::Coalesce => {
                need(session, Feature::Coalesce)?;
                let command: abi::Coalesce = abi::read_request(request)?;
                self.moderation = InterruptModeration {
                    receive: ModerationLimits::new(command.rx_usecs.get(), command.rx_chains.get()),
                    transmit: ModerationLimits::new(
                        command.tx_usecs.get(),
                        command.tx_chains.get(),
                    ),
                };
                rings.configure(self.configuration());
                Ok(Answer::default())
            }
            Opcode::Stats => self.stats(session, request, rings),
            Opcode::Status => {
                abi::read_request::<abi::Request>(request)?;
                Ok(self.status(rings))
            }
            Opcode::Clock => {
                need(session, Feature::Timestamp)?;
                abi::read_request::<abi::Request>(request)?;
                Ok(self.time(rings.clock()))
            }
            Opcode::Mtu => self.steer(rings, |steering| {
                need(session, Feature::Mtu)?;
                let command: abi::Mtu = abi::read_request(request)?;
                steering.set_mtu(NonZeroU32::new(command.mtu.get()));
                Ok(())
            }),
            Opcode::ClockAdjust => {
                need(session, Feature::Timestamp)?;
                let command: abi::ClockAdjust = abi::read_request(request)?;
                let frequency = Frequency::new(command.frequency.get())
                    .ok_or(Refusal::field(offset_of!(abi::ClockAdjust, frequency)))?;
                let now = rings.clock();
                self.clock = self.clock.adjusted(now, command.step.get(), frequency);
                rings.configure(self.configuration());
                Ok(self.time(now))
            }
        }
    }

    /// The answer to CLOCK when the device's clock says `now`.
    fn time(&self, now: u64) -> Answer {
        Answer::behind_header(&abi::ClockResponse {
            nanoseconds: self.clock.at(now).into(),
            device_nanoseconds: now.into(),
            ..Default::default()
        })
    }

    fn hello(&mut self, pair: u16, request: &[u8], rings: &mut impl Rings) -> Result<Answer> {
        let hello: abi::Hello = abi::read_request(request)?;
        if hello.request.session.get() != 0 {
            return Err(Refusal::field(offset_of!(abi::Request, session)));
        }
        if !(hello.version_min.get()..=hello.version_max.get()).contains(&abi::ABI_VERSION) {
            return Err(Refusal::new(Status::Version, u32::from(abi::ABI_VERSION)));
        }
        // One data pair at least, and the command pair is the last one.
        if pair == 0 || hello.queue_pairs.get() != pair + 1 {
            return Err(Refusal::field(offset_of!(abi::Hello, queue_pairs)));
        }
        rings.reset(pair);
        let features = self.offered.and(FeatureSet::from_words(hello.features));
        self.mode = DriverMode::Zcnic(Session {
            id: rings.session_id(),
            command_pair: pair,
            features,
        });
        self.steering = Arc::new(Steering::new(pair));
        self.offloads = FeatureSet::default();
        self.moderation = InterruptModeration::default();
        self.clock = PortClock::default();
        self.rx_running = QueueSet::default();
        self.tx_running = QueueSet::default();
        rings.configure(self.configuration());
        Ok(Answer::behind_header(&abi::HelloResponse {
            version: abi::ABI_VERSION.into(),
            max_rss_contexts: MAX_RSS_CONTEXTS.into(),
            max_rss_table: MAX_RSS_TABLE.into(),
            max_chains: (MAX_CHAINS as u16).into(),
            max_rules: MAX_RULES.into(),
            max_frame: (MAX_FRAME as u32).into(),
            max_header_size: MAX_HEADER_SIZE.into(),
            max_page_size: MAX_PAGE_SIZE.into(),
            features: features.to_words(),
            ..Default::default()
        }))
    }

    fn start_receive(
        &mut self,
        session: Session,
        request: &[u8],
        rings: &mut impl Rings,
    ) -> Result<Answer> {
        let command: abi::RxqStart = abi::read_request(request)?;
        let layout = layout(session, &command)?;
        let max_chains = match usize::from(command.max_chains) {
            0 => MAX_CHAINS,
            chains if chains > MAX_CHAINS => {
                return Err(Refusal::field(offset_of!(abi::RxqStart, max_chains)));
            }
            chains => chains,
        };
        let queue = command.queue.get();
        if queue >= session.command_pair {
            return Err(Refusal::field(offset_of!(abi::RxqStart, queue)));
        }
        if self.rx_running.contains(queue) {
            return Err(Refusal::new(Status::Busy, u32::from(queue)));
        }
        self.rx_running.insert(queue);
        rings.start_receive(queue, layout, max_chains);
        Ok(Answer::default())
    }

    fn queue_command(
        &mut self,
        session: Session,
        request: &[u8],
        run: impl FnOnce(&mut Self, u16) -> Result<Answer>,
    ) -> Result<Answer> {
        let command: abi::QueueCommand = abi::read_request(request)?;
        let queue = command.queue.get();
        if queue >= session.command_pair {
            return Err(Refusal::field(offset_of!(abi::QueueCommand, queue)));
        }
        run(self, queue)
    }

    /// Applies `change` to a copy of the steering configuration and publishes the copy if the whole
    /// change was accepted.
    fn steer(
        &mut self,
        rings: &mut impl Rings,
        change: impl FnOnce(&mut Steering) -> Result<()>,
    ) -> Result<Answer> {
        let mut steering = Steering::clone(&self.steering);
        change(&mut steering)?;
        self.steering = Arc::new(steering);
        rings.configure(self.configuration());
        Ok(Answer::default())
    }

    fn stats(&self, session: Session, request: &[u8], rings: &impl Rings) -> Result<Answer> {
        let command: abi::Stats = abi::read_request(request)?;
        let (first, count) = (command.first.get(), command.count.get());
        if first > session.command_pair {
            return Err(Refusal::field(offset_of!(abi::Stats, first)));
        }
        if count > session.command_pair - first {
            return Err(Refusal::field(offset_of!(abi::Stats, count)));
        }
        let port = rings.port_counters();
        let mut answer = Answer::behind_header(&abi::StatsResponse {
            port: abi::PortStats {
                rx_filtered: port.filtered.into(),
                rx_rule_drop: port.rule_drop.into(),
                rx_oversize: port.oversize.into(),
                commands: self.commands.into(),
                commands_refused: self.commands_refused.into(),
            },
            ..Default::default()
        });
        for queue in first..first + count {
            let (receive, transmit) = rings.counters(queue);
            let stats = abi::QueueStats {
                rx_frames: receive.frames.into(),
                rx_bytes: receive.bytes.into(),
                rx_split: receive.split.into(),
                rx_unsplit: receive.unsplit.into(),
                rx_long_headers: receive.long_headers.into(),
                rx_csum_bad: receive.csum_bad.into(),
                rx_no_buffer: receive.no_buffer.into(),
                rx_stopped: receive.stopped.into(),
                rx_too_long: receive.too_long.into(),
                rx_unsplit_too_long: receive.unsplit_too_long.into(),
                rx_bad_chain: receive.bad_chain.into(),
                rx_gro_frames: receive.gro_frames.into(),
                rx_gro_bytes: receive.gro_bytes.into(),
                rx_gro_wire_frames: receive.gro_wire_frames.into(),
                rx_gro_wire_bytes: receive.gro_wire_bytes.into(),
                tx_frames: transmit.frames.into(),
                tx_bytes: transmit.bytes.into(),
                tx_errors: transmit.errors.into(),
            };
            answer.body.extend_from_slice(stats.as_bytes());
        }
        Ok(answer)
    }

    fn status(&self, rings: &impl Rings) -> Answer {
        let words = |set: QueueSet| set.words().map(Into::into);
        Answer::behind_header(&abi::StatusResponse {
            flags: if rings.link_up() {
                abi::STATUS_LINK_UP
            } else {
                0
            }
            .into(),
            event_sequence: self.event_sequence.into(),
            rx_running: words(self.rx_running),
            tx_running: words(self.tx_running),
            ..Default::default()
        })
    }
}

/// Refuses a command whose feature was not negotiated.
fn need(session: Session, feature: Feature) -> Result<()> {
    if session.features.has(feature) {
        Ok(())
    } else {
        Err(Refusal::new(Status::Unsupported, feature as u32))
    }
}

fn set_rss(steering: &mut Steering, session: Session, request: &[u8]) -> Result<()> {
    let (fixed, table) = abi::read_array::<abi::RssSet, U16>(request, |fixed| {
        usize::from(fixed.table_length.get())
    })?;
    if fixed.context.get() != 0 {
        need(session, Feature::RssContexts)?;
    }
    if fixed.symmetric.get() != 0 {
        need(session, Feature::RssSymmetric)?;
    }
    Ok(steering.set_context(&fixed, table)?)
}

fn layout(session: Session, command: &abi::RxqStart) -> Result<Layout> {
    let (header, page, threshold) = (
        command.header_size.get(),
        command.page_size.get(),
        command.hds_thresh.get(),
    );
    let bad = |offset| Err(Refusal::field(offset));
    match abi::RxShape::try_from(command.shape) {
        Ok(abi::RxShape::Linear) => {
            if !(MIN_LINEAR_SIZE..=MAX_LINEAR_SIZE).contains(&header) {
                return bad(offset_of!(abi::RxqStart, header_size));
            }
            if page != 0 {
                return bad(offset_of!(abi::RxqStart, page_size));
            }
            if threshold != 0 {
                return bad(offset_of!(abi::RxqStart, hds_thresh));
            }
            Ok(Layout::Linear { size: header })
        }
        Ok(abi::RxShape::Split) => {
            need(session, Feature::Split)?;
            if !(MIN_HEADER_SIZE..=MAX_HEADER_SIZE).contains(&header) || header % 64 != 0 {
                return bad(offset_of!(abi::RxqStart, header_size));
            }
            if !(MIN_PAGE_SIZE..=MAX_PAGE_SIZE).contains(&page) {
                return bad(offset_of!(abi::RxqStart, page_size));
            }
            if threshold > header - RX_HEADER as u32 {
                return bad(offset_of!(abi::RxqStart, hds_thresh));
            }
            Ok(Layout::Split {
                header_size: header,
                page_size: page,
                threshold,
                l4_only: session.features.has(Feature::SplitL4),
            })
        }
        Err(_) => bad(offset_of!(abi::RxqStart, shape)),
    }
}
