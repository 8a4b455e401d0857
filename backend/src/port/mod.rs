//! A port: its rings, who drives it, and what its data path goes by.
//!
//! Locks, in the order in which they may be taken: the port's control lock, a transmit ring, a receive ring
//! (of the peer), anything else. Whoever holds a transmit ring takes receive rings one at a time and never
//! the control lock; whoever holds the control lock takes rings one at a time.
//!
//! What the frontend stops or takes away is gone when the call returns, because each of these calls went
//! through the locks under which it is used.

pub(crate) mod faults;
pub(crate) mod flow_counters;
pub(crate) mod generator;
pub(crate) mod queues;

use std::{
    fmt::Arguments,
    io,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use log::Level;
use virtio_bindings::{
    virtio_config::VIRTIO_F_VERSION_1,
    virtio_net::{VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_MRG_RXBUF},
};
use zcnic_device::{
    features::{Feature, FeatureSet},
    port::{Configuration, Mode, Port as Device, PortCounters},
    receive::{Layout, MAX_CHAINS},
    transmit::TransmitFormat,
};

pub(crate) use self::queues::{Backpressure, RxQueue, ServeOutcome, TxQueue};
use self::{faults::Faults, flow_counters::FlowCounters, generator::Generator};
use crate::{
    config::{FlowControl, MAX_PAIRS, PortMode},
    control::command::PortRings,
    limit::LogLimit,
    ring::{RingError, transport::Transport},
    sync::lock,
    timer::Hub,
    waker::{GENERATOR, Waker},
};

/// Rings of a port: receive ring, transmit ring, receive ring …
pub(crate) const MAX_RINGS: usize = 2 * MAX_PAIRS;

/// What the data path goes by; replaced as a whole.
#[derive(Debug)]
pub(crate) struct ActiveConfig {
    pub(crate) configuration: Configuration,
    /// The pair that carries commands, on a zcnic port.
    pub(crate) command_pair: Option<usize>,
    /// The command pair's ring is stopped: until it is known whether it goes on or starts anew, nothing
    /// moves.
    pub(crate) suspended: bool,
    /// Chains that one frame may take: 1 for a plain driver without mergeable buffers.
    pub(crate) max_chains: usize,
}

/// What changes one command or frontend message at a time.
#[derive(Debug)]
pub(crate) struct ControlState {
    pub(crate) device: Device,
    /// Virtio features that the driver acknowledged.
    pub(crate) features: u64,
    pub(crate) suspended: bool,
    /// Events that were not told yet.
    pub(crate) pending_events: u32,
}

/// Counters of a port that belong to no queue.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) filtered: AtomicU64,
    pub(crate) rule_drop: AtomicU64,
    /// Frames sent while there was no link.
    pub(crate) no_carrier: AtomicU64,
    /// Frames given up after waiting for a paused receiver.
    pub(crate) pause_timeout: AtomicU64,
    pub(crate) connections: AtomicU64,
}

/// What a port is plugged into.
#[derive(Debug)]
enum Plug {
    /// Another port, or the port itself.
    Port {
        peer: Weak<Port>,
        flow_control: FlowControl,
    },
    /// Nothing that receives.
    Null,
    /// Something that makes frames for the port; what it sends goes nowhere.
    Generator(Weak<Port>),
}

/// Where frames go.
pub(crate) enum End {
    /// To a port.
    Port(Arc<Port>, FlowControl),
    /// Nowhere: they count as sent.
    Null,
}

/// One port of the backend.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) mode: PortMode,
    pub(crate) receive: Vec<Mutex<RxQueue>>,
    pub(crate) transmit: Vec<Mutex<TxQueue>>,
    control: Mutex<ControlState>,
    active: Mutex<Arc<ActiveConfig>>,
    plug: OnceLock<Plug>,
    pub(crate) generator: Mutex<Option<Generator>>,
    pub(crate) connected: AtomicBool,
    pub(crate) workers: Vec<Waker>,
    pub(crate) counters: Counters,
    pub(crate) flows: FlowCounters,
    pub(crate) faults: Faults,
    /// Somebody who steers the backend allows a carrier.
    pub(crate) carrier: AtomicBool,
    pub(crate) hub: Arc<Hub>,
    /// Which port of the backend it is.
    pub(crate) index: usize,
    warnings: LogLimit,
    news: LogLimit,
}

impl Port {
    /// Port number `index` of those that share `hub`; its queue pairs are shared out among `workers` threads.
    pub(crate) fn new(
        name: String,
        mode: PortMode,
        workers: usize,
        (index, hub): (usize, &Arc<Hub>),
    ) -> io::Result<Self> {
        let control = ControlState {
            device: Device::new(),
            features: 0,
            suspended: false,
            pending_events: 0,
        };
        let active = Mutex::new(Arc::new(control.active()));
        let queues = || 0..MAX_PAIRS as u16;
        Ok(Self {
            name,
            mode,
            receive: queues()
                .map(|queue| Mutex::new(RxQueue::new(queue)))
                .collect(),
            transmit: queues()
                .map(|queue| Mutex::new(TxQueue::new(queue)))
                .collect(),
            control: Mutex::new(control),
            active,
            plug: OnceLock::new(),
            generator: Mutex::default(),
            connected: AtomicBool::new(false),
            workers: (0..workers)
                .map(|_| Waker::new())
                .collect::<Result<_, _>>()?,
            counters: Counters::default(),
            flows: FlowCounters::default(),
            faults: Faults::default(),
            carrier: AtomicBool::new(true),
            hub: Arc::clone(hub),
            index,
            warnings: LogLimit::new(),
            news: LogLimit::new(),
        })
    }

    /// Plugs in a cable to `peer`, which may be the port itself; a port has at most one plug.
    pub(crate) fn plug(&self, peer: &Arc<Self>, flow_control: FlowControl) {
        self.plug_into(Plug::Port {
            peer: Arc::downgrade(peer),
            flow_control,
        });
    }

    /// Has everything that is sent go nowhere.
    pub(crate) fn plug_null(&self) {
        self.plug_into(Plug::Null);
    }

    /// Has `generator` make the frames that are received.
    pub(crate) fn plug_generator(self: &Arc<Self>, generator: Generator) {
        *lock(&self.generator) = Some(generator);
        self.plug_into(Plug::Generator(Arc::downgrade(self)));
        self.worker(GENERATOR).kick(GENERATOR);
    }

    fn plug_into(&self, plug: Plug) {
        let fresh = self.plug.set(plug).is_ok();
        debug_assert!(fresh, "the configuration was checked");
    }

    /// The port whose frames this one receives, and how a receiver without buffers is treated.
    pub(crate) fn peer(&self) -> Option<(Arc<Self>, FlowControl)> {
        match self.plug.get()? {
            Plug::Port { peer, flow_control } => Some((peer.upgrade()?, *flow_control)),
            Plug::Generator(port) => Some((port.upgrade()?, FlowControl::Pause)),
            Plug::Null => None,
        }
    }

    /// Where frames go; `None`: there is no carrier.
    pub(crate) fn end(&self) -> Option<End> {
        let allowed = |port: &Self| port.carrier.load(Ordering::Acquire);
        match self.plug.get()? {
            _ if !allowed(self) => None,
            Plug::Port { .. } => {
                let (peer, flow_control) = self.peer()?;
                let carrier = allowed(&peer) && peer.is_connected();
                carrier.then_some(End::Port(peer, flow_control))
            }
            Plug::Null | Plug::Generator(_) => Some(End::Null),
        }
    }

    /// Who serves `ring`.
    pub(crate) fn worker(&self, ring: usize) -> &Waker {
        &self.workers[ring / 2 % self.workers.len()]
    }

    /// Has transmit rings that are blocked by a full receiver tried again.
    pub(crate) fn retry(&self) {
        self.workers.iter().for_each(Waker::retry);
    }

    /// Whether a frontend is connected.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    /// Whether there is a carrier: the other end of the cable has a frontend.
    pub(crate) fn link_up(&self) -> bool {
        self.end().is_some()
    }

    /// What the data path goes by now. Asked for under the lock of the ring that it is used on, it stays
    /// true until that is unlocked.
    pub(crate) fn active(&self) -> Arc<ActiveConfig> {
        Arc::clone(&lock(&self.active))
    }

    /// The time of frames that arrive now, if the driver wants to know; the clock is not looked at otherwise.
    pub(crate) fn arrival(&self, active: &ActiveConfig) -> u64 {
        if active.configuration.offloads.has(Feature::Timestamp) {
            self.hub.clock()
        } else {
            0
        }
    }

    /// Logs that somebody outside did what it should not, within limits.
    pub(crate) fn warn(&self, what: Arguments<'_>) {
        self.log(&self.warnings, Level::Warn, what);
    }

    /// Logs what somebody outside does, within limits.
    pub(crate) fn info(&self, what: Arguments<'_>) {
        self.log(&self.news, Level::Info, what);
    }

    fn log(&self, limit: &LogLimit, level: Level, what: Arguments<'_>) {
        match limit.allow() {
            Some(0) => log::log!(level, "Port {}: {what}", self.name),
            Some(more) => log::log!(level, "Port {}: {what} ({more} more not logged)", self.name),
            None => {}
        }
    }

    /// Takes the control lock.
    pub(crate) fn control(&self) -> MutexGuard<'_, ControlState> {
        lock(&self.control)
    }

    /// Replaces what the data path goes by; when this returns nobody uses what was before.
    pub(crate) fn publish(&self, active: ActiveConfig) {
        *lock(&self.active) = Arc::new(active);
        let peer = self.peer().map(|(peer, _)| peer);
        for port in std::iter::once(self).chain(peer.as_deref()) {
            for side in &port.transmit {
                drop(lock(side));
            }
            drop(lock(&port.generator));
        }
    }

    pub(crate) fn transport<R>(&self, ring: usize, action: impl FnOnce(&mut Transport) -> R) -> R {
        if ring.is_multiple_of(2) {
            action(&mut lock(&self.receive[ring / 2]).transport)
        } else {
            action(&mut lock(&self.transmit[ring / 2]).transport)
        }
    }

    /// Says that a ring can't be used until it is set up anew; once each time.
    pub(crate) fn broken(&self, ring: usize, transport: &mut Transport, error: RingError) {
        if transport.mark_broken() {
            self.warn(format_args!("ring {ring} is out of use: {error}"));
        }
    }

    /// Has every transmit ring looked at.
    pub(crate) fn kick_all(&self) {
        for pair in 0..MAX_PAIRS {
            self.worker(2 * pair + 1).kick(2 * pair + 1);
        }
    }

    /// Nobody drives the port any more.
    pub(crate) fn end_session(&self, control: &mut ControlState, why: &str) {
        for ring in 0..MAX_RINGS {
            self.transport(ring, Transport::forget);
        }
        for side in &self.receive {
            let mut side = lock(side);
            side.queue.stop();
            side.stalled = false;
            side.lane.forget();
            side.ledger_state.lost();
        }
        for side in &self.transmit {
            let mut side = lock(side);
            side.running = false;
            side.backpressure = None;
            side.lane.forget();
            side.commands.forget();
            side.decision = None;
        }
        control.suspended = false;
        control.pending_events = 0;
        if control.device.mode() != Mode::Undecided {
            self.info(format_args!("session ended, {why}"));
            let mut rings = PortRings::new(self, control.publish_context());
            control.device.reset(&mut rings);
        }
    }

    /// An ordinary virtio-net driver drives the port.
    pub(crate) fn run_plain(&self, control: &mut ControlState) {
        if control.device.mode() != Mode::Plain {
            self.info(format_args!("driven as a plain virtio-net device"));
        }
        let usable = |transport: &Transport| transport.is_ready() && transport.is_enabled();
        let pairs = self
            .receive
            .iter()
            .take_while(|side| usable(&lock(side).transport))
            .count();
        for side in &self.receive {
            let queue = &mut lock(side).queue;
            if queue.layout() != Some(Layout::VirtioNet) {
                queue.start(Layout::VirtioNet, MAX_CHAINS);
            }
        }
        for side in &self.transmit {
            lock(side).running = true;
        }
        let mut rings = PortRings::new(self, control.publish_context());
        control.device.run_plain(pairs as u16, &mut rings);
    }

    /// Counters of frames that reached no queue.
    pub(crate) fn port_counters(&self) -> PortCounters {
        PortCounters {
            filtered: self.counters.filtered.load(Ordering::Relaxed),
            rule_drop: self.counters.rule_drop.load(Ordering::Relaxed),
        }
    }
}

/// The parts of [`Control`] that a configuration is published with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PublishContext {
    features: u64,
    suspended: bool,
    pub(crate) command_pair: Option<usize>,
}

impl PublishContext {
    /// What the data path is to go by, given the device's configuration.
    pub(crate) fn active(self, mut configuration: Configuration) -> ActiveConfig {
        let acknowledged = |bit: u32| self.features & (1 << bit) != 0;
        let plain = configuration.transmit_format == Some(TransmitFormat::VirtioNet);
        if plain && !acknowledged(VIRTIO_NET_F_GUEST_CSUM) {
            // DATA_VALID is for drivers that acknowledged GUEST_CSUM (virtio 1.3, 5.1.6.4.1).
            let others = !(1 << Feature::RxCsum as u32);
            let others = FeatureSet::from_words([others.into(), u64::MAX.into()]);
            configuration.offloads = configuration.offloads.and(others);
        }
        let single = plain && !acknowledged(VIRTIO_NET_F_MRG_RXBUF);
        ActiveConfig {
            configuration,
            command_pair: self.command_pair,
            suspended: self.suspended,
            max_chains: if single { 1 } else { usize::MAX },
        }
    }
}

impl ControlState {
    pub(crate) fn publish_context(&self) -> PublishContext {
        let command_pair = match self.device.mode() {
            Mode::Zcnic(session) => Some(usize::from(session.command_pair)),
            Mode::Undecided | Mode::Plain => None,
        };
        PublishContext {
            features: self.features,
            suspended: self.suspended,
            command_pair,
        }
    }

    pub(crate) fn active(&self) -> ActiveConfig {
        self.publish_context().active(self.device.configuration())
    }

    /// Virtio features that the driver acknowledged.
    pub(crate) fn features(&self) -> u64 {
        self.features
    }

    /// Whether frames have the header that plain mode knows: a legacy driver's is two bytes shorter
    /// (virtio 1.3, 5.1.6.1).
    pub(crate) fn is_modern(&self) -> bool {
        self.features & (1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_NET_F_MRG_RXBUF) != 0
    }

    pub(crate) fn is_command_ring(&self, ring: usize) -> bool {
        self.publish_context()
            .command_pair
            .is_some_and(|pair| ring == 2 * pair + 1)
    }
}
