//! Two cabled ports of a backend in this process, and frontends that send from one to the other.

use std::{
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};
use zcnic_backend::{
    Backend, CableConfig, Config, FlowControl, PortConfig, PortMode, SandboxMode, WorkersConfig,
};
use zcnic_ctl::{
    client::Client,
    protocol::{
        Stats, command,
        fault::FaultAdd,
        ledger::{LedgerMode, LedgerSet},
    },
};
use zcnic_device::{
    abi::{self, RuleAction, RuleType},
    features::Feature,
    rss::{DEFAULT_FIELDS, DEFAULT_KEY},
};
use zcnic_model::{
    Driver, Shape, Transport,
    driver::Pair,
    frames::pattern,
    guest::Guest,
    vhost_user::{Frontend, addresses},
};
use zerocopy::IntoBytes;

use crate::{
    capture::Capture,
    pin,
    ring::{CyclicRing, Memory, Part, leak, slice},
    spec::Spec,
};

/// Guest memory of one port.
const MEMORY: usize = 320 << 20;

/// Descriptors of a ring: the most that QEMU offers, and as many chains, because tables are
/// indirect.
pub(crate) const RING: u16 = 1024;

/// The page size of guests.
const PAGE: usize = 4096;

/// Payload from here on is in a buffer of its own, as a kernel's is.
const SEPARATE: usize = 1024;

/// A port's driver and its data rings.
struct Side {
    driver: Driver<Frontend>,
    memory: Memory,
    rings: Vec<CyclicRing>,
    /// Room for an indirect table for each chain.
    tables: Vec<Part>,
    chains: Vec<Vec<Part>>,
}

/// The result of one measurement.
#[derive(Clone, Copy)]
pub(crate) struct Turn {
    /// Receive chains that were filled: frames, segments of trains, or coalesced frames' parts.
    pub(crate) frames: u64,
    pub(crate) time: Duration,
}

impl Turn {
    pub(crate) fn per_second(self) -> f64 {
        self.frames as f64 / self.time.as_secs_f64()
    }
}

/// Two cabled ports.
pub(crate) struct World {
    spec: Spec,
    cpus: [usize; 2],
    sender: Side,
    receiver: Side,
    capture: Option<Capture>,
    backend: Option<Backend>,
    _failures: Receiver<String>,
    directory: TempDir,
}

impl World {
    /// Starts everything. The backend's workers run on the first of `cpus`, the calling thread on
    /// the other.
    pub(crate) fn new(spec: Spec, cpus: [usize; 2]) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let port = |number: usize| PortConfig {
            name: number.to_string(),
            path: directory.path().join(format!("{number}.sock")),
            mode: PortMode::Zcnic,
        };
        let config = Config {
            ports: vec![port(0), port(1)],
            cables: vec![CableConfig {
                ends: [0, 1],
                flow_control: FlowControl::Drop,
                shape: None,
            }],
            control: Some(directory.path().join("control")),
            workers: WorkersConfig {
                poll: Duration::from_millis(1),
                cpus: vec![cpus[0]],
                ..WorkersConfig::default()
            },
            // The sandbox would confine the benchmark's frontends as well, and valgrind.
            sandbox: SandboxMode::Off,
            ..Config::default()
        };
        let (sender, failures) = mpsc::channel();
        let backend = Backend::start(&config, &sender)?;
        let mut world = Self {
            spec,
            cpus,
            receiver: Side::receiver(&config.ports[1], &spec),
            sender: Side::sender(&config.ports[0], &spec),
            capture: None,
            backend: Some(backend),
            _failures: failures,
            directory,
        };
        world.configure()?;
        Ok(world)
    }

    fn control(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(&self.directory.path().join("control"))?)
    }

    fn configure(&mut self) -> anyhow::Result<()> {
        let spec = self.spec;
        if spec.ledger != LedgerMode::Off {
            let set = LedgerSet {
                port: "1".into(),
                mode: spec.ledger,
                sanitize: false,
                overdue: None,
            };
            self.control()?
                .execute::<serde_json::Value>(command::LEDGER_SET, Some(&set))?;
        }
        if spec.fault {
            let rule = serde_json::json!({
                "direction": "rx", "match": { "destination-port": 9 }, "action": "drop",
            });
            let add: FaultAdd =
                serde_json::from_value(serde_json::json!({ "port": "1", "rules": [rule] }))?;
            self.control()?
                .execute::<serde_json::Value>(command::FAULT_ADD, Some(&add))?;
        }
        if spec.capture {
            self.capture = Some(Capture::start(&self.directory.path().join("control"), "1")?);
        }
        Ok(())
    }

    /// Sends for `time` as fast as frames come out at the other end.
    pub(crate) fn send(&mut self, time: Duration) -> Turn {
        let window = u64::from(RING) / self.spec.pieces();
        let (start, before) = (Instant::now(), self.receiver.returned());
        let mut elapsed = Duration::ZERO;
        let mut received = 0;
        while elapsed < time {
            for _ in 0..64 {
                self.turn(window);
            }
            if self.capture.is_some() {
                // The client that reads the capture runs on the same processor.
                thread::yield_now();
            }
            elapsed = start.elapsed();
            received = self.receiver.returned() - before;
        }
        while self.sender.outstanding() > 0 {
            self.turn(0);
        }
        rest(time);
        Turn {
            frames: received,
            time: elapsed,
        }
    }

    /// All frames sent have used their buffers. These are made available again before more is sent,
    /// so that no frame is lost.
    fn turn(&mut self, window: u64) {
        self.sender.reap();
        self.receiver.reap();
        self.receiver.post(None);
        self.sender.post(Some(window));
    }

    /// Sends until every receive chain was filled.
    pub(crate) fn use_all_chains(&mut self, turn: Duration) {
        let all = self.receiver.chains.len() as u64;
        while self.receiver.returned() < all {
            self.send(turn);
        }
    }

    /// Copies the payload of the same frames from and to the same addresses in the same order for
    /// `time`, on the processor of the worker, which is idle.
    pub(crate) fn copy(&self, time: Duration) -> anyhow::Result<Turn> {
        let size = self.spec.piece();
        let last = |side: &Side, chain: usize| slice(side.memory, side.chains[chain][1]);
        let mut sources = Vec::new();
        for chain in 0..self.sender.chains.len() {
            let whole = last(&self.sender, chain);
            for offset in (0..whole.len()).step_by(size) {
                sources.push(whole.subslice(offset, size.min(whole.len() - offset))?);
            }
        }
        let targets: Vec<_> = (0..self.receiver.chains.len())
            .map(|chain| last(&self.receiver, chain))
            .collect();
        let [worker, frontend] = self.cpus;
        pin(worker)?;
        let start = Instant::now();
        let (mut elapsed, mut frames) = (Duration::ZERO, 0);
        let mut pairs = sources.iter().cycle().zip(targets.iter().cycle());
        while elapsed < time {
            for (source, target) in pairs.by_ref().take(64) {
                source.copy_to_volatile_slice(*target);
            }
            frames += 64;
            elapsed = start.elapsed();
        }
        pin(frontend)?;
        rest(time);
        Ok(Turn {
            frames,
            time: elapsed,
        })
    }

    /// Checks that the payload arrived in all chains.
    pub(crate) fn verify(&self) -> anyhow::Result<()> {
        let expected = pattern(self.spec.payload);
        let pieces: Vec<_> = expected.chunks(self.spec.piece()).collect();
        if let [_, _] = self.receiver.chains[0][..] {
            for chain in &self.receiver.chains {
                let mut bytes = vec![0; chain[1].length];
                self.receiver
                    .memory
                    .read_slice(&mut bytes, chain[1].address)?;
                let arrived = pieces.iter().any(|piece| bytes.starts_with(piece));
                ensure!(arrived, "a page does not hold what was sent");
            }
        }
        Ok(())
    }

    /// The receiver's counters, after checking that every frame arrived and that as many were
    /// hashed as should be.
    pub(crate) fn counters(&mut self) -> anyhow::Result<serde_json::Value> {
        let stats: Stats = self.control()?.query(command::QUERY_STATS)?;
        let [sent, received] = &stats.ports[..] else {
            anyhow::bail!("not two ports");
        };
        let sum = |of: fn(&zcnic_ctl::protocol::QueueStats) -> u64| -> u64 {
            received.queues.iter().map(of).sum()
        };
        let frames = sum(|queue| queue.rx_frames);
        let transmitted: u64 = sent.queues.iter().map(|queue| queue.tx_frames).sum();
        let wrong = sum(|queue| {
            queue.rx_no_buffer + queue.rx_bad_chain + queue.rx_csum_bad + queue.rx_too_long
        });
        let hashed = sum(|queue| queue.rx_hashed);
        ensure!(
            wrong == 0 && frames == transmitted,
            "frames were lost or damaged: {stats:?}"
        );
        ensure!(
            hashed == if self.spec.rss { frames } else { 0 },
            "{hashed} frames were hashed"
        );
        let coalesced = sum(|queue| queue.rx_gro_wire_frames);
        ensure!(
            coalesced == if self.spec.gro { frames } else { 0 },
            "{coalesced} of {frames} frames were coalesced"
        );
        let captured = self.capture.as_ref().map(Capture::lines);
        ensure!(captured != Some(0), "no frame was captured");
        Ok(serde_json::json!({
            "frames": frames, "hashed": hashed, "split": sum(|queue| queue.rx_split),
            "joined": coalesced, "captured": captured,
        }))
    }

    /// The receiver's driver, for commands.
    pub(crate) fn driver(&mut self) -> &mut Driver<Frontend> {
        &mut self.receiver.driver
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(backend) = self.backend.take() {
            backend.stop();
        }
    }
}

impl Side {
    fn new(
        port: &PortConfig,
        queues: u16,
        lay_out: impl FnOnce(&mut Guest) -> Vec<Vec<Part>>,
    ) -> Self {
        let mut guest = Guest::of_size(MEMORY);
        let chains = lay_out(&mut guest);
        let tables = allocate(&mut guest, chains.len(), 32);
        let pairs = Pair::allocate(&mut guest, queues + 1, RING);
        let memory = leak(guest.memory());
        let frontend = Frontend::start(&port.path, guest.memory(), addresses(&pairs));
        let mut driver = Driver::new(guest, pairs, frontend);
        driver.hello();
        Self {
            driver,
            memory,
            rings: Vec::new(),
            tables,
            chains,
        }
    }

    /// The sending port. Its frames are shared out among its queues.
    fn sender(port: &PortConfig, spec: &Spec) -> Self {
        let chains = usize::from(spec.flows.max(spec.pool / spec.pieces() as u16))
            .next_multiple_of(spec.queues.into());
        let mut bytes = Vec::new();
        let mut side = Self::new(port, spec.queues, |guest| {
            let frames: Vec<_> = (0..chains)
                .map(|chain| spec.frame(chain as u16 % spec.flows))
                .collect();
            let length = frames[0].frame.len();
            let head = if spec.payload >= SEPARATE {
                length - spec.payload
            } else {
                length
            };
            let heads = allocate(guest, chains, size_of::<abi::TxHeader>() + head);
            let bodies = allocate(guest, chains, (length - head).next_multiple_of(PAGE));
            frames
                .into_iter()
                .zip(heads.into_iter().zip(bodies))
                .map(|(packet, (mut first, mut second))| {
                    let head_bytes = [packet.header.as_bytes(), &packet.frame[..head]].concat();
                    first.length = head_bytes.len();
                    bytes.push((first.address, head_bytes));
                    second.length = length - head;
                    if second.length == 0 {
                        return vec![first];
                    }
                    bytes.push((second.address, packet.frame[head..].to_vec()));
                    vec![first, second]
                })
                .collect()
        });
        for (address, bytes) in bytes {
            side.memory
                .write_slice(&bytes, address)
                .expect("buffers lie in memory");
        }
        for queue in 0..spec.queues {
            side.driver.start_transmit(queue).expect("transmit queue");
        }
        side.make_rings(spec.queues, false);
        side
    }

    /// The receiving port.
    fn receiver(port: &PortConfig, spec: &Spec) -> Self {
        let chains = usize::from(spec.pool) * usize::from(spec.queues);
        let mut side = Self::new(port, spec.queues, |guest| match spec.shape {
            Shape::Split {
                header_size,
                page_size,
                ..
            } => {
                let heads = allocate(guest, chains, header_size as usize);
                let pages = allocate(guest, chains, page_size as usize);
                heads
                    .into_iter()
                    .zip(pages)
                    .map(|(head, page)| vec![head, page])
                    .collect()
            }
            Shape::Linear { size } => {
                let buffers = allocate(guest, chains, size as usize);
                buffers.into_iter().map(|buffer| vec![buffer]).collect()
            }
            Shape::VirtioNet { .. } | Shape::Event => unreachable!("the port is zcnic's"),
        });
        let driver = &mut side.driver;
        let mut offloads = vec![Feature::RxCsum, Feature::RxHash];
        offloads.extend(spec.gro.then_some(Feature::Gro));
        driver.offloads(&offloads).expect("offloads");
        driver
            .receive_mode(abi::RX_MODE_PROMISC, &[])
            .expect("receive mode");
        if spec.rss {
            let set = abi::RssSet {
                key: DEFAULT_KEY,
                fields: DEFAULT_FIELDS.map(Into::into),
                ..Default::default()
            };
            let entries = (4 * spec.queues).next_power_of_two().max(8);
            let table: Vec<_> = (0..entries).map(|entry| entry % spec.queues).collect();
            driver.set_rss(set, &table).expect("RSS");
        }
        let rules: Vec<_> = (0..spec.rules)
            .map(|number| rule(number, spec.queues))
            .collect();
        for rules in rules.chunks(256) {
            driver.set_rules(rules).expect("rules");
        }
        side.make_rings(spec.queues, true);
        for queue in 0..spec.queues {
            side.driver
                .start_receive(queue, spec.shape)
                .expect("receive queue");
        }
        for (queue, ring) in side.rings.iter_mut().enumerate() {
            if ring.post(ring.room()) {
                side.driver.transport().kick(2 * queue);
            }
        }
        side
    }

    /// Shares the chains out among the rings.
    fn make_rings(&mut self, queues: u16, receive: bool) {
        let queues = usize::from(queues);
        for queue in 0..queues {
            let at = self
                .driver
                .transport()
                .ring(2 * queue + usize::from(!receive));
            let chains = self.tables.iter().map(|table| table.address);
            let chains = chains.zip(self.chains.iter().cloned());
            let chains: Vec<_> = chains.skip(queue).step_by(queues).collect();
            self.rings
                .push(CyclicRing::new(self.memory, at, &chains, receive));
        }
    }

    fn returned(&self) -> u64 {
        self.rings.iter().map(|ring| ring.returned).sum()
    }

    fn outstanding(&self) -> u64 {
        self.rings.iter().map(CyclicRing::outstanding).sum()
    }

    /// Takes returned chains.
    fn reap(&mut self) {
        self.rings.iter_mut().for_each(CyclicRing::reap);
    }

    /// Makes chains available until `window` are in flight, shared out among the rings; all chains,
    /// on the receiving port.
    fn post(&mut self, window: Option<u64>) {
        let share = window.map_or(u64::MAX, |window| window / self.rings.len() as u64);
        for (queue, ring) in self.rings.iter_mut().enumerate() {
            let missing = share.min(ring.room()).saturating_sub(ring.outstanding());
            if ring.post(missing) {
                let ring = 2 * queue + usize::from(window.is_some());
                self.driver.transport().kick(ring);
            }
        }
    }
}

/// `count` buffers of `length` bytes, one after the other, the first at the start of a page.
fn allocate(guest: &mut Guest, count: usize, length: usize) -> Vec<Part> {
    let length = length.next_multiple_of(64);
    let start = guest
        .allocate_ring(count * length + PAGE)
        .0
        .next_multiple_of(PAGE as u64);
    (0..count as u64)
        .map(|number| Part {
            address: GuestAddress(start + number * length as u64),
            length,
        })
        .collect()
}

/// Steers flow `number`.
pub(crate) fn rule(number: u16, queues: u16) -> abi::Rule {
    let [high, low] = number.to_be_bytes();
    let mut rule = abi::Rule {
        location: u32::from(number).into(),
        rule_type: RuleType::Tcp4.into(),
        action: RuleAction::Queue.into(),
        queue: (number % queues).into(),
        ..abi::Rule::default()
    };
    for (flow, ports, bytes) in [
        (&mut rule.mask, [0xffff, 0xffff], [[0xff; 4]; 2]),
        (
            &mut rule.value,
            [1000, 80],
            [[10, 0, high, low], [10, 1, 0, 1]],
        ),
    ] {
        flow.ip_src[..4].copy_from_slice(&bytes[0]);
        flow.ip_dst[..4].copy_from_slice(&bytes[1]);
        (flow.l4_src, flow.l4_dst) = (ports[0].into(), ports[1].into());
    }
    rule
}

/// A thread of real-time priority may have 95 % of a processor (`sched_rt_runtime_us`), and is
/// throttled if it wants more: in the middle of a measurement, unless it rests between two.
fn rest(turn: Duration) {
    thread::sleep(turn / 10);
}
