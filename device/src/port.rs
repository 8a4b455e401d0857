//! The control plane of one port: its driver's mode, its session, and its configuration.
//!
//! A [`Port`] has no ring and no memory. Commands act on those through [`Rings`]. The data path
//! gets its configuration as an immutable [`Configuration`], which is replaced as a whole between
//! two frames.

use std::sync::Arc;

use crate::{
    clock::PortClock,
    features::FeatureSet,
    receive::{Layout, ReceiveCounters},
    steering::Steering,
    transmit::{TransmitCounters, TransmitFormat},
};

/// The mode of the port's driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverMode {
    /// Not known yet: buffers may have been posted, in an unknown format.
    Undecided,
    /// An ordinary virtio-net driver.
    Plain,
    /// The zcnic driver, since its HELLO.
    Zcnic(Session),
}

/// The session that HELLO negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Random and never 0.
    pub id: u64,
    /// Number of the pair that carries commands; the data pairs are those below.
    pub command_pair: u16,
    /// The features of both driver and device.
    pub features: FeatureSet,
}

/// Interrupt moderation of the rings in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModerationLimits {
    /// The longest delay, in nanoseconds; 0: interrupts are not delayed.
    pub nanoseconds: u64,
    /// The number of used chains that raises the interrupt at once; 0: no limit.
    pub chains: u16,
}

impl ModerationLimits {
    pub(crate) fn new(microseconds: u16, chains: u16) -> Self {
        let nanoseconds = u64::from(microseconds) * 1000;
        Self {
            nanoseconds,
            chains,
        }
    }
}

/// Interrupt moderation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterruptModeration {
    /// Limits of receive rings.
    pub receive: ModerationLimits,
    /// Limits of transmit rings.
    pub transmit: ModerationLimits,
}

/// The configuration that the data path reads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The steering configuration.
    pub steering: Arc<Steering>,
    /// Receive offloads that are on.
    pub offloads: FeatureSet,
    /// The header of transmit chains; `None` while the driver's mode is undecided.
    pub transmit_format: Option<TransmitFormat>,
    /// Transmit features in force.
    pub features: FeatureSet,
    /// Interrupt moderation.
    pub moderation: InterruptModeration,
    /// The clock of timestamps.
    pub clock: PortClock,
}

/// Operations of commands on the rings and on the port's environment.
///
/// Queue numbers are numbers of data pairs, already checked against the session.
pub trait Rings {
    /// A new random number for a session; never 0.
    fn session_id(&mut self) -> u64;

    /// HELLO: stops every queue and returns every available chain of every ring with length 0,
    /// except the transmit ring of `command_pair`.
    fn reset(&mut self, command_pair: u16);

    /// Puts a configuration into force. When this returns, no frame in flight uses the previous
    /// one.
    fn configure(&mut self, configuration: Configuration);

    /// Starts a stopped receive queue. One frame may take `max_chains` chains at most.
    fn start_receive(&mut self, queue: u16, layout: Layout, max_chains: usize);

    /// Stops a receive queue, returns its posted chains with length 0, and returns their number.
    fn stop_receive(&mut self, queue: u16) -> u32;

    /// Starts a stopped transmit queue.
    fn start_transmit(&mut self, queue: u16);

    /// Stops a transmit queue, returns its chains unsent, and returns their number.
    fn stop_transmit(&mut self, queue: u16) -> u32;

    /// Counters of a queue pair.
    fn counters(&self, queue: u16) -> (ReceiveCounters, TransmitCounters);

    /// Counters of the port.
    fn port_counters(&self) -> PortCounters;

    /// Whether there is a carrier.
    fn link_up(&self) -> bool;

    /// The device's clock, which [`PortClock`] is derived from, in nanoseconds.
    fn clock(&self) -> u64;
}

/// Frames dropped before they reached a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Dropped by the address filter.
    pub filtered: u64,
    /// Dropped by a flow rule.
    pub rule_drop: u64,
    /// Dropped because they are longer than the MTU.
    pub oversize: u64,
}

/// The control plane of one port.
#[derive(Debug)]
pub struct Port {
    pub(crate) mode: DriverMode,
    pub(crate) steering: Arc<Steering>,
    /// The features that the next HELLO can negotiate.
    pub(crate) offered: FeatureSet,
    pub(crate) offloads: FeatureSet,
    pub(crate) moderation: InterruptModeration,
    pub(crate) clock: PortClock,
    pub(crate) rx_running: QueueSet,
    pub(crate) tx_running: QueueSet,
    pub(crate) event_sequence: u32,
    pub(crate) commands: u64,
    pub(crate) commands_refused: u64,
}

impl Default for Port {
    fn default() -> Self {
        Self::new()
    }
}

impl Port {
    /// A port whose driver's mode is undecided.
    #[must_use]
    pub fn new() -> Self {
        Self {
            mode: DriverMode::Undecided,
            steering: Arc::new(Steering::new(0)),
            offered: FeatureSet::ALL,
            offloads: FeatureSet::default(),
            moderation: InterruptModeration::default(),
            clock: PortClock::default(),
            rx_running: QueueSet::default(),
            tx_running: QueueSet::default(),
            event_sequence: 0,
            commands: 0,
            commands_refused: 0,
        }
    }

    /// The mode of the port's driver.
    #[must_use]
    pub fn mode(&self) -> DriverMode {
        self.mode
    }

    /// The features that the next HELLO can negotiate.
    #[must_use]
    pub fn offered(&self) -> FeatureSet {
        self.offered
    }

    /// Offers these features from the next HELLO on. The offer survives a reset: it is set by the
    /// operator, not by the driver.
    pub fn offer(&mut self, features: FeatureSet) {
        self.offered = features;
    }

    /// Makes the port plain, with `pairs` queue pairs enabled, over which frames are spread: at the
    /// first plain transmit, or by configuration. Also called when the number of pairs changes.
    pub fn run_plain(&mut self, pairs: u16, rings: &mut impl Rings) {
        self.mode = DriverMode::Plain;
        self.steering = Arc::new(Steering::plain(pairs));
        rings.configure(self.configuration());
    }

    /// Resets the port because the device was reset or its frontend disconnected: the session ends,
    /// and the configuration is the default.
    pub fn reset(&mut self, rings: &mut impl Rings) {
        let (event_sequence, commands, refused) =
            (self.event_sequence, self.commands, self.commands_refused);
        *self = Self {
            offered: self.offered,
            event_sequence,
            commands,
            commands_refused: refused,
            ..Self::new()
        };
        rings.configure(self.configuration());
    }

    /// The configuration for the data path.
    #[must_use]
    pub fn configuration(&self) -> Configuration {
        let (offloads, features, transmit_format) = match self.mode {
            DriverMode::Undecided => (FeatureSet::default(), FeatureSet::default(), None),
            DriverMode::Plain => (
                FeatureSet::PLAIN,
                FeatureSet::PLAIN,
                Some(TransmitFormat::VirtioNet),
            ),
            DriverMode::Zcnic(session) => {
                (self.offloads, session.features, Some(TransmitFormat::Zcnic))
            }
        };
        Configuration {
            steering: Arc::clone(&self.steering),
            offloads,
            transmit_format,
            features,
            moderation: self.moderation,
            clock: self.clock,
        }
    }

    /// The event that makes a zcnic driver query STATUS about `pending`; `None` for other drivers.
    pub fn event(&mut self, pending: u32) -> Option<crate::abi::Event> {
        let DriverMode::Zcnic(session) = self.mode else {
            return None;
        };
        self.event_sequence = self.event_sequence.wrapping_add(1);
        Some(crate::abi::Event {
            magic: crate::abi::MAGIC.into(),
            sequence: self.event_sequence.into(),
            session: session.id.into(),
            pending: pending.into(),
            ..Default::default()
        })
    }
}

/// A set of up to 128 queues, as STATUS reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueSet(u128);

impl QueueSet {
    /// Whether `queue` is a member.
    #[must_use]
    pub fn contains(self, queue: u16) -> bool {
        queue < 128 && self.0 & (1 << queue) != 0
    }

    /// Adds `queue`, which must be below 128.
    pub fn insert(&mut self, queue: u16) {
        if queue < 128 {
            self.0 |= 1 << queue;
        }
    }

    /// Removes `queue`.
    pub fn remove(&mut self, queue: u16) {
        if queue < 128 {
            self.0 &= !(1 << queue);
        }
    }

    /// The members as two words, queue 0 in the lowest bit of the first.
    #[must_use]
    pub fn words(self) -> [u64; 2] {
        [self.0 as u64, (self.0 >> 64) as u64]
    }
}
