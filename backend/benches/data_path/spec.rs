//! The specification of a world.

use zcnic_ctl::protocol::ledger::LedgerMode;
use zcnic_model::{
    Packet, Shape,
    frames::{Flow, pattern},
};

use crate::world::RING;

/// The frames that are sent, and how they are received.
#[derive(Clone, Copy)]
pub(crate) struct Spec {
    /// The layout of the receiver's chains.
    pub(crate) shape: Shape,
    /// Bytes behind the L4 header.
    pub(crate) payload: usize,
    /// Trains of segments with that much payload.
    pub(crate) segment: Option<u16>,
    /// The receiver has hardware GRO and gets each train as one frame.
    pub(crate) gro: bool,
    /// The device completes the checksum.
    pub(crate) checksum: bool,
    /// TCP; otherwise a protocol that the device does not know.
    pub(crate) tcp: bool,
    /// Distinct source addresses, which alternate.
    pub(crate) flows: u16,
    pub(crate) queues: u16,
    /// A hash is computed and spreads flows over the queues.
    pub(crate) rss: bool,
    /// Exact rules, of which number n is about flow n.
    pub(crate) rules: u16,
    pub(crate) ledger: LedgerMode,
    /// A fault rule is armed that matches no frame.
    pub(crate) fault: bool,
    /// A client captures what the receiver gets.
    pub(crate) capture: bool,
    /// Receive chains of a queue, and frames to send, that are used cyclically in the rings.
    pub(crate) pool: u16,
}

impl Spec {
    /// Frames of 60 bytes on one queue, with everything on that a NIC does to each frame.
    pub(crate) const SMALL: Self = Self {
        shape: Shape::Linear { size: 2048 },
        payload: 6,
        segment: None,
        gro: false,
        checksum: false,
        tcp: true,
        flows: 1,
        queues: 1,
        rss: true,
        rules: 0,
        ledger: LedgerMode::Off,
        fault: false,
        capture: false,
        pool: RING,
    };

    /// The most payload that a receive chain gets.
    pub(crate) fn piece(&self) -> usize {
        match (self.shape, self.segment) {
            (Shape::Split { page_size, .. }, Some(_)) if self.gro => page_size as usize,
            (_, Some(size)) => size.into(),
            (_, None) => self.payload,
        }
    }

    /// Receive chains that a transmit chain fills.
    pub(crate) fn pieces(&self) -> u64 {
        self.payload.div_ceil(self.piece()) as u64
    }

    /// Payload of a receive chain, on average.
    pub(crate) fn bytes(&self) -> f64 {
        self.payload as f64 / self.pieces() as f64
    }

    pub(crate) fn frame(&self, flow: u16) -> Packet {
        let [high, low] = flow.to_be_bytes();
        let tcp = Flow::tcp4().between4([10, 0, high, low], [10, 1, 0, 1]);
        let mut frame = tcp.ports(1000, 80).frame(&pattern(self.payload));
        if self.segment.is_some() {
            // PSH, with which Linux ends each train: GRO does not wait for what follows.
            frame[14 + 20 + 13] |= 8;
        }
        if !self.tcp {
            // A protocol number for experiments (RFC 3692); the device ignores its header's
            // checksum.
            frame[23] = 253;
        }
        let packet = Packet::from(frame);
        match self.segment {
            Some(size) => packet.segmented(size),
            None if self.checksum => packet.checksum(),
            None => packet,
        }
    }
}
