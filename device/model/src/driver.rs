//! The driver of one port: its rings and the frames in them.

mod commands;

use zcnic_device::{
    abi::{self, Opcode, Status},
    features::FeatureSet,
};
use zerocopy::IntoBytes;

use crate::{
    guest::Guest,
    receive::{ReceiveQueue, Received, Shape},
    transmit::{Packet, TransmitQueue},
};

/// The connection of a driver to its device. Ring 2n is the receive ring of pair n, 2n + 1 its
/// transmit ring.
pub trait Transport {
    /// Kicks the device: a ring may have new chains.
    fn kick(&mut self, ring: usize);

    /// Lets the device run until it may have returned chains on a ring. `false`: no further chain
    /// will be returned.
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
    /// The rings of a device with `count` pairs, the command pair included, of `size` descriptors
    /// each.
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

/// The reason why a command was not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The device refused it.
    Refused {
        /// The status.
        status: Status,
        /// The detail.
        detail: u32,
    },
    /// The chain was returned with a used length of 0.
    NotExecuted,
    /// The chain was not returned.
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

/// The role that the driver plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A driver that has sent nothing yet.
    Silent,
    /// An ordinary virtio-net driver.
    Plain,
    /// zcnic, in this session.
    Zcnic(u64),
}

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
    /// A driver for the device behind `transport`, which has the addresses of the rings of `pairs`.
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

    /// The features that HELLO negotiated.
    #[must_use]
    pub fn features(&self) -> FeatureSet {
        self.features
    }

    /// The transport.
    pub fn transport(&mut self) -> &mut T {
        &mut self.transport
    }

    /// The rings, for tests that misuse them.
    pub fn pairs(&mut self) -> &mut [Pair] {
        &mut self.pairs
    }

    /// The guest's memory, the rings and the transport, for setting the transport up again.
    pub fn parts(&mut self) -> (&Guest, &[Pair], &mut T) {
        (&self.guest, &self.pairs, &mut self.transport)
    }

    /// The backend died. Takes the chains that it completed; of others it may have written a part,
    /// which the next backend must not.
    pub fn backend_died(&mut self) {
        for number in 0..self.pairs.len() {
            self.reap(number);
            let Pair { receive, transmit } = &mut self.pairs[number];
            receive.clear_posted(&self.guest);
            transmit.abandon_commands(&self.guest);
        }
    }

    // ---- receive
    // ----------------------------------------------------------------------------------------

    /// Posts `count` chains of any shape.
    pub fn post(&mut self, queue: u16, shape: Shape, count: usize) {
        self.post_lengths(queue, &vec![shape.lengths(); count]);
    }

    /// New buffers start this many bytes behind a multiple of 64.
    pub fn displace_buffers(&mut self, by: u64) {
        self.guest.displace(by);
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

    /// RXQ_STOP: returns the number of chains returned unused, which must agree with the ring.
    ///
    /// # Errors
    ///
    /// The device refuses.
    ///
    /// # Panics
    ///
    /// The numbers differ.
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
        // Chains of the wrong shape may have been returned just before the stop.
        assert!(
            (right..=right + wrong).contains(&count),
            "the stop reports {count} chains; {right} were returned, and {wrong} of the wrong shape"
        );
        receive.set_shape(None);
        Ok(count)
    }

    /// The oldest frame of a queue; waits for one.
    ///
    /// # Panics
    ///
    /// No frame or event arrives.
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

    /// The oldest received frame, without waiting.
    pub fn try_receive(&mut self, queue: u16) -> Option<Received> {
        self.reap(usize::from(queue));
        self.pairs[usize::from(queue)].receive.take_frame()
    }

    /// All received frames of all queues, without waiting.
    pub fn receive_all(&mut self) -> Vec<(u16, Received)> {
        let mut frames = Vec::new();
        for queue in 0..self.pairs.len() as u16 {
            while let Some(frame) = self.try_receive(queue) {
                frames.push((queue, frame));
            }
        }
        frames
    }

    /// Chains returned unused since the last call.
    pub fn take_returned(&mut self, queue: u16) -> u32 {
        self.reap(usize::from(queue));
        self.pairs[usize::from(queue)].receive.take_returned()
    }

    /// Receive chains that the device has.
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
    /// No frame or event arrives.
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

    // ---- transmit
    // ---------------------------------------------------------------------------------------

    /// TXQ_START.
    ///
    /// # Errors
    ///
    /// The device refuses.
    pub fn start_transmit(&mut self, queue: u16) -> Result<()> {
        self.queue_command(Opcode::TxqStart, queue).map(|_| ())
    }

    /// TXQ_STOP: returns the number of chains returned unsent.
    ///
    /// # Errors
    ///
    /// The device refuses.
    ///
    /// # Panics
    ///
    /// The device keeps a chain.
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

    /// Sends a frame and waits until the device has completed it; by then the other port has
    /// received it.
    ///
    /// # Panics
    ///
    /// The device does not complete it.
    pub fn send(&mut self, queue: u16, packet: impl Into<Packet>) {
        self.enqueue(queue, packet);
        self.flush(queue);
    }

    /// Makes a frame available; waits only for room on the ring.
    ///
    /// # Panics
    ///
    /// The ring stays full.
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
    /// The device does not complete them.
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

    /// The transmit timestamp of the oldest frame that asked for one and was not taken yet; `None`:
    /// the device wrote none.
    pub fn take_time(&mut self, queue: u16) -> Option<u64> {
        self.reap(usize::from(queue));
        self.pairs[usize::from(queue)].transmit.take_time()
    }

    /// Transmit chains that the device has.
    #[must_use]
    pub fn unsent(&self, queue: u16) -> usize {
        self.pairs[usize::from(queue)].transmit.outstanding()
    }

    // ---- a plain driver
    // ---------------------------------------------------------------------------------

    /// Makes this an ordinary virtio-net driver with mergeable buffers of `size` bytes.
    pub fn act_plain(&mut self, size: u32) {
        self.role = Role::Plain;
        for pair in &mut self.pairs {
            pair.receive.set_shape(Some(Shape::VirtioNet { size }));
        }
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
