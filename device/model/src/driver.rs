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

    // ---- receive ----------------------------------------------------------------------------------------

    /// Posts `count` chains of a shape, whatever the queue was started with.
    pub fn post(&mut self, queue: u16, shape: Shape, count: usize) {
        self.post_lengths(queue, &vec![shape.lengths(); count]);
    }

    /// From now on buffers start this many bytes behind a multiple of 64.
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

    /// When the oldest frame was sent that asked for it and is not told of yet; `None`: nobody says.
    pub fn take_time(&mut self, queue: u16) -> Option<u64> {
        self.reap(usize::from(queue));
        self.pairs[usize::from(queue)].transmit.take_time()
    }

    /// Transmit chains that the device has.
    #[must_use]
    pub fn unsent(&self, queue: u16) -> usize {
        self.pairs[usize::from(queue)].transmit.outstanding()
    }

    // ---- a plain driver ---------------------------------------------------------------------------------

    /// From now on this is an ordinary virtio-net driver with mergeable buffers of `size` bytes.
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
