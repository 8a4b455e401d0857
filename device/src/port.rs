//! The control plane of one port: who drives it, its session, and its configuration.
//!
//! A [`Port`] holds no ring and no memory. What a command needs of those it asks of [`Rings`]; what the data
//! path needs of the configuration it gets as an immutable [`Configuration`] that replaces the previous one
//! between two frames.

use std::sync::Arc;

use crate::{
    features::FeatureSet,
    receive::{Layout, ReceiveCounters},
    steering::Steering,
    transmit::{TransmitCounters, TransmitFormat},
};

/// Who drives the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverMode {
    /// Nobody spoke yet: buffers may have been posted, but it is unknown in which format.
    Undecided,
    /// An ordinary virtio-net driver.
    Plain,
    /// The zcnic driver, since its HELLO.
    Zcnic(Session),
}

/// What HELLO agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Random and never 0.
    pub id: u64,
    /// Number of the pair that carries commands; the data pairs are those below.
    pub command_pair: u16,
    /// Features that both sides know.
    pub features: FeatureSet,
}

/// How long the interrupts of rings in one direction are put off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModerationLimits {
    /// For so long at most; 0: not at all.
    pub nanoseconds: u64,
    /// Until the driver has so many chains to look at; 0: however many.
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

/// How long interrupts are put off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterruptModeration {
    /// Those of receive rings.
    pub receive: ModerationLimits,
    /// Those of transmit rings.
    pub transmit: ModerationLimits,
}

/// What the data path reads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// Where frames go.
    pub steering: Arc<Steering>,
    /// Receive offloads that are on.
    pub offloads: FeatureSet,
    /// The header of transmit chains; `None` while nobody drives the port.
    pub transmit_format: Option<TransmitFormat>,
    /// Transmit features in force.
    pub features: FeatureSet,
    /// How long interrupts are put off.
    pub moderation: InterruptModeration,
}

/// What commands need of the rings and of the world.
///
/// Queue numbers are those of data pairs and have been checked against the session's.
pub trait Rings {
    /// A new random number for a session; never 0.
    fn session_id(&mut self) -> u64;

    /// HELLO: stops every queue and returns every available chain of every ring with length 0, but those of
    /// the transmit ring of `command_pair`.
    fn reset(&mut self, command_pair: u16);

    /// The data path uses this configuration from now on: when this returns, no frame is on its way that
    /// saw the previous one.
    fn configure(&mut self, configuration: Configuration);

    /// Begins to fill the chains of a stopped queue, `max_chains` of them with one frame at most.
    fn start_receive(&mut self, queue: u16, layout: Layout, max_chains: usize);

    /// Stops a queue, returns its posted chains with length 0 and says how many there were.
    fn stop_receive(&mut self, queue: u16) -> u32;

    /// Begins to send the chains of a stopped queue.
    fn start_transmit(&mut self, queue: u16);

    /// Stops a queue, returns its chains unsent and says how many there were.
    fn stop_transmit(&mut self, queue: u16) -> u32;

    /// Counters of a queue pair.
    fn counters(&self, queue: u16) -> (ReceiveCounters, TransmitCounters);

    /// Counters of the port.
    fn port_counters(&self) -> PortCounters;

    /// Whether there is a carrier.
    fn link_up(&self) -> bool;

    /// What the port's clock shows, in nanoseconds: timestamps are of the same clock.
    fn clock(&self) -> u64;
}

/// Frames that never reached a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Not for this port's addresses.
    pub filtered: u64,
    /// Dropped because a rule said so.
    pub rule_drop: u64,
}

/// The control plane of one port.
#[derive(Debug)]
pub struct Port {
    pub(crate) mode: DriverMode,
    pub(crate) steering: Arc<Steering>,
    /// What the next HELLO can agree on.
    pub(crate) offered: FeatureSet,
    pub(crate) offloads: FeatureSet,
    pub(crate) moderation: InterruptModeration,
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
    /// A port that nobody drives yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            mode: DriverMode::Undecided,
            steering: Arc::new(Steering::new(0)),
            offered: FeatureSet::ALL,
            offloads: FeatureSet::default(),
            moderation: InterruptModeration::default(),
            rx_running: QueueSet::default(),
            tx_running: QueueSet::default(),
            event_sequence: 0,
            commands: 0,
            commands_refused: 0,
        }
    }

    /// Who drives the port.
    #[must_use]
    pub fn mode(&self) -> DriverMode {
        self.mode
    }

    /// What the device offers: the next HELLO agrees on no other features.
    #[must_use]
    pub fn offered(&self) -> FeatureSet {
        self.offered
    }

    /// Offers these features from the next HELLO on. That is no driver's business: a reset does not change it.
    pub fn offer(&mut self, features: FeatureSet) {
        self.offered = features;
    }

    /// The first ordinary transmit was seen, or the port was told to be plain: `pairs` queue pairs are
    /// enabled and frames are spread over them. Also when their number changes.
    pub fn run_plain(&mut self, pairs: u16, rings: &mut impl Rings) {
        self.mode = DriverMode::Plain;
        self.steering = Arc::new(Steering::plain(pairs));
        rings.configure(self.configuration());
    }

    /// The device was reset or its frontend went away: the session ends and everything is forgotten.
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

    /// What the data path is to use now.
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
        }
    }

    /// The event that tells the driver to ask STATUS about `pending`, if it is a zcnic driver.
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
