//! The state under a port's control lock, and the configuration that is published from it.

use virtio_bindings::{
    virtio_config::VIRTIO_F_VERSION_1,
    virtio_net::{VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_MRG_RXBUF},
};
use zcnic_device::{
    features::{Feature, FeatureSet},
    port::{Configuration, DriverMode, Port as Device},
    transmit::TransmitFormat,
};

use crate::index::{PairIndex, RingIndex};

/// The configuration that the data path uses; replaced as a whole.
#[derive(Debug)]
pub(crate) struct ActiveConfig {
    pub(crate) configuration: Configuration,
    /// The pair that carries commands, on a zcnic port.
    pub(crate) command_pair: Option<PairIndex>,
    /// The command pair's ring is stopped. Until the frontend resumes or resets it, no ring is
    /// served.
    pub(crate) suspended: bool,
    /// Chains that one frame may take: 1 for a plain driver without mergeable buffers.
    pub(crate) max_chains: usize,
}

impl ActiveConfig {
    /// The timestamp of what happened at `device_time` of the device's clock; 0 for 0.
    pub(crate) fn stamp(&self, device_time: u64) -> u64 {
        match device_time {
            0 => 0,
            time => self.configuration.clock.stamp(time),
        }
    }
}

/// The state that one command or frontend message at a time changes.
#[derive(Debug)]
pub(crate) struct ControlState {
    pub(crate) device: Device,
    /// Virtio features that the driver acknowledged.
    pub(crate) features: u64,
    pub(crate) suspended: bool,
    /// `EVENT_*` bits that wait for a buffer on the command pair's receive ring.
    pub(crate) pending_events: u32,
}

/// The parts of [`ControlState`] that a configuration is published with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PublishContext {
    features: u64,
    suspended: bool,
    pub(crate) command_pair: Option<PairIndex>,
}

impl PublishContext {
    /// The data path's configuration for `configuration` of the device.
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
    /// The state of a port that no driver has driven yet.
    pub(super) fn new() -> Self {
        Self {
            device: Device::new(),
            features: 0,
            suspended: false,
            pending_events: 0,
        }
    }

    /// The pair that carries commands, on a zcnic port.
    pub(crate) fn command_pair(&self) -> Option<PairIndex> {
        match self.device.mode() {
            DriverMode::Zcnic(session) => PairIndex::from_queue(session.command_pair),
            DriverMode::Undecided | DriverMode::Plain => None,
        }
    }

    pub(crate) fn publish_context(&self) -> PublishContext {
        PublishContext {
            features: self.features,
            suspended: self.suspended,
            command_pair: self.command_pair(),
        }
    }

    /// The data path's configuration now.
    pub(crate) fn active(&self) -> ActiveConfig {
        self.publish_context().active(self.device.configuration())
    }

    /// Whether frames have the header that plain mode knows: a legacy driver's is two bytes shorter
    /// (virtio 1.3, 5.1.6.1).
    pub(crate) fn is_modern(&self) -> bool {
        self.features & (1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_NET_F_MRG_RXBUF) != 0
    }

    /// Whether commands arrive on `ring`.
    pub(crate) fn is_command_ring(&self, ring: RingIndex) -> bool {
        self.command_pair()
            .is_some_and(|pair| ring == pair.tx_ring())
    }
}
